"""``probpose bench``: the performance table, peers and floors in the same run.

Stages of a frame and how they grow with people, the networks beside published ones of the same size, the floors
(memory, transport) under them, and the node under overload. Ratios of one run travel from machine to machine;
milliseconds do not.

examples:
  probpose bench                                   # 3 to 5 minutes -> bench/results/bench.{json,md,png}
  probpose bench --parts frames networks --out out/bench
  probpose bench --from-json                       # tables and plot again
"""

from __future__ import annotations

import argparse
from pathlib import Path

PARTS = ("frames", "networks", "transport", "node", "gpu")


def register(subparsers: argparse._SubParsersAction) -> None:
    from probpose_ros.config import PipelineConfig

    defaults = PipelineConfig()
    parser = subparsers.add_parser("bench", help="the performance table: stages, peers, floors, transport, overload")
    parser.add_argument(
        "--out", type=Path, default=Path("bench/results"), metavar="DIR",
        help="gets bench.json, bench.md and bench.png (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        metavar="PART",
        help=f"of {', '.join(PARTS)} (default: all)",
    )
    parser.add_argument("--seconds", type=float, default=12.0, help="of each group of cases (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=1000, help="1080p images to send (default: %(default)s)")
    parser.add_argument("--model", default=defaults.model, help="pose model (default: %(default)s)")
    parser.add_argument("--detector", default=defaults.detector, help="person detector (default: %(default)s)")
    parser.add_argument("--from-json", action="store_true", help="measure nothing; tables and plot of DIR/bench.json")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json
    import time

    from probpose_ros.models import file_sha256, find_model
    from probpose_training.bench import report
    from probpose_training.bench.timing import machine

    if not 0 < args.seconds <= 600 or args.frames < 1:
        raise ValueError(f"--seconds {args.seconds} --frames {args.frames}: must be above 0, and at most 600 seconds")
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "bench.json"
    if args.from_json:
        results = json.loads(path.read_text(encoding="utf-8"))
    else:
        models = [find_model(name) for name in (args.model, args.detector)]
        results = {"machine": machine(), "models": {path.stem: file_sha256(path) for path in models}}
        for part in PARTS:
            if part not in args.parts:
                continue
            start = time.monotonic()
            print(f"{part} ...", flush=True)
            results[part] = _part(part, args)
            print(f"  {time.monotonic() - start:.0f} s", results[part].get("skipped") or "", flush=True)
            path.write_text(json.dumps(results, indent=1), encoding="utf-8")
    table = report.markdown(results)
    (args.out / "bench.md").write_text(table, encoding="utf-8")
    print("\n" + table)
    try:
        report.plot(results, args.out / "bench.png")
    except ImportError as error:
        print(f"no plot: {error}")
    return 0


def _part(part: str, args: argparse.Namespace) -> dict:
    """What a part found, or {"skipped": why}: nothing that is missing stops the others."""
    import tempfile

    from probpose_training.bench import frames, gpu, ros

    try:
        if part == "frames":
            return frames.measure(args.model, args.detector, args.seconds)
        if part == "transport":
            return ros.transport(args.frames)
        if part == "node":
            return ros.node(args.model, args.detector, args.seconds / 2)
        with tempfile.TemporaryDirectory() as folder:
            if part == "gpu":
                return gpu.measure(Path(folder), args.seconds)
            from probpose_training.bench import networks  # needs torch, SciPy and onnx

            return networks.measure(args.model, Path(folder), args.seconds)
    except ImportError as error:
        return {"skipped": f"{error}"}
    except Exception as error:  # whatever one part meets, the others still run
        return {"skipped": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
