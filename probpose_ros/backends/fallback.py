"""From TensorRT to onnxruntime, never in silence: an error in the log, and the reason in ``Session.backend``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import numpy as np

from probpose_ros.backends import BackendError, Session


def instead(session: Session, error: Exception) -> Session:
    """The session, marked as the one that runs although TensorRT was meant to."""
    logging.getLogger(__name__).error("not TensorRT but %s: %s", session.backend, error)
    session.backend = f"{session.backend} (TensorRT failed: {error})"
    return session


class FallbackSession:
    """A session until it fails, then another one, for good; see :class:`probpose_ros.backends.Session`."""

    def __init__(self, session: Session, other: Callable[[], Session]) -> None:
        self._session, self._other = session, other
        self._fell = False
        self.metadata, self.inputs, self.outputs = session.metadata, session.inputs, session.outputs
        self.backend = session.backend

    def run(self, feed: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return self._session.run(feed)
        except BackendError as error:
            if self._fell:
                raise
            self._fell = True
            failed, self._session = self._session, instead(self._other(), error)
            self.backend = self._session.backend
        try:
            failed.close()
        except Exception:  # noqa: BLE001 - of a lost device nothing can be freed, and any error may say so
            logging.getLogger(__name__).exception("the failed session could not be freed")
        return self._session.run(feed)

    def close(self) -> None:
        self._session.close()
