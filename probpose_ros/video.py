"""Writing MP4: H.264, which browsers play, where imageio-ffmpeg is installed, else OpenCV's MPEG-4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np


class VideoWriter:
    """Writes images (H, W, 3) uint8 BGR; the first gives the size, others are fitted to it. Use it with ``with``."""

    def __init__(self, path: str | Path, fps: float) -> None:
        self.path, self.fps = Path(path), fps
        self.size: tuple[int, int] | None = None
        self._ffmpeg: Any = None
        self._opencv: Any = None

    def write(self, image: np.ndarray) -> None:
        if self.size is None:
            # H.264 needs even sides.
            self.size = (max(2, image.shape[1] // 2 * 2), max(2, image.shape[0] // 2 * 2))
            self._open(self.size)
        width, height = self.size
        if image.shape[0] - height in (0, 1) and image.shape[1] - width in (0, 1):
            image = image[:height, :width]
        else:
            image = cv2.resize(image, self.size, interpolation=cv2.INTER_AREA)
        if self._ffmpeg is not None:
            self._ffmpeg.send(np.ascontiguousarray(image))
        else:
            self._opencv.write(np.ascontiguousarray(image))

    def close(self) -> None:
        if self._ffmpeg is not None:
            self._ffmpeg.close()
        if self._opencv is not None:
            self._opencv.release()
        self._ffmpeg = self._opencv = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _open(self, size: tuple[int, int]) -> None:
        try:
            import imageio_ffmpeg
        except ImportError:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._opencv = cv2.VideoWriter(str(self.path), code, self.fps, size)
            if not self._opencv.isOpened():
                raise OSError(f"{self.path}: cannot be written as MP4") from None
        else:
            self._ffmpeg = imageio_ffmpeg.write_frames(
                str(self.path), size, fps=self.fps, pix_fmt_in="bgr24", codec="libx264", quality=6,
                macro_block_size=2,
            )  # fmt: skip
            self._ffmpeg.send(None)
