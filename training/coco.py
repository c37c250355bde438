"""Reading COCO-format keypoint annotations: strict on structure, a counted skip for what cannot be used."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import cv2
import numpy as np

from probpose_ros.codec import AREA_PER_BOX
from probpose_ros.skeleton import KEYPOINT_NAMES, NUM_KEYPOINTS
from probpose_ros.untrusted import parse_json, read_bytes
from probpose_training.crop_augmentation import UNLABELLED

MAX_BYTES = 2_000_000_000  # COCO's own largest keypoint file has 240 million
MAX_SIDE = 100_000  # px of an image
MAX_COORDINATE = 1e7  # px
MAX_ID = 2**63 - 1

# Why an annotation is not a usable person.
CROWD = "crowd"
OTHER_CATEGORY = "not a person"
NO_KEYPOINTS = "no labelled keypoint"
EMPTY_BOX = "box without area"
BOX_OUTSIDE = "box outside the image"


class CocoError(ValueError):
    """The file is not what it should be: names the file, the entry and what is wrong."""


@dataclass(frozen=True)
class ImageEntry:
    """An image as the annotation file describes it; sizes in px."""

    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class CocoKeypoints:
    """The usable persons of an annotation file, in its order; P persons, K = 17.

    images: by id, all of them.
    ids, image_ids: (P,) int.
    bboxes: (P, 4) float64 x_min, y_min, x_max, y_max, image px; as annotated, so they may leave the image.
    areas: (P,) px^2.
    keypoints: (P, K, 2) image px; may lie outside the image.
    visibility: (P, K) int: 0 unlabelled, 1 occluded, 2 visible, 3 outside the image.
    weights: (P, K) in [0, 1], key ``keypoint_weights``; without it 1, and always 0 where unlabelled.
    pad_to_contain: (P, K), NaN where the file does not give it.
    left_out: the reason by annotation id, for those that are no usable person.
    raw: the file's content.
    """

    images: dict[int, ImageEntry]
    ids: np.ndarray
    image_ids: np.ndarray
    bboxes: np.ndarray
    areas: np.ndarray
    keypoints: np.ndarray
    visibility: np.ndarray
    weights: np.ndarray
    pad_to_contain: np.ndarray
    left_out: dict[int, str]
    raw: dict = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def skipped(self) -> Counter[str]:
        """How many annotations were left out, by reason."""
        return Counter(self.left_out.values())

    def for_evaluation(self, image_ids: set[int]) -> dict:
        """COCO content to score against: these images, with the keys that evaluators need.

        Usable persons, and those that evaluators ignore rather than miss: crowds and persons without labels.
        """
        annotations = []
        for annotation in self.raw["annotations"]:
            reason = self.left_out.get(annotation["id"])
            if annotation["image_id"] not in image_ids or reason not in (None, CROWD, NO_KEYPOINTS):
                continue
            keypoints = annotation.get("keypoints") or [0] * 3 * NUM_KEYPOINTS
            area = annotation.get("area")
            annotations.append(
                {
                    **annotation,
                    "category_id": 1,
                    "keypoints": keypoints,
                    "num_keypoints": sum(v > UNLABELLED for v in keypoints[2::3]),
                    "area": AREA_PER_BOX * annotation["bbox"][2] * annotation["bbox"][3] if area is None else area,
                    "iscrowd": annotation.get("iscrowd", 0),
                }
            )
        images = [image for image in self.raw["images"] if image["id"] in image_ids]
        return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}


def skip_report(persons: int, skipped: Counter[str]) -> str:
    """One line.

    >>> skip_report(205, Counter({"crowd": 2}))
    '205 persons; skipped 2: crowd 2'
    """
    reasons = ", ".join(f"{reason} {count}" for reason, count in skipped.items() if count)
    return f"{persons} persons; skipped {sum(skipped.values())}" + (f": {reasons}" if reasons else "")


def read_coco(path: str | Path) -> CocoKeypoints:
    """Read an annotation file.

    Raises:
        CocoError: it is not JSON, or an entry lacks a key or holds a value that cannot be right.
    """
    path = Path(path)
    try:
        raw = parse_json(read_bytes(path, MAX_BYTES))
    except ValueError as error:
        raise CocoError(f"{path}: {error}") from None
    return parse_coco(raw, str(path))


def parse_coco(raw: dict, name: str = "annotations") -> CocoKeypoints:
    """The same from the file's content; ``name`` is for errors."""
    if (
        not isinstance(raw, dict)
        or not isinstance(raw.get("images"), list)
        or not isinstance(raw.get("annotations"), list)
    ):
        raise CocoError(f"{name}: not a COCO annotation file; it must hold the lists 'images' and 'annotations'")
    person_categories = _person_categories(raw, name)
    images: dict[int, ImageEntry] = {}
    for number, entry in enumerate(raw["images"]):
        image = _image(entry, f"{name}: image {number}")
        if image.id in images:
            raise CocoError(f"{name}: image id {image.id} occurs twice")
        images[image.id] = image

    left_out: dict[int, str] = {}
    persons: dict[int, dict[str, np.ndarray]] = {}
    seen: set[int] = set()
    for number, annotation in enumerate(raw["annotations"]):
        if not isinstance(annotation, dict) or not _is_id(annotation.get("id")):
            raise CocoError(f"{name}: annotation {number} has no whole number 'id'")
        where = f"{name}: annotation {annotation['id']}"
        if annotation["id"] in seen:
            raise CocoError(f"{where}: this id occurs twice")
        seen.add(annotation["id"])
        image_id = annotation.get("image_id")
        if not isinstance(image_id, int) or image_id not in images:
            raise CocoError(f"{where}: image_id {_short(image_id)} is not among the images")
        if person_categories is not None and annotation.get("category_id") not in person_categories:
            left_out[annotation["id"]] = OTHER_CATEGORY
            continue
        person = _person(annotation, where)
        if reason := _reason_to_skip(annotation, person, images[annotation["image_id"]]):
            left_out[annotation["id"]] = reason
        else:
            persons[annotation["id"]] = person

    def column(key: str, *shape: int) -> np.ndarray:
        return np.array([person[key] for person in persons.values()]).reshape(-1, *shape)

    k = NUM_KEYPOINTS
    return CocoKeypoints(
        images=images,
        ids=np.array(list(persons), dtype=int),
        image_ids=column("image_id").astype(int),
        bboxes=column("bbox", 4),
        areas=column("area"),
        keypoints=column("keypoints", k, 2),
        visibility=column("visibility", k).astype(int),
        weights=column("weights", k),
        pad_to_contain=column("pad_to_contain", k),
        left_out=left_out,
        raw=raw,
    )


