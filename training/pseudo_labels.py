"""Pseudo-labels: a teacher's keypoints for the persons of an image set, written as COCO-format annotations.

``python -m probpose_training.pseudo_labels --images DIR --boxes people.json --teacher DIR --out B.json``, or
``--annotations A.json`` instead of ``--boxes``.

Each annotation gets ``keypoint_weights``: 17 numbers in [0, 1]; 0 means unknown, which is never taken for absent.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from probpose_ros.codec import AREA_PER_BOX
from probpose_ros.oks import oks_variance
from probpose_training.coco import read_coco
from probpose_training.teacher import TinyPoseTeacher, merge_labels


def drop_nested(boxes: np.ndarray, inside: float = 0.8) -> np.ndarray:
    """Boxes (N, 5: x_min, y_min, x_max, y_max, score) without those mostly inside a larger, better one."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    keep = []
    for i, box in enumerate(boxes):
        size = np.minimum(box[2:4], boxes[:, 2:4]) - np.maximum(box[:2], boxes[:, :2])
        share = np.prod(np.clip(size, 0, None), axis=1) / max(area[i], 1e-6)
        keep.append(not ((share > inside) & (area > area[i]) & (boxes[:, 4] > box[4])).any())
    return boxes[np.array(keep, dtype=bool)]


def persons_of_boxes(path: Path, least_score: float, least_side: float) -> list[dict]:
    """Images with detector boxes ([{file, width, height, boxes: [[x0, y0, x1, y1, score]]}]) as COCO-like entries."""
    entries = []
    for image in json.loads(path.read_text()):
        boxes = drop_nested(np.array(image["boxes"], dtype=float).reshape(-1, 5))
        boxes = boxes[(boxes[:, 4] >= least_score) & ((boxes[:, 2:4] - boxes[:, :2]).max(1) >= least_side)]
        entries.append({"file_name": image["file"], "persons": [{"bbox": box[:4]} for box in boxes]})
    return entries


def persons_of_annotations(path: Path) -> list[dict]:
    """The usable persons of a COCO-format file."""
    coco = read_coco(path)
    entries = {image_id: {"file_name": image.file_name, "persons": []} for image_id, image in coco.images.items()}
    rows = zip(coco.image_ids.tolist(), coco.bboxes, coco.keypoints, coco.visibility, strict=True)
    for image_id, bbox, keypoints, visibility in rows:
        person = {"bbox": bbox, "keypoints": np.column_stack([keypoints, visibility])}
        entries[image_id]["persons"].append(person)
    return list(entries.values())


def at_border(points: np.ndarray, image_shape: tuple[int, ...], bbox: np.ndarray, margin: float = 0.02) -> np.ndarray:
    """Whether points (K, 2) lie outside the image or nearer to its edge than ``margin`` of the bbox's longer side.

    Where the frame cuts a person, a teacher that cannot say "outside" puts the joint on the edge.
    """
    least = margin * max(bbox[2] - bbox[0], bbox[3] - bbox[1])
    size = np.array([image_shape[1], image_shape[0]]) - 1
    return ((points < least) | (points > size - least)).any(axis=1)


def label(entries: list[dict], images: Path, teacher: TinyPoseTeacher) -> dict:
    """The COCO-format dictionary of all persons that keep at least four joints."""
    coco: dict = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person"}], "skipped": 0}
    for image_id, entry in enumerate(tqdm(entries, unit="image", desc="teacher")):
        image = cv2.imread(str(images / entry["file_name"]))
        if image is None:
            raise ValueError(f"{images / entry['file_name']}: not a readable image")
        height, width = image.shape[:2]
        coco["images"].append({"id": image_id, "file_name": entry["file_name"], "width": width, "height": height})
        for person in entry["persons"]:
            bbox = person["bbox"]
            labelled = person.get("keypoints", np.zeros((17, 3)))
            area = AREA_PER_BOX * float(np.prod(bbox[2:] - bbox[:2]))
            points, weight = merge_labels(labelled[:, :2], labelled[:, 2], teacher(image, bbox), oks_variance(area))
            weight[(labelled[:, 2] == 0) & at_border(points, image.shape, bbox)] = 0
            if (weight > 0).sum() < 4:
                coco["skipped"] += 1
                continue
            known = weight > 0
            visibility = np.where(labelled[:, 2] > 0, labelled[:, 2], 2) * known
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1, "image_id": image_id, "category_id": 1, "iscrowd": 0,
                    "area": area,
                    "bbox": [round(float(v), 2) for v in (*bbox[:2], *(bbox[2:] - bbox[:2]))],
                    "keypoints": np.column_stack([points.round(2) * known[:, None], visibility]).ravel().tolist(),
                    "keypoint_weights": weight.round(3).tolist(), "num_keypoints": int(known.sum()),
                }
            )  # fmt: skip
    return coco


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--boxes", type=Path, help="detector boxes, as in people.json")
    source.add_argument("--annotations", type=Path, help="COCO-format labels; the teacher adds what they lack")
    parser.add_argument("--teacher", type=Path, required=True, help="folder with tinypose_256x192.param and .bin")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--least-score", type=float, default=0.4, help="of a box (default 0.4)")
    parser.add_argument("--least-side", type=float, default=48, help="longer side of a box in px (default 48)")
    args = parser.parse_args()
    if args.boxes:
        entries = persons_of_boxes(args.boxes, args.least_score, args.least_side)
    else:
        entries = persons_of_annotations(args.annotations)
    name = args.teacher / "tinypose_256x192"
    coco = label(entries, args.images, TinyPoseTeacher(name.with_suffix(".param"), name.with_suffix(".bin")))
    args.out.write_text(json.dumps(coco))
    print(f"{args.out}: {len(coco['annotations'])} persons, {coco['skipped']} skipped (fewer than four joints)")


if __name__ == "__main__":
    main()
