"""The reference folder beside the repository; tests that need it skip where it is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[1] / "../shared"


def golden(name: str) -> Path:
    """Path of a golden file, or the test is skipped."""
    path = SHARED / "reference/golden" / name
    if not path.is_file():
        pytest.skip(f"no reference vectors: ../shared/reference/golden/{name} is missing")
    return path
