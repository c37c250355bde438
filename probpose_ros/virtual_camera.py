"""A camera that pans and zooms over two real photographs, so that body parts leave the frame.

The photographs are scikit-image's ``astronaut`` (a person cut at the waist) and ``camera`` (a man bent over a tripod).
A sensor's noise lies over them, as no two images of a camera are the same.
Deterministic: the same frames every time.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

SIZE = (640, 480)  # width, height of a frame in px
NOISE = 1.0  # standard deviation, levels of 255

# Key views of a photograph: (centre x, centre y, width of the view), photo px.
WHOLE = (256, 256, 683)
VIEWS = {
    "astronaut": (WHOLE, WHOLE, (256, 200, 500), (200, 330, 400), (330, 260, 420), (225, 150, 400), WHOLE),
    "camera": (WHOLE, WHOLE, (230, 200, 512), (200, 340, 420), (330, 220, 420), (220, 160, 400), WHOLE),
}


def camera_matrix(width: int, height: int) -> np.ndarray:
    """(3, 3) float64 pinhole assumed for a camera nobody calibrated: focal length = image width (53 degrees across).

    Good for looking at markers; metres measured with it are not to be relied on.
    """
    return np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])


class VirtualCamera:
    """Iterates over ``frames`` images (480, 640, 3) uint8 BGR; one person first, the other in the second half."""

    def __init__(self, frames: int = 150) -> None:
        if frames < 2:
            raise ValueError(f"frames = {frames}: must be a whole number of at least 2")
        self.frames = frames

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        grey = rng.normal(0, NOISE, (SIZE[1], SIZE[0], 1)).round().astype(np.int16)
        noise = np.repeat(grey, 3, axis=2)
        half = self.frames // 2
        for name, count in (("astronaut", half), ("camera", self.frames - half)):
            photo = _photograph(name)
            for position in np.linspace(0, len(VIEWS[name]) - 1, count):
                shift = tuple(rng.integers(0, SIZE[1], 2))  # one field of noise, somewhere else in every frame
                view = _look(photo, _view(VIEWS[name], position))
                yield cv2.add(view, np.roll(noise, shift, (0, 1)), dtype=cv2.CV_8U)


def _photograph(name: str) -> np.ndarray:
    try:
        from skimage import data
    except ImportError as error:
        raise OSError("the virtual camera's photographs are in scikit-image: pip install scikit-image") from error
    photo = getattr(data, name)()
    return cv2.cvtColor(photo, cv2.COLOR_GRAY2BGR if photo.ndim == 2 else cv2.COLOR_RGB2BGR)


def _view(views: tuple[tuple[int, int, int], ...], position: float) -> np.ndarray:
    """The view at ``position`` (0: first key view, 1: second, ...), with soft starts and stops."""
    index = min(int(position), len(views) - 2)
    t = position - index
    t = t * t * (3 - 2 * t)
    return (1 - t) * np.array(views[index], float) + t * np.array(views[index + 1], float)


def _look(photo: np.ndarray, view: np.ndarray) -> np.ndarray:
    x, y, width = view
    zoom = SIZE[0] / width
    matrix = np.array([[zoom, 0, (SIZE[0] - 1) / 2 - zoom * x], [0, zoom, (SIZE[1] - 1) / 2 - zoom * y]])
    return cv2.warpAffine(photo, matrix, SIZE, flags=cv2.INTER_LINEAR if zoom > 1 else cv2.INTER_AREA)