def read_image(folder: str | Path, entry: ImageEntry) -> np.ndarray:
    """The image (H, W, 3) uint8 BGR, in the size that the annotations mean.

    Raises:
        CocoError: missing, not decodable, or of another size.
    """
    path = Path(folder) / entry.file_name
    if not path.is_file():
        raise CocoError(f"{path}: no such image")
    # Annotations refer to the stored pixels; a camera's EXIF turn must not be applied.
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise CocoError(f"{path}: does not decode as an image")
    height, width = image.shape[:2]
    if (width, height) != (entry.width, entry.height):
        raise CocoError(f"{path}: is {width} x {height} px, the annotations say {entry.width} x {entry.height}")
    return image


def _person_categories(raw: dict, name: str) -> list[int] | None:
    """Ids of the person category; None when the file does not list categories."""
    categories = raw.get("categories")
    if not categories:
        return None
    if not isinstance(categories, list) or not all(isinstance(category, dict) for category in categories):
        raise CocoError(f"{name}: categories must be a list of objects, got {_short(categories)}")
    persons = [category for category in categories if category.get("name") == "person"]
    if not persons:
        raise CocoError(f"{name}: no category 'person'; there are {_short([c.get('name') for c in categories])}")
    for category in persons:
        names = category.get("keypoints")
        if names is not None and (not isinstance(names, (list, tuple)) or tuple(names) != KEYPOINT_NAMES):
            raise CocoError(f"{name}: keypoints must be the 17 of COCO in COCO's order, got {_short(names)}")
        if not isinstance(category.get("id"), int):
            raise CocoError(f"{name}: the category 'person' has no whole number 'id'")
    return [category["id"] for category in persons]


