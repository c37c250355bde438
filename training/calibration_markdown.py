"""The coverage report as a part of a Markdown page, between two comments."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from probpose_ros.skeleton import JOINT_TYPES

PLACE = re.compile(r"(<!-- coverage -->\n).*?(<!-- end of coverage -->)", re.S)


def write_markdown(page: Path, report: dict[str, Any], level: float) -> None:
    """Put the report between the comments ``coverage`` and ``end of coverage`` of a page.

    Args:
        report: of :func:`probpose_training.calibration_report.coverage`. level: of the strata.
    """
    before = page.read_text()
    after, count = PLACE.subn(lambda place: place[1] + markdown(report, level) + "\n" + place[2], before)
    if count != 1:
        raise ValueError(f"{page}: needs one <!-- coverage --> and <!-- end of coverage -->, found {count}")
    page.write_text(after)


def markdown(report: dict[str, Any], level: float) -> str:
    levels, key = report["levels"], str(level)
    methods, zeros, presence, together = (report[name] for name in ("methods", "zeros", "presence", "together"))
    ball = methods["conformal ball"][key]["mean_area_per_box_at_coverage"]
    title = [f"{100 * value:g}" for value in levels]
    lines = [
        f"Model `{report['model']}`, sha256 `{report['model_sha256'][:12]}...`; {report['data']}; boxes: "
        f"{report['boxes']}. {report['persons']} persons in {report['photographs']} photographs and crops of them, "
        f"{report['persons_without_box']} of them without a box: nothing covers those. {report['keypoints']} annotated "
        f"joints in the window. Means of {report['reshuffles']} reshuffles of the photographs, of which 15 % fit, 45 % "
        "calibrate and 40 % test; the file itself is made from all of them, and no photograph is left to test it.",
        "",
        f"The annotated joint lies where the map is exactly 0 in {zeros['share']:.1%} of {zeros['n']} cases:",
        "",
        *_table(list(zeros["joints"]), [[f"{row['share']:.1%}" for row in zeros["joints"].values()]]),
        "",
        *_table(list(zeros["quality"]), [[f"{row['share']:.1%}" for row in zeros["quality"].values()]]),
        "",
        f"Annotated joints inside, in percent, and mean area at {100 * level:g} % relative to the box, and to the "
        f"ball's where both hold exactly {100 * level:g} % (interpolated between levels; -: the method never does):",
        "",
        *_table(
            ["level", *title, "area / box", "area / ball", "whole window"],
            [
                [name, *(f"{100 * table[str(value)]['coverage']:.1f}" for value in levels), *_areas(table[key], ball)]
                for name, table in methods.items()
            ]
            + [
                [f"ours: {name}", *(f"{100 * a:.1f}-{100 * b:.1f}" for a, b in report[row].values()), "", "", ""]
                for name, row in (("95 % interval over photographs", "ci95"), ("95 % of the reshuffles", "spread"))
            ],
        ),
        "",
        "One keypoint of each of "
        f"{report['one_keypoint_per_photograph']['photographs']} test photographs of one split: "
        + _range(report["one_keypoint_per_photograph"]["ci95"])
        + f" % at {100 * level:g} % (Clopper-Pearson).",
        "",
        f"Regions of this package at {100 * level:g} %:",
        "",
        *_table(
            ["", "keypoints", "inside, %", "95 % interval", "area / box"],
            [
                [
                    row["stratum"], str(row["n"]), f"{100 * row['coverage']:.1f}", _range(row["ci95"]),
                    f"{row['mean_area_per_box']:.3f}",
                ]
                for row in report["strata"]
            ],
        ),
        "",
        f"All joints of a person in the window at once, percent of {together['marginal']['persons']} persons:",
        "",
        *_table(
            ["level", *title, f"area / box at {100 * level:g}"],
            [
                [
                    f"{kind} regions", *(f"{100 * row['coverage']:.1f}" for row in table["levels"].values()),
                    f"{table['levels'][key]['mean_area_per_box']:.3f}",
                ]
                for kind, table in together.items()
            ]
            + [
                [
                    "simultaneous: 95 % interval over photographs",
                    *(_range(row["ci95"]) for row in together["simultaneous"]["levels"].values()), "",
                ]
            ],
        ),
        "",
        f"Presence ({presence['in']} joints in, {presence['out']} out of the window): AUROC {presence['auroc']:.3f}; "
        f"Brier score {presence['brier_raw']:.4f} of the network, {presence['brier']:.4f} calibrated; calibration "
        f"error {presence['ece_raw']:.4f} and {presence['ece']:.4f} ({presence['ece_of_perfect_calibration']:.4f} for "
        "perfect probabilities on as many samples). A region is dropped in no state. On photographs that did not "
        f"calibrate, in the {presence['reshuffles_that_can_call_out']:.0%} of the reshuffles with enough examples to "
        "call anything OUT (the file is made from more): called OUT though in the window: "
        f"{presence['called_out_given_present']:.2%}; upper bound {presence['called_out_upper_bound']:.2%} if "
        f"keypoints were independent, {presence['called_out_upper_bound_photographs']:.1%} with one keypoint of each "
        f"of {presence['photographs']} photographs; {presence['photographs_for_bound']} photographs without such a "
        f"case would show {presence['drop']:g}. Called IN though out: {presence['called_in_given_absent']:.1%}, "
        f"nominal {presence['alpha']:.1%}. Of the joints in the window {_states(presence['states']['in'])}; of those "
        f"out of it {_states(presence['states']['out'])}.",
        "",
        "Goals:",
        "",
        *_table(["", "goal", "measured", ""], _goals(report, level)),
    ]  # fmt: skip
    if report["unsupported"]:
        lines += ["", "Too little data in the file for:", "", *(f"- {line}" for line in report["unsupported"])]
    return "\n".join(lines)


def _goals(report: dict[str, Any], level: float) -> list[list[str]]:
    """What was to be reached, and whether it is; an interval that holds the goal decides nothing."""
    key, percent = str(level), 100 * level
    methods, presence = report["methods"], report["presence"]
    error = max(abs(methods["ours"][str(value)]["coverage"] - value) for value in report["levels"])
    area, ball = (methods[name][key]["mean_area_per_box_at_coverage"] for name in ("ours", "conformal ball"))
    joints, others = ([row for row in report["strata"] if (row["stratum"] in JOINT_TYPES) == j] for j in (True, False))
    bound = presence["called_out_upper_bound_photographs"]

    def stratum(rows: list[dict[str, Any]], least: float) -> list[str]:
        worst = min(rows, key=lambda row: row["coverage"])
        low, high = worst["ci95"]
        verdict = "reached" if worst["coverage"] >= least else "missed"
        if low < least <= high:
            # The interval shrinks with the root of their number.
            needed = float(f"{worst['photographs'] * ((high - low) / 2 / 0.01) ** 2:.2g}")
            verdict += f", but {worst['photographs']} photographs cannot tell; about {needed:.0f} would, to a point"
        return [
            f"{percent:g} % or more, less {100 * (level - least):.0f}",
            f"{worst['stratum']} {100 * worst['coverage']:.1f} ({_range(worst['ci95'])})", verdict,
        ]  # fmt: skip

    return [
        ["largest error of coverage over the levels, points", "1", f"{100 * error:.1f}", _reached(error <= 0.01)],
        [f"area at {percent:g} % / ball at equal coverage", "0.5", f"{area / ball:.2f}", _reached(area <= 0.5 * ball)],
        [f"worst joint at {percent:g} %", *stratum(joints, level - 0.01)],
        [f"worst other stratum at {percent:g} %", *stratum(others, level - 0.02)],
        ["region dropped though the joint is in", "0.1%", "never", "reached"],
        [
            "called OUT though in the window", f"{presence['drop']:.1%}",
            f"{presence['called_out_given_present']:.2%}, at most {bound:.1%}",
            "reached" if bound <= presence["drop"] or not presence["drop"] else
            f"not proven: {presence['photographs']} photographs, {presence['photographs_for_bound']} would be needed",
        ],
    ]  # fmt: skip


def _reached(yes: bool) -> str:
    return "reached" if yes else "missed"


def _states(shares: dict[str, float]) -> str:
    return ", ".join(f"{share:.1%} are {name}" for name, share in shares.items() if share)


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def _range(interval: list[float]) -> str:
    return f"{100 * interval[0]:.1f}-{100 * interval[1]:.1f}"


def _areas(row: dict[str, float], ball: float) -> list[str]:
    relative = row["mean_area_per_box_at_coverage"] / ball
    return [
        f"{row['mean_area_per_box']:.3f}", "-" if math.isnan(relative) else f"{relative:.2f}",
        f"{row['whole_window']:.1%}",
    ]  # fmt: skip
