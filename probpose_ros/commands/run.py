"""``probpose run``: people in an image, folder, video or camera, without ROS."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path

from probpose_ros.config import PipelineConfig, allowed


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("run", help="people in an image, folder, video or camera: overlays and JSON")
    parser.add_argument("source", help="image, folder of images, video, GIF or camera index")
    parser.add_argument("--out", default="out/run", metavar="DIR", help="folder of the results (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the JSON lines too, and draw no overlays")
    parser.add_argument(
        "--margin", type=float, default=0.0, metavar="F",
        help="widen overlays by this fraction of the longer side, to see joints outside the image",
    )  # fmt: skip
    parser.add_argument("--max-frames", type=int, metavar="N", help="stop after N images (a camera has no end)")
    add_pipeline_options(parser)
    parser.set_defaults(run=run)


def add_pipeline_options(parser: argparse.ArgumentParser) -> None:
    """An argument for every option of PipelineConfig, with its default and help."""
    defaults = PipelineConfig()
    kinds = {"int": int, "float": float, "str": str, "list[float]": float}
    for spec in fields(PipelineConfig):
        default = getattr(defaults, spec.name)
        if spec.type == "bool":
            flag, help = "--" + spec.name.replace("_", "-"), spec.metadata["help"]
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=help)
            continue
        parser.add_argument(
            "--" + spec.name.replace("_", "-"), type=kinds[str(spec.type)], default=default,
            nargs="+" if isinstance(default, list) else None, metavar=spec.name.upper(),
            help=f"{spec.metadata['help']} ({allowed(spec)}; default: {default})".replace("%", "%%"),
        )  # fmt: skip


def pipeline_config(args: argparse.Namespace) -> PipelineConfig:
    """The config of the arguments of :func:`add_pipeline_options`; ConfigError names a bad value."""
    return PipelineConfig(**{spec.name: getattr(args, spec.name) for spec in fields(PipelineConfig)})


def run(args: argparse.Namespace) -> int:
    import cv2
    from tqdm import tqdm

    from probpose_ros.draw import draw
    from probpose_ros.pipeline import Pipeline
    from probpose_ros.serialize import frame_to_dict, to_json
    from probpose_ros.sources import open_source
    from probpose_ros.tracking import Tracker
    from probpose_ros.video import VideoWriter

    if not 0 <= args.margin <= 2:
        raise ValueError(f"--margin {args.margin}: must be a number from 0 to 2")
    if args.max_frames is not None and args.max_frames < 1:
        raise ValueError(f"--max-frames {args.max_frames}: must be at least 1")
    config = pipeline_config(args)
    source = open_source(args.source)
    pipeline, tracker = Pipeline(config), Tracker()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    place = Path(args.source).resolve()
    if place.exists() and out.resolve() in (place, place.parent):
        raise ValueError(f"--out {out}: holds the source, which could be overwritten; choose another folder")

    count = people = 0
    with ExitStack() as stack:
        lines = stack.enter_context(open(out / "people.jsonl", "w", encoding="utf-8"))
        video = None
        if source.fps is not None and not args.json:
            video = stack.enter_context(VideoWriter(out / f"{Path(args.source).stem}.mp4", source.fps))
        for stamp, image in tqdm(source, total=source.length, unit="image"):
            frame = pipeline(image)
            if source.fps is not None:  # pictures of a folder have nothing to do with each other
                frame = tracker.track(frame, stamp)
            name = source.names[count] if source.names else Path(args.source).name
            line = to_json(frame_to_dict(
                frame, levels=config.levels, model=pipeline.pose.info.name, stamp=stamp, frame_id=name, sequence=count,
                calibration_id=pipeline.calibration_id,
            ))  # fmt: skip
            lines.write(line + "\n")
            if args.json:
                print(line)
            elif video:
                video.write(draw(image, frame, args.margin))
            elif not cv2.imwrite(str(path := out / overlay_name(name, source.names)), draw(image, frame, args.margin)):
                raise OSError(f"{path}: cannot be written")
            count, people = count + 1, people + len(frame.people)
            if count == args.max_frames:
                break
    if not args.json:
        print(f"{count} images, {people} people -> {out}")
    return 0


def overlay_name(name: str, names: Sequence[str] | None) -> str:
    """photo.jpg -> photo.png; photo.jpg.png where another picture of the folder has the same stem."""
    alike = sum(Path(other).stem == Path(name).stem for other in names or [name])
    return f"{Path(name).name if alike > 1 else Path(name).stem}.png"
