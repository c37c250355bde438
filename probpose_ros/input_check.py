"""Whether the images of a camera can be trusted: a frozen, black or jumping stream must not read as "nobody there"."""

from __future__ import annotations

import cv2
import numpy as np

SAMPLES = 120  # along the image's shorter side: enough to tell two noisy images apart, and cheap at any size


class InputCheck:
    """What one camera's stream looked like so far. Knows no ROS; times in seconds, stamps in nanoseconds."""

    def __init__(self) -> None:
        self._size: tuple[int, ...] | None = None
        self._stamp = 0
        self._seen: np.ndarray | None = None
        self._since, self._repeats = 0.0, 0

    def doubt(self, image: np.ndarray, stamp: int, arrived: float, frozen_after: float, min_contrast: float) -> str:
        """Why nothing can be said about this image (H, W, 3) uint8; empty if it can be trusted.

        frozen_after: s of identical images that are taken for a frozen camera; 0: never.
        min_contrast: levels between the darkest and the brightest 1 % of the pixels; 0: any.
        """
        size, self._size = self._size, image.shape[:2]
        last, self._stamp = self._stamp, stamp
        step = max(1, min(self._size) // SAMPLES)
        sample = np.ascontiguousarray(image[::step, ::step, 1])
        still_for = self._still_for(sample, arrived)

        if size not in (None, self._size):
            return f"the image size changed from {size[1]} x {size[0]} to {image.shape[1]} x {image.shape[0]} px"
        if stamp < last:
            return f"the image's stamp is {(last - stamp) / 1e6:.1f} ms before the one before it: the clock jumped"
        if 0 < frozen_after <= still_for and self._repeats >= 2:
            return f"the image has not changed by a single pixel for {still_for:.2f} s: frozen"
        dark, bright = percentiles(sample, (1, 99))
        if bright - dark < min_contrast:
            return f"98 % of the pixels lie between {dark:.0f} and {bright:.0f} of 255: black, saturated or covered"
        return ""

    def _still_for(self, sample: np.ndarray, arrived: float) -> float:
        """Seconds since the first of the identical images that end with this one."""
        if self._seen is not None and np.array_equal(sample, self._seen):
            self._repeats += 1
        else:
            self._seen, self._since, self._repeats = sample, arrived, 0
        return arrived - self._since


def percentiles(pixels: np.ndarray, percent: tuple[float, ...]) -> np.ndarray:
    """Levels of uint8 pixels that these shares do not exceed; a tenth of the time that np.percentile takes."""
    counts = cv2.calcHist([pixels], [0], None, [256], [0, 256])
    return np.searchsorted(counts.cumsum(), np.array(percent) / 100 * pixels.size)
