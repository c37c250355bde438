"""What detector files look like inside: ours, YOLOX as released, RTMDet as exported by MMDeploy.

A format turns letterboxed canvases into what the graph takes, and the graph's answer into boxes of persons. Which one a
file has is read from its metadata and tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from probpose_ros.backends import Session, TensorSpec, check_tensors
from probpose_ros.model_info import METADATA_KEY, DetectorInfo, ModelInfoError, from_json

PERSON = 0  # class of COCO's 80, and the only one of detectors of persons


class Format(Protocol):
    info: DetectorInfo

    def __call__(self, canvases: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each canvas (B, H, W, 3) uint8 BGR the boxes (N, 4) xyxy in canvas px and their scores (N,)."""
        ...


def read_format(path: Path, session: Session) -> Format:
    """The format of a loaded file; ModelInfoError if it is none that is known."""
    if METADATA_KEY in session.metadata:
        return Ours(path, session)
    for known in (Yolox, RtmDet):
        if known.fits(session):
            return known(path, session)
    tensors = ", ".join(f"{name} {spec}" for name, spec in (*session.inputs.items(), *session.outputs.items()))
    raise ModelInfoError(
        f"{path}: no {METADATA_KEY!r} metadata, so not made with 'probpose export', and with the tensors {tensors} "
        "neither a YOLOX (raw head) nor an RTMDet (NMS inside)"
    )


class Ours:
    """Input ``image`` uint8 as it is; outputs ``boxes`` (B, N, 4) and ``scores`` (B, N)."""

    def __init__(self, path: Path, session: Session) -> None:
        self.info: DetectorInfo = from_json(session.metadata[METADATA_KEY], "detector", str(path))
        self._session = session
        (width, height), float32 = self.info.input_size, np.dtype(np.float32)
        inputs = {"image": TensorSpec(("B", height, width, 3), np.dtype(np.uint8))}
        outputs = {"boxes": TensorSpec(("B", None, 4), float32), "scores": TensorSpec(("B", None), float32)}
        check_tensors(path, session, inputs, outputs)

    def __call__(self, canvases: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        result = self._session.run(canvases)
        return list(zip(result["boxes"], result["scores"], strict=True))


class Yolox:
    """Input BGR 0 .. 255, not normalised; output (B, cells, 5 + classes): box, objectness, classes.

    The raw head gives a box as offset from its cell and logarithm of its size, in strides. Files exported with decoding
    inside have the same tensors, and are told apart by their answer to an empty canvas: the offsets of a raw head are a
    few cells, decoded centres go all over the canvas.
    """

    STRIDES = (8, 16, 32)

    def __init__(self, path: Path, session: Session) -> None:
        self._session = session
        width, height = _fixed_size(session) or (0, 0)  # fits() saw to it
        self.info = DetectorInfo("detector", path.stem, (width, height))
        cells = [np.mgrid[: height // s, : width // s][::-1].reshape(2, -1).T for s in self.STRIDES]
        self._cells = np.concatenate(cells).astype(np.float32)
        self._strides = np.repeat(self.STRIDES, [len(some) for some in cells]).astype(np.float32)[:, None]
        centres = self._run(np.zeros((height, width, 3), np.uint8))[:, :2]
        self._decoded = bool(centres.max() > 0.5 * max(width, height))

    @classmethod
    def fits(cls, session: Session) -> bool:
        outputs = list(session.outputs.values())
        size = _fixed_size(session) if _takes_planes(session) else None
        if size is None or [len(spec.shape) for spec in outputs] != [3]:
            return False
        (_, cells, columns), dtype = outputs[0].shape, outputs[0].dtype
        fitting = sum((size[0] // s) * (size[1] // s) for s in cls.STRIDES)
        multiple = size[0] % 32 == size[1] % 32 == 0
        return multiple and cells == fitting and isinstance(columns, int) and columns > 5 and dtype == np.float32

    def __call__(self, canvases: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for rows in map(self._run, canvases):
            centres, sizes = rows[:, :2], rows[:, 2:4]
            if not self._decoded:
                centres, sizes = (centres + self._cells) * self._strides, np.exp(sizes) * self._strides
            boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
            found.append((boxes, rows[:, 4] * rows[:, 5 + PERSON]))
        return found

    def _run(self, canvas: np.ndarray) -> np.ndarray:
        """(cells, 5 + classes). One canvas at a time: the released files have a batch of one."""
        (answer,) = self._session.run(_planes(canvas.astype(np.float32))).values()
        return answer[0]


class RtmDet:
    """Input BGR, normalised, of any size; outputs ``dets`` (B, N, 5), boxes and scores after NMS, and ``labels``."""

    SIZE = (320, 320)  # where the file leaves it open
    MEAN = np.array([103.53, 116.28, 123.675], np.float32)
    STD = np.array([57.375, 57.12, 58.395], np.float32)

    def __init__(self, path: Path, session: Session) -> None:
        self._session = session
        self.info = DetectorInfo("detector", path.stem, _fixed_size(session) or self.SIZE)

    @classmethod
    def fits(cls, session: Session) -> bool:
        outputs = session.outputs
        return (
            _takes_planes(session)
            and {"dets", "labels"} <= set(outputs)
            and (len(outputs["dets"].shape), outputs["dets"].dtype) == (3, np.float32)
            and (len(outputs["labels"].shape), outputs["labels"].dtype) == (2, np.int64)
        )

    def __call__(self, canvases: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for canvas in canvases:  # one at a time: in a batch the graph fills up with boxes of nothing
            answer = self._session.run(_planes((canvas - self.MEAN) / self.STD))
            dets = answer["dets"][0][answer["labels"][0] == PERSON]
            found.append((dets[:, :4], dets[:, 4]))
        return found


def _takes_planes(session: Session) -> bool:
    """One input, float32 (B, 3, H, W)."""
    return [(len(s.shape), s.shape[1:2], s.dtype) for s in session.inputs.values()] == [(4, (3,), np.dtype(np.float32))]


def _fixed_size(session: Session) -> tuple[int, int] | None:
    """(width, height) of the only input; None where the file leaves it open."""
    (spec,) = session.inputs.values()
    height, width = spec.shape[-2:]
    return (width, height) if isinstance(height, int) and isinstance(width, int) else None


def _planes(canvas: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])
