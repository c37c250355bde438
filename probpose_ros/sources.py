"""Where images come from without ROS: an image, a folder of images, a video or GIF, a camera index."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif")


class SourceError(OSError):
    """The source is not there or not readable."""


@dataclass
class Source:
    """Iterate over it for (timestamp in seconds, image (H, W, 3) uint8 BGR).

    length: number of images, None if unknown. fps: of a video or camera, None for pictures.
    names: of the pictures, for naming results.
    """

    frames: Iterator[tuple[float, np.ndarray]]
    length: int | None
    fps: float | None = None
    names: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[tuple[float, np.ndarray]]:
        return self.frames

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("the length of this source is not known")
        return self.length


def open_source(text: str | Path) -> Source:
    """The source of a path or camera index. SourceError if it is missing, of an unknown kind, or not readable."""
    text = str(text)
    path = Path(text).expanduser()
    if text.isdigit() and not path.exists():
        return _camera(int(text))
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            raise SourceError(f"{text}: no images in this folder ({', '.join(IMAGE_SUFFIXES)})")
        return _pictures(files)
    if not path.is_file():
        raise SourceError(f"{text}: no such file, folder or camera index")
    if path.stat().st_size == 0:
        raise SourceError(f"{text}: the file is empty")
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        read_image(path)  # fail now, with the reason, not at the first frame
        return _pictures([path])
    if suffix in VIDEO_SUFFIXES:
        return _video(cv2.VideoCapture(str(path)), text, 25.0)
    raise SourceError(f"{text}: not an image ({', '.join(IMAGE_SUFFIXES)}) or video ({', '.join(VIDEO_SUFFIXES)})")


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR of an image file."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None or image.size == 0:
        raise SourceError(f"{path}: cannot be read as an image")
    return image


def _pictures(files: list[Path]) -> Source:
    frames = ((float(i), read_image(file)) for i, file in enumerate(files))
    return Source(frames, len(files), names=tuple(file.name for file in files))


def _camera(index: int) -> Source:
    if sys.platform == "linux" and not Path(f"/dev/video{index}").exists():
        raise SourceError(f"camera {index}: there is no /dev/video{index}")
    source = _video(cv2.VideoCapture(index), f"camera {index}", 30.0)
    # A camera's images are stamped when they arrive.
    return Source(((time.time(), image) for _, image in source), None, fps=source.fps)


def _video(capture: cv2.VideoCapture, name: str, default_fps: float) -> Source:
    # The first frame is read here: some files open and then give nothing.
    ok, first = capture.read() if capture.isOpened() else (False, None)
    if not ok or first is None or first.size == 0:
        capture.release()
        raise SourceError(f"{name}: cannot be opened, or gives no image")
    fps = capture.get(cv2.CAP_PROP_FPS)
    fps = fps if 0 < fps < 1000 else default_fps  # NaN, 0 and 90000 are what containers without a rate report
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def frames() -> Iterator[tuple[float, np.ndarray]]:
        ok, image, i = True, first, 0
        try:
            while ok:
                yield i / fps, image
                i += 1
                ok, image = capture.read()
        finally:
            capture.release()

    return Source(frames(), count if count > 0 else None, fps=fps)
