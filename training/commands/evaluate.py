"""``probpose evaluate``: a model on COCO-format data -> results.json, metrics.json, report.html.

Prints OKS AP and Ex-AP (which also judges joints outside the image) with 95 % intervals over the images; the rest is in
the report: per joint, by occlusion and size, presence, calibration of the quality, pictures of the worst.

examples:
  probpose evaluate --annotations val.json --images val --out out/val
  probpose evaluate --annotations val.json --images val --boxes detector --model my.onnx --out out/my
"""

from __future__ import annotations

import argparse


def register(subparsers: argparse._SubParsersAction) -> None:
    from probpose_ros.config import PipelineConfig

    defaults = PipelineConfig()
    parser = subparsers.add_parser("evaluate", help="measure a model on COCO-format data; writes a report")
    parser.add_argument("--annotations", required=True, metavar="A.json", help="COCO-format keypoint annotations")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--out", required=True, metavar="DIR", help="gets results.json, metrics.json, report.html")
    parser.add_argument("--model", default=defaults.model, help="pose model (default: %(default)s)")
    parser.add_argument("--detector", default=defaults.detector, help="person detector (default: %(default)s)")
    parser.add_argument(
        "--boxes", default="gt", metavar="gt|detector|FILE.json",
        help="people's boxes: annotated, detected, or COCO detection results (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", metavar="C",
        help="calibration of this model and these boxes; the regions of results.json are then valid, at its levels",
    )  # fmt: skip
    parser.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="draws for the intervals (default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    import json
    from dataclasses import replace
    from pathlib import Path

    from probpose_ros.calibration import find_calibration, load_calibration
    from probpose_ros.config import PipelineConfig
    from probpose_ros.serialize import to_json
    from probpose_training import evaluate as evaluation
    from probpose_training.coco import CocoError, read_coco, skip_report
    from probpose_training.domain import domain, domain_table
    from probpose_training.report import write_report

    if args.bootstrap < 1:
        raise ValueError(f"--bootstrap must be at least 1, got {args.bootstrap}")
    dataset = read_coco(args.annotations)
    if not len(dataset):
        raise CocoError(f"{args.annotations}: {skip_report(0, dataset.skipped)}; nothing to evaluate")
    if args.boxes == "gt":
        boxes = evaluation.true_boxes(dataset)
    else:
        boxes = None if args.boxes == "detector" else evaluation.read_boxes(args.boxes, dataset.images)
    config = PipelineConfig(model=args.model, detector=args.detector, calibration="")
    if args.calibration:
        levels = load_calibration(find_calibration(args.calibration)).levels
        config = replace(config, calibration=args.calibration, levels=list(levels))

    predictions = evaluation.predict(dataset, args.images, config, boxes)
    measurement = evaluation.measure(dataset, list(predictions.frames), predictions.results, args.bootstrap)
    skipped = skip_report(len(dataset), dataset.skipped + predictions.skipped)
    areas = domain(dataset)
    measurement.metrics.update(
        model=args.model,
        detector=args.detector if boxes is None else "",
        boxes=args.boxes,
        calibration=predictions.calibration,
        annotations=Path(args.annotations).name,
        skipped=skipped,
        unknown_keypoints=predictions.unknown,
        domain=areas,
    )

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(to_json(predictions.results))
    (out / "metrics.json").write_text(json.dumps(json.loads(to_json(measurement.metrics)), indent=1))
    title = f"{Path(args.model).stem} on {Path(args.annotations).resolve().parent.name}/{Path(args.annotations).name}"
    write_report(out / "report.html", title, dataset, args.images, predictions, measurement, areas)

    print(skipped)
    print(domain_table("this set", areas))
    extended = measurement.metrics["extended"]
    for name, row in (
        ("AP", measurement.metrics["coco"]), ("Ex-AP (paper)", extended["paper"]),
        ("Ex-AP (threshold from a split)", extended["paper_split"]), ("Ex-AP (exococotools)", extended["exococotools"]),
    ):  # fmt: skip
        low, high = row["AP"]["ci95"]
        print(f"{name:32s} {row['AP']['value']:.3f}  95 % interval {low:.3f} .. {high:.3f}")
    print(f"report: {out / 'report.html'}")
    return 0
