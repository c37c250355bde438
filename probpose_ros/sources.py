"""Where images come from without ROS: an image, a folder of images, a video or GIF, a ROS 2 bag, a camera index."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np

from probpose_ros.bags import IMAGES, SUFFIXES, BagReader, is_bag
from probpose_ros.image_message import ImageError, image_to_bgr, truncated_jpeg

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif")


class SourceError(OSError):
    """The source is not there or not readable."""


@dataclass
class Source:
    """Iterate over it for (timestamp in seconds, image (H, W, 3) uint8 BGR).

    length: number of images, None if unknown. fps: of a video, bag or camera, None for pictures.
    names: of the pictures, for naming results; a picture's timestamp is its index here.
    frame_id: of a bag's images; their timestamps are exact (Fraction).
    skipped: one line for every image that could not be read, once the iteration has come past it.
    """

    frames: Iterator[tuple[float | Fraction, np.ndarray]]
    length: int | None
    fps: float | None = None
    names: tuple[str, ...] = ()
    frame_id: str = ""
    skipped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[float | Fraction, np.ndarray]]:
        return self.frames

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError("the length of this source is not known")
        return self.length


def open_source(text: str | Path, topic: str | None = None) -> Source:
    """The source of a path or camera index. SourceError if it is missing, of an unknown kind, or not readable.

    topic: of a bag's images; needed where it has several. BagError if it has none, or breaks off.
    """
    text = str(text)
    path = Path(text).expanduser()
    if path.exists() and is_bag(path):
        return _bag(path, topic)
    if topic is not None:
        raise SourceError(f"{text}: a topic ({topic}) can be chosen of a ROS 2 bag only")
    if text.isdigit() and not path.exists():
        return _camera(int(text))
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not files:
            images, bags = ", ".join(IMAGE_SUFFIXES), ", ".join(SUFFIXES)
            raise SourceError(f"{text}: no images in this folder ({images}), and no bag ({bags})")
        return _pictures(files)
    if "://" in text:
        raise SourceError(
            f"{text}: network streams are not read; record a file, or use a camera driver and the ROS node"
        )
    if not path.is_file():
        raise SourceError(f"{text}: no such file, folder or camera index")
    if path.stat().st_size == 0:
        raise SourceError(f"{text}: the file is empty")
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        read_image(path)  # fail now, with the reason, not at the first frame
        return _pictures([path])
    if suffix in VIDEO_SUFFIXES:
        return _video(cv2.VideoCapture(str(path)), text, 25.0, "; convert it, say: ffmpeg -i IN OUT.mp4")
    kinds = f"image ({', '.join(IMAGE_SUFFIXES)}), video ({', '.join(VIDEO_SUFFIXES)}) or bag ({', '.join(SUFFIXES)})"
    raise SourceError(f"{text}: not an {kinds}")


def read_image(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 BGR of an image file."""
    try:
        broken = truncated_jpeg(Path(path).read_bytes())
    except OSError as error:
        raise SourceError(f"{path}: cannot be read as an image ({error.strerror})") from None
    if broken:
        raise SourceError(f"{path}: breaks off, this JPEG has no end; copy or download it again")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None or image.size == 0:
        raise SourceError(f"{path}: cannot be read as an image")
    return image


def _pictures(files: list[Path]) -> Source:
    """A picture that cannot be read is skipped; SourceError if none can."""
    source = Source(iter(()), len(files), names=tuple(file.name for file in files))

    def frames() -> Iterator[tuple[float, np.ndarray]]:
        for i, file in enumerate(files):
            try:
                image = read_image(file)
            except SourceError as error:
                source.skipped.append(str(error))
            else:
                yield float(i), image
        if len(source.skipped) == len(files):
            raise SourceError(f"{files[0].parent}: none of its {len(files)} images can be read; {source.skipped[0]}")

    source.frames = frames()
    return source


def _bag(path: Path, topic: str | None) -> Source:
    """A broken image is skipped; BagError after the last image if the bag breaks off."""
    reader = BagReader(path, IMAGES, topic)
    messages = iter(reader)
    first = next(messages, None)
    if first is None:
        reader.close()
        raise SourceError(f"{path}: no image on {reader.topic}")
    source = Source(iter(()), reader.length, reader.rate or 15.0, frame_id=first[1].header.frame_id)

    def frames() -> Iterator[tuple[float | Fraction, np.ndarray]]:
        with reader:
            for time, msg in itertools.chain([first], messages):
                stamp = msg.header.stamp
                try:
                    image = image_to_bgr(msg)
                except ImageError as error:
                    source.skipped.append(f"{reader.topic} at {stamp.sec}.{stamp.nanosec:09}: {error}")
                else:
                    nanoseconds = stamp.sec * 10**9 + stamp.nanosec
                    yield Fraction(nanoseconds or time, 10**9), image

    source.frames = frames()
    return source


def _camera(index: int) -> Source:
    if sys.platform == "linux" and not Path(f"/dev/video{index}").exists():
        raise SourceError(f"camera {index}: there is no /dev/video{index}")
    source = _video(cv2.VideoCapture(index), f"camera {index}", 30.0, "; another program may have it")
    # A camera's images are stamped when they arrive.
    return Source(((time.time(), image) for _, image in source), None, fps=source.fps)


def _video(capture: cv2.VideoCapture, name: str, default_fps: float, remedy: str) -> Source:
    # The first frame is read here: some files open and then give nothing.
    ok, first = capture.read() if capture.isOpened() else (False, None)
    if not ok or first is None or first.size == 0:
        capture.release()
        raise SourceError(f"{name}: cannot be opened, or gives no image{remedy}")
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
