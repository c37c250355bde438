"""A trained heatmap network as teacher: its keypoints for any crop, averaged over mirror images and window sizes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from probpose_ros.codec import AREA_PER_BOX
from probpose_ros.geometry import bbox_to_window
from probpose_ros.oks import oks, oks_variance
from probpose_ros.skeleton import FLIP_INDEX, NUM_KEYPOINTS

CROP_SIZE = (192, 256)
CELL = 4  # crop px of a map cell
_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


@dataclass(frozen=True)
class TeacherPose:
    """keypoints (17, 2) image px; confidence (17,) in [0, 1]: mean peak times the windows' agreement (OKS)."""

    keypoints: np.ndarray
    confidence: np.ndarray


class TinyPoseTeacher:
    """PP-TinyPose 256x192 in ncnn format (RGB, ImageNet normalisation, output 17 x 64 x 48 heatmaps).

    It was trained with the older crop convention, not UDP: the window's corners meet the crop's corners at factors
    width/sw, a map cell is 4 crop px, and a mirrored map is moved by one cell. Read the UDP way it loses 4 AP.
    """

    def __init__(self, param: Path, weights: Path, threads: int = 1, paddings: tuple[float, ...] = (1.15, 1.4)) -> None:
        import ncnn

        self._ncnn, self._net, self.paddings = ncnn, ncnn.Net(), paddings
        self._net.opt.num_threads = threads
        if self._net.load_param(str(param)) or self._net.load_model(str(weights)):
            raise ValueError(f"not an ncnn network: {param}, {weights}")
        self._input, self._output = self._net.input_names()[0], self._net.output_names()[0]

    def heatmaps(self, crop: np.ndarray) -> np.ndarray:
        """(256, 192, 3) uint8 BGR -> (17, 64, 48) float32, the mean of the crop's and its mirror image's."""
        mirrored = self.forward(crop[:, ::-1])[FLIP_INDEX][:, :, ::-1]
        mirrored[:, :, 1:] = mirrored[:, :, :-1].copy()
        return (self.forward(crop) + mirrored) / 2

    def forward(self, crop: np.ndarray) -> np.ndarray:
        tensor = network_input(crop)
        extractor = self._net.create_extractor()
        extractor.input(self._input, self._ncnn.Mat(tensor).clone())  # without clone() ncnn reads freed memory
        return np.array(extractor.extract(self._output)[1])

    def __call__(self, image: np.ndarray, bbox: np.ndarray) -> TeacherPose:
        """Pose of the person in ``bbox`` (x_min, y_min, x_max, y_max, image px) of a uint8 BGR image."""
        points, peaks = [], []
        for padding in self.paddings:
            crop, scale, origin = classic_crop(image, bbox, padding)
            xy, peak = dark_decode(self.heatmaps(crop))
            points.append(xy * CELL / scale + origin)
            peaks.append(peak)
        xy, peak = np.array(points), np.clip(np.array(peaks), 0, 1)
        mean = (xy * peak[..., None]).sum(0) / np.maximum(peak.sum(0), 1e-6)[:, None]
        area = AREA_PER_BOX * np.prod(bbox_to_window(bbox, 0.75, 1.0)[1])
        agreement = oks(((xy - mean) ** 2).sum(-1).max(0), oks_variance(area))
        return TeacherPose(mean, peak.mean(0) * agreement)


def network_input(crop: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 BGR -> (3, H, W) float32 RGB, normalised as on ImageNet."""
    return np.ascontiguousarray(((crop[:, :, ::-1] / np.float32(255) - _MEAN) / _STD).transpose(2, 0, 1))


def classic_crop(image: np.ndarray, bbox: np.ndarray, padding: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The crop (256, 192, 3) of the convention before UDP: crop px = (image px - origin) * scale, both (2,)."""
    center, window = bbox_to_window(bbox, CROP_SIZE[0] / CROP_SIZE[1], padding)
    scale, origin = np.array(CROP_SIZE) / window, center - window / 2
    return cv2.warpAffine(image, np.column_stack([np.diag(scale), -scale * origin]), CROP_SIZE), scale, origin


def dark_decode(heatmaps: np.ndarray, blur: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Distribution-aware decode (Zhang et al., CVPR 2020): argmax, then one Newton step on the log of the blurred map.

    Args:
        heatmaps: (K, h, w) float32.
        blur: side of the Gaussian in map px, odd.

    Returns:
        (K, 2) map px and (K,) peak values.
    """
    _, h, w = heatmaps.shape
    points, peaks = np.zeros((len(heatmaps), 2)), np.zeros(len(heatmaps))
    for k, heatmap in enumerate(heatmaps):
        y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
        points[k], peaks[k] = (x, y), heatmap[y, x]
        if not (1 < x < w - 2 and 1 < y < h - 2):
            continue
        smooth = np.log(np.maximum(cv2.GaussianBlur(heatmap, (blur, blur), 0), 1e-10))
        gradient = np.array([smooth[y, x + 1] - smooth[y, x - 1], smooth[y + 1, x] - smooth[y - 1, x]]) / 2
        dxx = smooth[y, x + 1] - 2 * smooth[y, x] + smooth[y, x - 1]
        dyy = smooth[y + 1, x] - 2 * smooth[y, x] + smooth[y - 1, x]
        dxy = (smooth[y + 1, x + 1] - smooth[y + 1, x - 1] - smooth[y - 1, x + 1] + smooth[y - 1, x - 1]) / 4
        hessian = np.array([[dxx, dxy], [dxy, dyy]])
        if np.linalg.det(hessian) > 1e-12:
            points[k] -= np.clip(np.linalg.solve(hessian, gradient), -1, 1)
    return points, peaks


def merge_labels(
    labelled: np.ndarray, visibility: np.ndarray, teacher: TeacherPose, variance: np.ndarray,
    keep: float = 0.35, contradiction: float = 0.2,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Labels where there are any, the teacher elsewhere; neither where both are sure and contradict each other.

    Args:
        labelled: (17, 2) image px; visibility: (17,) COCO v, 0 = unlabelled.
        variance: (17,) OKS variance of this person, image px^2.
        keep: least teacher confidence. contradiction: OKS between label and teacher below which both are dropped.

    Returns:
        keypoints (17, 2) and a weight (17,) in [0, 1], 0 = unknown.
    """
    assert labelled.shape == (NUM_KEYPOINTS, 2)
    agreement = oks(((labelled - teacher.keypoints) ** 2).sum(-1), variance)
    sure = teacher.confidence >= keep
    has_label = visibility > 0
    points = np.where(has_label[:, None], labelled, teacher.keypoints)
    weight = np.where(has_label, 1.0, np.where(sure, teacher.confidence, 0.0))
    weight[has_label & (teacher.confidence >= 0.6) & (agreement < contradiction)] = 0.0
    return points, weight
