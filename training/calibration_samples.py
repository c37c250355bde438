"""Labelled keypoints beside what the pipeline says of them: what a calibration is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from probpose_ros.oks import oks, oks_variance
from probpose_ros.pipeline import Pipeline, StageClock
from probpose_ros.regions import is_distribution
from probpose_ros.skeleton import FLIP_INDEX, JOINT_TYPE
from probpose_training.coco import CocoError, CocoKeypoints, read_image
from probpose_training.crop_augmentation import UNLABELLED
from probpose_training.evaluate import GivenBoxes, match_boxes
from probpose_training.temperature import Logits


@dataclass(frozen=True)
class Samples:
    """N labelled keypoints of P persons.

    maps: (P, K, h, w) float32. cell_px, box_px: (P,) area of a map's cell and of the box, image px^2.
    person, joint, photograph: (N,) int indices; photographs are numbered, a crop has that of its source.
    points, decoded: (N, 2) the truth and the prediction, map px. presence, quality: (N,) as predicted.
    oks: (N,) of the prediction. visibility: (N,) as labelled.
    logits: (N, h, w) of the maps, None where the model file does not tell them.
    persons: how many were annotated; those without a matching box are not among the P, and no region covers them.
    """

    maps: np.ndarray
    cell_px: np.ndarray
    box_px: np.ndarray
    person: np.ndarray
    joint: np.ndarray
    photograph: np.ndarray
    points: np.ndarray
    decoded: np.ndarray
    presence: np.ndarray
    quality: np.ndarray
    oks: np.ndarray
    visibility: np.ndarray
    logits: np.ndarray | None
    persons: int

    def __len__(self) -> int:
        return len(self.person)

    @property
    def joint_type(self) -> np.ndarray:
        """(N,) indices of JOINT_TYPES."""
        return JOINT_TYPE[self.joint]

    @property
    def cells(self) -> np.ndarray:
        """(N, 2) int x, y of the cell that holds the truth; outside the map where it is not present."""
        return np.floor(self.points + 0.5).astype(int)

    @property
    def present(self) -> np.ndarray:
        """(N,) bool: the truth lies in one of the map's cells."""
        h, w = self.maps.shape[2:]
        return ((self.cells >= 0) & (self.cells < (w, h))).all(axis=1)  # type: ignore[return-value]

    def own(self, rows: np.ndarray) -> np.ndarray:
        """(n, h, w) maps of these keypoints."""
        return self.maps[self.person[rows], self.joint[rows]]

    def mirrored(self, rows: np.ndarray) -> np.ndarray:
        """(n, h, w) maps of the same joints on the other side."""
        return self.maps[self.person[rows], FLIP_INDEX[self.joint[rows]]]


def collect(pipeline: Pipeline, sets: Sequence[tuple[CocoKeypoints, str]], logits: Logits | None = None) -> Samples:
    """Run the networks on every image; a keypoint whose map is no distribution is an error of the model, not a sample.

    Args:
        pipeline: with its detector, or with GivenBoxes, which then get the annotated ones.
        sets: annotations and the folder of their images.
        logits: reads them from the same model file.
    """
    names: dict[str, int] = {}
    persons: list[tuple] = []
    keypoints: list[tuple] = []
    all_logits: list[np.ndarray] = []
    annotated = 0
    for dataset, folder in sets:
        sources = {image["id"]: image.get("source", image["file_name"]) for image in dataset.raw["images"]}
        for entry in tqdm(dataset.images.values(), unit="image", desc="calibrate"):
            here = np.flatnonzero(dataset.image_ids == entry.id)
            if not len(here):
                continue
            annotated += len(here)
            try:
                image = read_image(folder, entry)
            except CocoError as error:
                tqdm.write(f"skipped: {error}")
                continue
            if isinstance(pipeline.detector, GivenBoxes):
                pipeline.detector.show(entry.id, dataset.bboxes[here])
            (found,), (transforms,), poses = pipeline.poses([image], StageClock())
            codec = pipeline.pose.codec
            photograph = names.setdefault(sources[entry.id], len(names))
            for p, row in match_boxes(dataset.bboxes[here], found.boxes):
                person, transform = here[p], transforms[row]
                to_image = np.linalg.inv(transform.matrix[:, :2])
                step = codec.to_crop(np.ones(2)) - codec.to_crop(np.zeros(2))
                assert poses.probmap is not None  # the caller has seen to it
                known = is_distribution(poses.probmap[row]) & np.isfinite(poses.quality[row])
                joint = np.flatnonzero((dataset.visibility[person] > UNLABELLED) & known)
                truth, answer = dataset.keypoints[person, joint], transform.to_image(poses.keypoints[row, joint])
                distance = ((truth - answer) ** 2).sum(axis=-1)
                variance = oks_variance(dataset.areas[person] + np.spacing(1))
                box = found.boxes[row].astype(float)
                keypoints += zip(
                    [len(persons)] * len(joint), joint, [photograph] * len(joint),
                    codec.to_map(transform.to_crop(truth)), codec.to_map(poses.keypoints[row, joint]),
                    poses.presence[row, joint], poses.quality[row, joint],
                    oks(distance, variance[joint]), dataset.visibility[person, joint], strict=True,
                )  # fmt: skip
                if logits:
                    all_logits += list(logits(transform.warp(image)[None])[0, joint])
                cell = abs(np.linalg.det(to_image)) * step.prod()
                persons.append((poses.probmap[row], cell, (box[2:] - box[:2]).prod()))
    if not keypoints:
        raise CocoError("no labelled keypoint of a person that has a box; nothing to calibrate with")
    maps, cell_px, box_px = (np.array(column) for column in zip(*persons, strict=True))
    columns = (np.array(column) for column in zip(*keypoints, strict=True))
    person, joint, photo, points, decoded, presence, quality, similarity, visibility = columns
    return Samples(
        maps, cell_px, box_px, person, joint, photo, points, decoded, presence, quality, similarity, visibility,
        np.array(all_logits) if logits else None, annotated,
    )  # fmt: skip
