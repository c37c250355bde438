"""``probpose crop-dataset``: a CropCOCO-style set from COCO-format data.

Every picture becomes several that cut its people, with boxes computed anew. Joints outside keep their place, with
v = 3, and pad_to_contain says how far the window would have to reach. The same seed gives the same set.

examples:
  probpose crop-dataset --annotations val.json --images val --out crops --seed 0
"""

from __future__ import annotations

import argparse


def register(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser(
        "crop-dataset", help="cut images so that people leave them, with labels: a CropCOCO-style set"
    )
    parser.add_argument("--annotations", required=True, metavar="A.json", help="COCO-format keypoint annotations")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of the images")
    parser.add_argument("--out", required=True, metavar="DIR", help="gets annotations.json and images/")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same set (default: %(default)s)")
    parser.add_argument("--crops", type=int, metavar="N", help="cropped copies of an image at most (default: a few)")
    parser.add_argument(
        "--kept",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="share of the person's box kept per side, from 0 to 1 (default: near the paper's CropCOCO)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from probpose_training.coco import skip_report
    from probpose_training.crop_dataset import ANNOTATIONS, CropPolicy, crop_dataset
    from probpose_training.domain import domain, domain_table

    if args.seed < 0:
        raise ValueError(f"--seed must be at least 0, got {args.seed}")
    chosen = {"kept": args.kept and tuple(args.kept), "crops": args.crops}
    policy = CropPolicy(**{name: value for name, value in chosen.items() if value is not None})
    dataset, skipped = crop_dataset(args.annotations, args.images, args.out, args.seed, policy)
    print(f"{args.out}/{ANNOTATIONS}: {len(dataset.images)} images, {skip_report(len(dataset), skipped)}")
    print("\nWhere the annotated keypoints lie, in percent:")
    print(domain_table("this set", domain(dataset)))
    return 0
