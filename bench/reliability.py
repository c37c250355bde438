"""Causes every fault in a running node and writes the table of docs/reliability.md from what was measured.

``python -m bench.reliability [--rounds N] [--slow] [-k WORDS]``, on a busy machine ``chrt -r 1 python -m ...`` as root.

What was measured last is kept in docs/reliability.json; rows that this run does not measure stay as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
PAGE, RECORD = ROOT / "docs/reliability.md", ROOT / "docs/reliability.json"
BEGIN, END = "<!-- table: python -m bench.reliability -->", "<!-- end of table -->"
SECTIONS = {
    "Images and networks": "told",
    "camera_info and depth": "told",
    "Process": "told",
    "Start": "told",
    "Load": "note",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="times each fault is caused (default: %(default)s)")
    parser.add_argument("--slow", action="store_true", help="also 50 restarts, 100,000 frames and 1,000 at 1080p")
    parser.add_argument("-k", dest="words", help="only tests of these names, as pytest's -k")
    parser.add_argument(
        "--rows", type=Path, help="what a run of pytest with RELIABILITY_JSON=FILE left, in place of one"
    )
    args = parser.parse_args()

    record = json.loads(RECORD.read_text()) if RECORD.exists() else []
    status, measured = (0, json.loads(args.rows.read_text())) if args.rows else run(args)
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    new = {
        (row["section"], row["fault"]): {**row, "date": date, "machine": machine(), "scheduling": scheduling()}
        for row in measured
    }
    kept = {(row["section"], row["fault"]): row for row in record}
    merged = list({**kept, **new}.values())
    RECORD.write_text(json.dumps(merged, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{table(merged)}\n{END}{tail}", encoding="utf-8")
    return status


def run(args: argparse.Namespace) -> tuple[int, list[dict]]:
    """pytest's exit status, and the rows that it measured."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        command = [sys.executable, "-m", "pytest", "-q", "test/test_reliability.py", "test/test_soak.py"]
        command += ["-m", "slow or not slow" if args.slow else "not slow"] + (["-k", args.words] if args.words else [])
        environment = {**os.environ, "RELIABILITY_ROUNDS": str(args.rounds), "RELIABILITY_JSON": str(rows)}
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        return status, json.loads(rows.read_text()) if rows.exists() else []


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def scheduling() -> str:
    """Of this process and its children; real-time (chrt -r 1) keeps other work out of the figures."""
    real_time = os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)
    return "real-time" if real_time else f"nice {os.nice(0)}"


def table(rows: list[dict]) -> str:
    lines = []
    for section, kind in SECTIONS.items():
        chosen = [row for row in rows if row["section"] == section]
        if not chosen:
            continue
        lines += ["", f"### {section}"]
        if kind == "told":
            lines += ["| fault | detectable from | said by state | after, ms | good again after | notes |"]
            lines += ["|---|---|---|---|---|---|"]
        else:
            lines += ["| what | result |", "|---|---|"]
        for row in chosen:
            if kind == "note":
                lines.append(f"| {row['fault']} | {row['note']} |")
                continue
            most = max(row["recovered_frames"], default=0)
            frames = f"{most} image{'s' * (most > 1)}, " if most else ""
            lost = f"liveliness lost after {spread(row['lost_ms'])} ms. " if row["lost_ms"] else ""
            again = f"{frames}{spread(row['recovered_ms'])} ms" if row["recovered_ms"] else "-"
            cells = [row["fault"], row["detectable"], row["states"], spread(row["said_ms"]), again, lost + row["note"]]
            lines.append("| " + " | ".join(cells) + " |")
    loads = [row["load"] for row in rows]
    dates = sorted({row["date"] for row in rows})
    lines += [
        "",
        "Times: median / largest of the rounds. Measured "
        f"{' and '.join(dict.fromkeys([dates[0], dates[-1]]))} on {rows[-1]['machine']}, while other work kept "
        f"{min(loads):.0f} to {max(loads):.0f} processes running or waiting (load average); scheduling: "
        f"{', '.join(sorted({row['scheduling'] for row in rows}))}.",
    ]
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    return f"{np.median(values):.0f} / {max(values):.0f}" if values else "-"


if __name__ == "__main__":
    sys.exit(main())
