"""From TensorRT to onnxruntime, never in silence: an error in the log, and the reason in ``Session.problem``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from probpose_ros.backends import BackendError, Session, TensorSpec
from probpose_ros.geometry import CropTransform


def instead(session: Any, reason: str) -> Session:
    """The session, marked as the one that runs although TensorRT could or should."""
    logging.getLogger(__name__).error("not TensorRT but %s: %s", session.backend, reason)
    session.problem = f"TensorRT is not used: {reason}"
    return session


class FallbackSession:
    """A session until it fails, then another one, for good; see :class:`probpose_ros.backends.Session`."""

    def __init__(self, session: Session, other: Callable[[], Session]) -> None:
        self._session, self._other = session, other
        self._fell = False

    @property
    def metadata(self) -> dict[str, str]:
        return self._session.metadata

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        return self._session.inputs

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        return self._session.outputs

    @property
    def backend(self) -> str:
        return self._session.backend

    @property
    def problem(self) -> str:
        return self._session.problem

    @property
    def crops_on_gpu(self) -> bool:
        return self._session.crops_on_gpu

    def run(self, feed: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return self._session.run(feed)
        except BackendError as error:
            self._fall(error)
        return self._session.run(feed)

    def run_crops(
        self, images: Sequence[np.ndarray], transforms: Sequence[Sequence[CropTransform]]
    ) -> dict[str, np.ndarray]:
        try:
            return self._session.run_crops(images, transforms)
        except BackendError as error:
            self._fall(error)
        return self._session.run_crops(images, transforms)

    def suspend(self) -> None:
        self._session.suspend()

    def resume(self) -> None:
        try:
            self._session.resume()
        except BackendError as error:
            self._fall(error)

    def close(self) -> None:
        self._session.close()

    def _fall(self, error: BackendError) -> None:
        """Puts the other session in place; raises the error if that has happened before."""
        if self._fell:
            raise error
        self._fell = True
        failed, self._session = self._session, instead(self._other(), str(error))
        failed.close()
