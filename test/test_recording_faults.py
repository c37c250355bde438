"""A disk that fills up while the demo records: whole lines stay, the reason is said."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import resource, sys
import numpy as np
from probpose_ros.recording import Recording
from probpose_ros.types import FrameResult, FrameState
recording = Recording(sys.argv[1], 15.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
image = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
try:
    for i in range(1000):
        recording.add(image, FrameResult((), 64, 48, FrameState.UNKNOWN), {"age_ms": 1.0, "frame": i, "pad": "x" * 100})
except OSError as error:
    print(recording.count, error.strerror)
"""


def test_what_was_recorded_stays_readable(tmp_path: Path) -> None:
    limit = 5000
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), str(limit)], capture_output=True, text=True, timeout=120
    )
    assert "File too large" in result.stdout, result.stderr
    count = int(result.stdout.split()[0])
    lines = (tmp_path / "demo.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(count)) and count > 10
    assert limit - 200 < (tmp_path / "demo.jsonl").stat().st_size <= limit
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != limit  # only the child's
