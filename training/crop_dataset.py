"""CropCOCO-style sets: photographs cut so that annotated people leave the image, labels kept (paper, section 4.2)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from probpose_ros.skeleton import EDGES, KEYPOINT_NAMES
from probpose_training.coco import CocoError, CocoKeypoints, parse_coco, read_coco, read_image, skip_report
from probpose_training.crop_augmentation import OUTSIDE_IMAGE, UNLABELLED, clip_bbox, crop_augment, outside
from probpose_training.metrics.exoks import min_padding

ANNOTATIONS = "annotations.json"
TOO_LITTLE_LEFT = "too little left in the crop"
IMAGE_UNREADABLE = "image cannot be read"


@dataclass(frozen=True)
class CropPolicy:
    """How to cut; the defaults bring the domain of COCO images near the paper's CropCOCO row.

    crops: cropped copies of an image at most, each around another random person.
    kept, context: see :func:`crop_augment`.
    min_box: least share of a person's bbox that must stay in the image, min_keypoints: least number of labelled
    keypoints; a person with less is dropped.
    """

    crops: int = 3
    kept: tuple[float, float] = (0.7, 0.85)
    context: float = 1.0
    min_box: float = 0.3
    min_keypoints: int = 3

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise ValueError(f"crops must be at least 1, got {self.crops}")


def crop_person(
    dataset: CocoKeypoints, person: int, rectangle: tuple[int, int, int, int], policy: CropPolicy
) -> dict | None:
    """The COCO annotation of one person in the frame of the crop, or None if too little of it is left.

    The area shrinks with the bbox. A labelled keypoint outside the crop gets v = 3.
    """
    bbox = clip_bbox(dataset.bboxes[person], rectangle)
    sides = np.maximum(bbox[2:] - bbox[:2], 0)
    share = float(sides.prod() / (dataset.bboxes[person, 2:] - dataset.bboxes[person, :2]).prod())
    keypoints, visibility = dataset.keypoints[person], dataset.visibility[person]
    labelled, hidden = visibility > UNLABELLED, outside(keypoints, rectangle)
    if share < policy.min_box or (labelled & ~hidden).sum() < policy.min_keypoints:
        return None
    origin = np.array(rectangle[:2])
    keypoints = np.where(labelled[:, None], keypoints - origin, 0)
    visibility = np.where(labelled & hidden, OUTSIDE_IMAGE, visibility)
    bbox_xywh = np.concatenate([bbox[:2] - origin, sides])
    return {
        "source_id": int(dataset.ids[person]),
        "category_id": 1,
        "iscrowd": 0,
        "bbox": bbox_xywh.round(2).tolist(),
        "area": round(float(dataset.areas[person]) * share, 2),
        "area_is_estimate": True,
        "keypoints": np.column_stack([keypoints.round(2), visibility]).ravel().tolist(),
        "num_keypoints": int(labelled.sum()),
        "pad_to_contain": min_padding(bbox_xywh, keypoints, visibility).round(4).tolist(),
    }


def crop_dataset(
    annotations: str | Path, images: str | Path, out: str | Path, seed: int, policy: CropPolicy = CropPolicy()
) -> tuple[CocoKeypoints, Counter[str]]:
    """Write ``out/annotations.json`` and ``out/images/``; returns the new set, and what was left out by reason.

    Each image has its own random stream, so that its crops do not depend on the other images. An image's ``source``
    names the photograph it is cut from: crops of one photograph are not independent.
    """
    dataset = read_coco(annotations)
    folder = Path(out) / "images"
    folder.mkdir(parents=True, exist_ok=True)
    skipped = dataset.skipped
    entries: list[dict] = []
    persons: list[dict] = []
    for entry in tqdm(dataset.images.values(), unit="image", desc="crop"):
        here = np.flatnonzero(dataset.image_ids == entry.id)
        if not len(here):
            continue
        try:
            image = read_image(images, entry)
        except CocoError as error:
            tqdm.write(f"skipped: {error}")
            skipped[IMAGE_UNREADABLE] += len(here)
            continue
        rng = np.random.default_rng((seed, abs(entry.id)))
        for anchor in rng.permutation(here)[: policy.crops]:
            rectangle = crop_augment(image.shape, dataset.bboxes[anchor], rng, policy.kept, policy.context)
            cropped = [person for p in here if (person := crop_person(dataset, int(p), rectangle, policy))]
            skipped[TOO_LITTLE_LEFT] += len(here) - len(cropped)
            if not cropped:
                continue
            image_id = len(entries) + 1
            file_name = f"{image_id:06d}.jpg"
            x0, y0, x1, y1 = rectangle
            if not cv2.imwrite(str(folder / file_name), image[y0:y1, x0:x1], [cv2.IMWRITE_JPEG_QUALITY, 95]):
                raise OSError(f"{folder / file_name}: cannot be written")
            size = {"width": x1 - x0, "height": y1 - y0}
            entries.append(
                {"id": image_id, "file_name": file_name, **size, "source": entry.file_name, "crop": rectangle}
            )
            persons += [{"id": len(persons) + n, "image_id": image_id, **p} for n, p in enumerate(cropped, 1)]
    if not persons:
        raise CocoError(f"{annotations}: no person is left; {skip_report(0, skipped)}")
    content = {
        "info": {"description": "Cropped images; v = 3: outside the image", "seed": seed, "policy": vars(policy)},
        "images": entries,
        "annotations": persons,
        "categories": [
            {"id": 1, "name": "person", "keypoints": KEYPOINT_NAMES, "skeleton": [[a + 1, b + 1] for a, b in EDGES]}
        ],
    }
    (Path(out) / ANNOTATIONS).write_text(json.dumps(content))
    return parse_coco(content, str(Path(out) / ANNOTATIONS)), +skipped
