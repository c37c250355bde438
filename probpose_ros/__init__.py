"""People in images, with the uncertainty of every joint: ``from probpose_ros import Pipeline``."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["Pipeline", "PipelineConfig"]


def __getattr__(name: str) -> Any:
    # Late, so that the parts that need no network import without one.
    if name == "Pipeline":
        from probpose_ros.pipeline import Pipeline

        return Pipeline
    if name == "PipelineConfig":
        from probpose_ros.config import PipelineConfig

        return PipelineConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
