"""Crops -> keypoints: one ONNX graph that normalises, infers, applies sparsemax and decodes by expected OKS."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from probpose_ros.backends import BackendError, TensorSpec, check_tensors, load
from probpose_ros.codec import Codec
from probpose_ros.geometry import CropTransform
from probpose_ros.model_info import METADATA_KEY, PoseInfo, from_json
from probpose_ros.models import find_model
from probpose_ros.skeleton import NUM_KEYPOINTS
from probpose_ros.types import PoseOutput

_SCALARS = ("presence", "visibility", "quality", "peak")


class PoseModel:
    """The pose network.

    Args:
        model: name of a bundled pose model or path of an ONNX file (metadata PoseInfo; input ``image`` (N, H, W, 3)
            uint8 BGR; outputs as in :class:`probpose_ros.types.PoseOutput`).
        backend, threads, allow_fallback: see :func:`probpose_ros.backends.load`.

    info: what the file says about itself. codec: the conversion between its crops and its maps.
    """

    def __init__(
        self, model: str | Path, backend: str = "auto", threads: int = 0, allow_fallback: bool = False
    ) -> None:
        self.path = find_model(model)
        self.session = load(self.path, backend, threads, allow_fallback)
        self.info: PoseInfo = from_json(self.session.metadata.get(METADATA_KEY), "pose", str(self.path))
        if self.info.skeleton != "coco17":
            raise BackendError(f"{self.path}: skeleton {self.info.skeleton!r}; this version knows coco17")
        info = self.info
        self.codec = Codec(info.input_size, info.map_size, info.decode_profile, info.padding, info.map_window)
        (width, height), (w, h), k = self.info.input_size, self.info.map_size, NUM_KEYPOINTS
        self._row_shapes: dict[str, tuple[int, ...]] = {"keypoints": (k, 2), **dict.fromkeys(_SCALARS, (k,))}
        if "probmap" in self.session.outputs:
            self._row_shapes["probmap"] = (k, h, w)
        outputs = {name: TensorSpec(("N", *shape), np.dtype(np.float32)) for name, shape in self._row_shapes.items()}
        inputs = {"image": TensorSpec(("N", height, width, 3), np.dtype(np.uint8))}
        check_tensors(self.path, self.session, inputs, outputs)

    @property
    def has_probmap(self) -> bool:
        """Whether the file gives the maps; without them there are no regions."""
        return "probmap" in self._row_shapes

    def __call__(self, crops: np.ndarray) -> PoseOutput:
        """Keypoints of crops (N, H, W, 3) uint8 BGR; N may be 0."""
        width, height = self.info.input_size
        if crops.shape[1:] != (height, width, 3) or crops.dtype != np.uint8:
            raise ValueError(f"crops are {crops.dtype} {crops.shape}; expected uint8 (N, {height}, {width}, 3)")
        # Not every operator of a graph accepts an empty batch.
        return self._output(self.session.run(crops) if len(crops) else None)

    @property
    def cuts_crops(self) -> bool:
        """Whether :meth:`in_images` is the faster way: the crops are cut where the network runs."""
        return self.session.crops_on_gpu

    def in_images(self, images: Sequence[np.ndarray], transforms: Sequence[Sequence[CropTransform]]) -> PoseOutput:
        """Keypoints of all crops of images (H, W, 3) uint8 BGR, in that order; only where :attr:`cuts_crops`."""
        return self._output(self.session.run_crops(images, transforms) if any(transforms) else None)

    def _output(self, result: dict[str, np.ndarray] | None) -> PoseOutput:
        if result is None:
            result = {name: np.zeros((0, *shape), np.float32) for name, shape in self._row_shapes.items()}
        return PoseOutput(**{name: result[name] for name in self._row_shapes})
