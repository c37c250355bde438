"""``probpose run``: people in an image, folder, video, ROS 2 bag or camera, without ROS.

Writes DIR/people.jsonl, one JSON object an image with the fields of the message PersonPoseArray, and beside it every
image with its people drawn: a video for a video, else one PNG an image.

examples:
  probpose run photo.jpg                           # -> out/run/photo.png, out/run/people.jsonl
  probpose run walk.mp4 --out out/walk --margin 0.2    # a border shows joints outside the image
  probpose run 0 --max-frames 100                  # 100 images of camera 0
  probpose run photos --json > people.jsonl        # no pictures
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from probpose_ros import bags
from probpose_ros.config import PipelineConfig, allowed

STATUS = """exit status: 0 if all went well; 1 if the work was done, but an image could not be read or the calibration
was refused (said on standard error); 2 for a wrong input"""


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "run", help="people in an image, folder, video, ROS 2 bag or camera: overlays and JSON", epilog=STATUS
    )
    parser.add_argument("source", help="image, folder of images, video, GIF, ROS 2 bag or camera index")
    parser.add_argument("--topic", help="of a bag with several topics of images: the one to use")
    parser.add_argument("--out", default="out/run", metavar="DIR", help="folder of the results (default: %(default)s)")
    parser.add_argument(
        "--bag",
        choices=bags.STORAGES,
        help="write the results to a ROS 2 bag, too: the new folder DIR/bag (needs rosbags)",
    )
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
        shown = '""' if default == "" else default
        parser.add_argument(
            "--" + spec.name.replace("_", "-"), type=kinds[str(spec.type)], default=default,
            nargs="+" if isinstance(default, list) else None, metavar=spec.name.upper(),
            help=f"{spec.metadata['help']} ({allowed(spec)}; default: {shown})".replace("%", "%%"),
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
    source = open_source(args.source, args.topic)
    pipeline, tracker = Pipeline(config), Tracker()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    place = Path(args.source).resolve()
    if place.exists() and out.resolve() in (place, place.parent):
        raise ValueError(f"--out {out}: holds the source, which could be overwritten; choose another folder")

    count = people = 0
    with ExitStack() as stack:
        lines = stack.enter_context(open(out / "people.jsonl", "w", encoding="utf-8"))
        bag = stack.enter_context(bags.BagWriter(out / "bag", args.bag)) if args.bag else None
        video = None
        if source.fps is not None and not args.json:
            video = stack.enter_context(VideoWriter(out / f"{Path(args.source).stem}.mp4", source.fps))
        for stamp, image in tqdm(source, total=source.length, unit="image", disable=None):
            frame = pipeline(image)
            if source.fps is not None:  # pictures of a folder have nothing to do with each other
                frame = tracker.track(frame, float(stamp))
            name = source.names[int(stamp)] if source.names else source.frame_id or Path(args.source).name
            values = frame_to_dict(
                frame, levels=config.levels, model=pipeline.pose.info.name, stamp=stamp, frame_id=name, sequence=count,
                calibration_id=pipeline.calibration_id,
            )  # fmt: skip
            lines.write(to_json(values) + "\n")
            if bag is not None:
                write_to_bag(bag, values, None if args.json else draw(image, frame, args.margin))
            if args.json:
                print(to_json(values))
            elif video:
                video.write(draw(image, frame, args.margin))
            elif not cv2.imwrite(str(path := out / overlay_name(name, source.names)), draw(image, frame, args.margin)):
                raise OSError(f"{path}: cannot be written")
            count, people = count + 1, people + len(frame.people)
            if count == args.max_frames:
                break
    if not args.json:
        print(f"images {count}, people {people} -> {out}")
        if count and not people:
            lower = "a lower --detector-threshold finds more, also what is no person"
            print(f"nobody scored {config.detector_threshold:g} or more: {lower}", file=sys.stderr)
    if source.skipped:
        shown = "; ".join(source.skipped[:3]) + ("; ..." if len(source.skipped) > 3 else "")
        print(f"probpose: {len(source.skipped)} images were skipped: {shown}", file=sys.stderr)
    return int(bool(source.skipped or pipeline.calibration_error))


def write_to_bag(bag: bags.BagWriter, values: dict[str, Any], overlay: np.ndarray | None) -> None:
    """One image's result under the node's topics, at the time of its stamp; overlay: (H, W, 3) uint8 BGR, as JPEG."""
    import cv2

    from probpose_ros.serialize import skeleton_to_dict

    header, stamp = values["header"], values["header"]["stamp"]
    time = stamp["sec"] * 10**9 + stamp["nanosec"]
    if not bag.count:
        skeleton = skeleton_to_dict(values["model"], values["calibration_id"])
        bag.write("/probpose/skeleton_info", bags.SKELETON, time, bags.message(bags.SKELETON, skeleton), latched=True)
    bag.write("/probpose/keypoints", bags.PEOPLE, time, bags.message(bags.PEOPLE, values))
    if overlay is not None:
        jpeg = cv2.imencode(".jpg", overlay)[1].ravel()
        picture = bags.message(bags.COMPRESSED, {"header": header, "format": "jpeg", "data": jpeg})
        bag.write("/probpose/overlay/compressed", bags.COMPRESSED, time, picture)


def overlay_name(name: str, names: Sequence[str] | None) -> str:
    """photo.jpg -> photo.png; photo.jpg.png where another picture of the folder has the same stem."""
    alike = sum(Path(other).stem == Path(name).stem for other in names or [name])
    return f"{Path(name).name if alike > 1 else Path(name).stem}.png"