def _image(entry: dict, where: str) -> ImageEntry:
    if not isinstance(entry, dict):
        raise CocoError(f"{where} must be an object, got {type(entry).__name__}")
    for key, kind in (("id", int), ("file_name", str), ("width", int), ("height", int)):
        if not isinstance(entry.get(key), kind):
            raise CocoError(f"{where}: {key} must be {kind.__name__}, got {_short(entry.get(key))}")
    if not _is_id(entry["id"]):
        raise CocoError(f"{where}: id must be at most {MAX_ID}, got {_short(entry['id'])}")
    if not (1 <= entry["width"] <= MAX_SIDE and 1 <= entry["height"] <= MAX_SIDE):
        raise CocoError(
            f"{where}: size must be at least 1 x 1 and at most {MAX_SIDE} px, got {entry['width']} x {entry['height']}"
        )
    file = PurePath(entry["file_name"])
    if file.is_absolute() or ".." in file.parts or "\0" in entry["file_name"]:
        raise CocoError(f"{where}: file_name must be a path below the images' folder, got {_short(entry['file_name'])}")
    return ImageEntry(entry["id"], entry["file_name"], entry["width"], entry["height"])


def _person(annotation: dict, where: str) -> dict[str, np.ndarray]:
    k = NUM_KEYPOINTS
    x, y, w, h = _numbers(annotation, "bbox", 4, where)
    labels = np.zeros((k, 3))
    if annotation.get("keypoints"):
        labels = _numbers(annotation, "keypoints", 3 * k, where).reshape(k, 3)
    visibility = labels[:, 2]
    if not np.isin(visibility, (0, 1, 2, 3)).all():
        raise CocoError(f"{where}: visibility must be 0, 1, 2 or 3, got {visibility.tolist()}")
    area = annotation.get("area")
    if area is None:
        area = AREA_PER_BOX * w * h
    if not isinstance(area, (int, float)) or not 0 <= area <= MAX_COORDINATE**2:
        raise CocoError(f"{where}: area must be a number >= 0, got {_short(area)}")
    weights, pad = np.ones(k), np.full(k, np.nan)
    if "keypoint_weights" in annotation:
        weights = _numbers(annotation, "keypoint_weights", k, where)
        if ((weights < 0) | (weights > 1)).any():
            raise CocoError(f"{where}: keypoint_weights must lie in 0 .. 1, got {weights.tolist()}")
    if "pad_to_contain" in annotation:
        pad = _numbers(annotation, "pad_to_contain", k, where)
    return {
        "image_id": annotation["image_id"],
        "bbox": np.array([x, y, x + w, y + h]),
        "area": np.array(area, dtype=float),
        "keypoints": labels[:, :2],
        "visibility": visibility,
        "weights": weights * (visibility > UNLABELLED),
        "pad_to_contain": pad,
    }


def _numbers(annotation: dict, key: str, count: int, where: str) -> np.ndarray:
    values = annotation.get(key)
    numbers = values if isinstance(values, (list, tuple)) and len(values) == count else [None]
    if not all(isinstance(v, (int, float)) and abs(v) <= MAX_COORDINATE for v in numbers):
        raise CocoError(f"{where}: {key} must be {count} finite numbers, got {_short(values)}")
    return np.array(numbers, dtype=np.float64)


def _is_id(value: object) -> bool:
    return isinstance(value, int) and abs(value) <= MAX_ID


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."


def _reason_to_skip(annotation: dict, person: dict[str, np.ndarray], image: ImageEntry) -> str | None:
    if annotation.get("iscrowd"):
        return CROWD
    x0, y0, x1, y1 = person["bbox"]
    if x1 <= x0 or y1 <= y0:
        return EMPTY_BOX
    if x1 <= 0 or y1 <= 0 or x0 >= image.width or y0 >= image.height:
        return BOX_OUTSIDE
    if not (person["visibility"] > UNLABELLED).any():
        return NO_KEYPOINTS
    return None
