r"""``probpose calibrate``: a calibration file and its coverage report, from COCO-format data.

Without a calibration the regions promise nothing. Label a few hundred images of your own cameras that the model was not
trained on; the file then says for which model, precision and boxes it holds, and the node refuses it for any other.
What the data cannot support is printed, and is invalid in the file.

examples:
  probpose crop-dataset --annotations site.json --images site --out crops --seed 0
  probpose calibrate --annotations site.json crops/annotations.json --images site crops/images \
      --out site.calibration.json
"""

from __future__ import annotations

import argparse


def register(subparsers: argparse._SubParsersAction) -> None:
    from probpose_ros.config import PipelineConfig

    defaults = PipelineConfig()
    parser = subparsers.add_parser("calibrate", help="measure what regions cover; writes a calibration file and report")
    parser.add_argument(
        "--annotations", required=True, nargs="+", metavar="A.json",
        help="COCO-format keypoint annotations of images the model was not trained on; several files with as many "
        "--images, for example with a set of crop-dataset, whose people leave the window",
    )  # fmt: skip
    parser.add_argument("--images", required=True, nargs="+", metavar="DIR", help="folder of the images of each file")
    parser.add_argument(
        "--out", required=True, metavar="F.calibration.json", help="the file; the report lies beside it"
    )
    parser.add_argument("--model", default=defaults.model, help="pose model (default: %(default)s)")
    parser.add_argument("--detector", default=defaults.detector, help="person detector (default: %(default)s)")
    parser.add_argument(
        "--boxes", choices=("detector", "gt"), default="detector",
        help="people's boxes; a calibration with annotated boxes (gt) is for given boxes only (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--method", choices=("regions", "temperature"), default="regions",
        help="temperature: the paper's; writes a model with the best temperature instead, --out M.onnx",
    )  # fmt: skip
    parser.add_argument(
        "--levels", type=float, nargs="+", metavar="L", help="in (0, 1) (default: .5 .68 .8 .9 .95 .99)"
    )
    parser.add_argument(
        "--kind", choices=("marginal", "pac", "simultaneous", "simultaneous_pac"), default="marginal",
        help="what the regions promise unless the option region_kind says otherwise: for each joint, or for all of a "
        "person at once (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--delta", type=float, default=0.05, help="1 - confidence of pac (default: %(default)s)")
    parser.add_argument(
        "--alpha", type=float, default=0.05,
        help="share of keypoints out of the window that may be called IN (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--drop", type=float, default=0.001,
        help="share of keypoints in the window that may be called OUT (they keep their region); 0: none "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--min-group", type=int, default=100, metavar="N",
        help="least keypoints per threshold; joint types with fewer share theirs, those with five times as many in "
        "each quarter of predicted quality have one for each (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--reshuffles", type=int, default=100, metavar="N",
        help="splits of the photographs for the report; 0: no report (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the file's own split (default: %(default)s)")
    parser.add_argument("--report", metavar="DIR", help="folder of the report (default: beside the file)")
    parser.add_argument(
        "--page", metavar="PAGE.md", help="put the report between the comments 'coverage' of this Markdown page, too"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from probpose_ros.calibration import GIVEN_BOXES, SUFFIX
    from probpose_ros.config import PipelineConfig
    from probpose_ros.pipeline import Pipeline
    from probpose_training.calibrate import LEVELS, Settings
    from probpose_training.calibration_samples import collect
    from probpose_training.coco import read_coco
    from probpose_training.evaluate import GivenBoxes
    from probpose_training.temperature import Logits, TemperatureError

    if len(args.annotations) != len(args.images):
        raise ValueError(f"{len(args.annotations)} --annotations for {len(args.images)} --images")
    if args.reshuffles < 0:
        raise ValueError(f"--reshuffles must be at least 0, got {args.reshuffles}")
    suffix = SUFFIX if args.method == "regions" else ".onnx"
    if not args.out.endswith(suffix):
        raise ValueError(f"--out must end in {suffix}, got {args.out}")
    settings = Settings(
        tuple(args.levels or LEVELS), args.kind, args.delta, args.alpha, args.drop, args.min_group
    )  # fmt: skip
    sets = [(read_coco(path), folder) for path, folder in zip(args.annotations, args.images, strict=True)]
    config = PipelineConfig(model=args.model, detector=args.detector, calibration="")
    pipeline = Pipeline(config, GivenBoxes({}) if args.boxes == "gt" else None)
    if not pipeline.pose.has_probmap:
        raise ValueError(f"{pipeline.pose.path}: gives no maps; make it with 'probpose export --with-probmap'")
    logits = None
    try:
        logits = Logits(pipeline.pose.path)
    except TemperatureError as error:
        if args.method == "temperature":
            raise
        print(f"temperature scaling is left out: {error}")
    samples = collect(pipeline, sets, logits)
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if args.method == "temperature":
        return _temperature(samples, settings.levels, pipeline.pose.path, out)
    boxes = GIVEN_BOXES if args.boxes == "gt" else pipeline.detector.info.name
    data = ", ".join(Path(path).name for path in args.annotations)
    return _regions(samples, settings, pipeline.subject, out, data, boxes, args)


def _regions(samples, settings, subject, out, data, boxes, args) -> int:  # type: ignore[no-untyped-def]
    from pathlib import Path

    import numpy as np

    from probpose_training.calibrate import SHARES, Likelihoods, calibrate, split, unsupported
    from probpose_training.calibration_markdown import write_markdown
    from probpose_training.calibration_report import coverage, print_report, stratum_level, write_report

    likelihoods = Likelihoods(samples)
    # The file has no need of a TEST part; the report measures the same procedure with one.
    part = split(int(samples.photograph.max()) + 1, args.seed, SHARES[:2])
    known = int((part >= 0).sum())
    provenance = {
        "data": data, "boxes": boxes, "seed": str(args.seed), "photographs": str(known),
        "keypoints": str(len(samples)),
        "note": "Made from all of these photographs: figures of this file on them are not a test. What the method "
        "covers on photographs that did not make the file was measured over reshuffles, see the report.",
    }  # fmt: skip
    calibration = calibrate(samples, likelihoods, part, settings, subject, provenance)
    for line in (lines := unsupported(calibration)):
        print(line)
    if all(np.isinf(getattr(group, settings.kind)).all() for group in calibration.groups):
        raise ValueError(
            f"too few samples: {len(samples)} keypoints of {known} photographs support none of the levels; "
            "nothing written"
        )
    if args.reshuffles:  # first: what cannot be tested is not written
        report = coverage(samples, likelihoods, settings, subject, args.reshuffles)
        report.update(model=subject.model, model_sha256=subject.model_sha256, data=data, boxes=boxes, unsupported=lines)
        print_report(report)
        print(f"report: {write_report(out, report, args.report)}")
        if args.page:
            write_markdown(Path(args.page), report, stratum_level(report["levels"]))
    out.write_text(calibration.to_json() + "\n")
    print(f"calibration: {out}")
    return 0


def _temperature(samples, levels, source, out) -> int:  # type: ignore[no-untyped-def]
    import numpy as np

    from probpose_training.temperature import TEMPERATURES, Temperatures, write_scaled

    rows = np.flatnonzero(samples.present)
    temperatures = Temperatures(samples.logits[rows], samples.cells[rows], levels)
    best = temperatures.best(np.arange(len(rows)))
    print(f"{'level':>8s} {'as it is':>10s} {'scaled':>10s}   coverage of {len(rows)} keypoints, of the very same data")
    before, after = temperatures.masses[TEMPERATURES.index(1.0)], temperatures.masses[best]
    for i, level in enumerate(levels):
        print(f"{level:8g} {before.held[:, i].mean():10.3f} {after.held[:, i].mean():10.3f}")
    print(f"temperature {write_scaled(source, TEMPERATURES[best], out):g}: {out}; calibrate its regions for a promise")
    return 0
