"""``probpose fetch``: a model of models/manifest.yaml, checked by sha256. The only command that uses the network.

examples:
  probpose fetch                      # what there is, with licences
  probpose fetch probpose_s --out models
"""

from __future__ import annotations

import argparse
from pathlib import Path


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("fetch", help="download a model of models/manifest.yaml, checked by sha256")
    parser.add_argument("name", nargs="?", metavar="NAME", help="which model; without one, they are listed")
    out = "folder (default: the user's own, where models are found by name)"
    parser.add_argument("--out", type=Path, metavar="DIR", help=out)
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="another list (default: models/manifest.yaml)")
    parser.add_argument("--sha256", metavar="HEX", help="expected hash, for an entry that has none")
    parser.add_argument("--timeout", type=float, default=30.0, metavar="S", help="seconds (default: %(default)s)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from probpose_ros.download import fetch
    from probpose_ros.manifest import check_sha256, read_manifest
    from probpose_ros.models import user_models

    if not 0 < args.timeout <= 3600:
        raise ValueError(f"--timeout {args.timeout}: must be more than 0 and at most 3600 seconds")
    entries = read_manifest(args.manifest)
    folder = args.out or user_models()
    if args.name is None:
        for entry in entries.values():
            size = "size not known" if entry.size is None else f"{entry.size / 1e6:.1f} MB"
            here = f", in {folder}" if (folder / entry.file).is_file() else ""
            print(f"{entry.name}: {entry.what}\n    {size}, {entry.licence}{here}")
        return 0
    if args.name not in entries:
        raise ValueError(f"{args.name!r} is not in the manifest; there are {', '.join(entries)}")
    entry = entries[args.name]
    given = check_sha256(args.sha256, "--sha256") if args.sha256 is not None else entry.sha256
    if given is None:
        raise ValueError(f"{args.name}: the manifest has no sha256 for it; give the one you trust with --sha256")
    if entry.sha256 is not None and given != entry.sha256:
        raise ValueError(f"--sha256 {given}: the manifest says {entry.sha256}")
    # What is fetched is not ours: who downloads it has to know its terms first.
    print(f"{entry.name}: {entry.what}\nfrom {entry.url}\nlicence: {entry.licence}", flush=True)
    path = fetch(entry, folder, given, args.timeout)
    print(f"{path}: sha256 is right")
    if path.suffix == ".onnx":
        print(f"use it: --detector {path if args.out else path.stem}")
    else:
        print(f"use it: probpose import-checkpoint {path} --out DIR, then probpose export")
    return 0
