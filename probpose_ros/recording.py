"""What the demo leaves behind: JSON lines, a video, a picture and a summary. Knows no ROS."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from probpose_ros.draw import draw
from probpose_ros.serialize import to_json
from probpose_ros.types import FrameResult, KeypointState
from probpose_ros.video import VideoWriter

MAX_STILLS = 600  # images kept (as JPEG, about 60 kB each) to choose the picture from
Still = tuple[bytes, FrameResult, int]  # JPEG, result, number of the frame
STILL_MARGIN = 0.12  # of the picture, so that joints beyond the frame are seen


class Recording:
    """``add`` every result in order, then ``close``. Files: demo.jsonl, demo.mp4, demo.png in ``folder``."""

    def __init__(self, folder: str | Path, fps: float) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("demo.jsonl", "demo.mp4", "demo.png"):  # a failed run must not leave the last run's results
            (self.folder / name).unlink(missing_ok=True)
        self._lines = open(self.folder / "demo.jsonl", "wb", buffering=0)
        self._video = VideoWriter(self.folder / "demo.mp4", fps)
        self._stills: list[Still] = []
        self.count = self.people = 0
        self.ages: list[float] = []
        self.states: Counter[str] = Counter()

    def add(self, image: np.ndarray, result: FrameResult, values: dict[str, Any]) -> None:
        """image: (H, W, 3) uint8 BGR. values: the PersonPoseArray fields of ``result``."""
        self._write_line(to_json(values))
        self._video.write(draw(image, result))
        self.count += 1
        self.people += len(result.people)
        for person in result.people:
            self.states.update(KeypointState(state).name for state in person.states.tolist())
        if not math.isnan(values["age_ms"]):
            self.ages.append(values["age_ms"])
        if len(self._stills) < MAX_STILLS and result.people:
            jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
            self._stills.append((jpeg, result, self.count))

    def _write_line(self, line: str) -> None:
        """Whole lines only: a disk that is full must not leave half of one."""
        data, start = f"{line}\n".encode(), self._lines.tell()
        try:
            while data:
                data = data[self._lines.write(data) :]
        except OSError:
            self._lines.seek(start)
            self._lines.truncate()
            raise

    def close(self) -> None:
        self._lines.close()
        self._video.close()
        if self._stills:
            cv2.imwrite(str(self.folder / "demo.png"), self._picture())

    def summary(self, received: int) -> str:
        """The lines printed at the end; ``received``: images that went in."""
        ages = np.array(self.ages or [math.nan])
        states = ", ".join(f"{state.name} {self.states[state.name]}" for state in KeypointState)
        return "\n".join(
            [
                f"frames       in {received}, out {self.count}, dropped {received - self.count}",
                f"age          p50 {np.percentile(ages, 50):.1f} ms, p99 {np.percentile(ages, 99):.1f} ms",
                f"people       {self.people}",
                f"keypoints    {sum(self.states.values())} (people x keypoints): {states}",
                f"written      {', '.join(str(self.folder / name) for name in ('demo.mp4', 'demo.png', 'demo.jsonl'))}",
            ]
        )

    def _picture(self) -> np.ndarray:
        """Of each half of the run, side by side: the person seen best and the person cut most by the frame."""
        rows = []
        halves = [[still for still in self._stills if (still[2] <= self.count / 2) == first] for first in (True, False)]
        for part in (halves[0] or halves[1], halves[1] or halves[0]):
            tiles = []
            best = max(part, key=_well_seen)
            others = [still for still in part if abs(still[2] - best[2]) > self.count / 10]
            for jpeg, result, _ in (best, max(others or part, key=_cut)):
                image = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
                tiles.append(_fit(draw(image, result, STILL_MARGIN)))
            rows.append(np.hstack(tiles))
        return np.vstack(rows)


def _well_seen(still: Still) -> tuple[int, float]:
    """One person alone makes the clearest picture; of that, joints inside the window, weighted by quality."""
    person = still[1].people[0]
    return -len(still[1].people), float(np.nansum(person.quality * (person.states == KeypointState.IN)))


def _cut(still: Still) -> tuple[int, float]:
    """Joints that are likely out, if the rest is seen well: half-hidden people make a better picture than lost ones."""
    person = still[1].people[0]
    out = np.nansum(1 - person.presence)
    alone, seen = _well_seen(still)
    return alone, float(out * (person.states == KeypointState.IN).sum()) + 1e-3 * seen


def _fit(image: np.ndarray, size: tuple[int, int] = (640, 480)) -> np.ndarray:
    scale = min(size[0] / image.shape[1], size[1] / image.shape[0])
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.zeros((size[1], size[0], 3), np.uint8)
    height, width = min(size[1], image.shape[0]), min(size[0], image.shape[1])
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    canvas[top : top + height, left : left + width] = image[:height, :width]
    return canvas
