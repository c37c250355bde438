"""The page of an evaluation: one HTML file with its plots and pictures inside."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import jinja2
import matplotlib
import numpy as np

from probpose_ros.draw import draw
from probpose_ros.types import FrameResult, FrameState
from probpose_training.coco import CocoKeypoints, read_image
from probpose_training.crop_augmentation import OUTSIDE_IMAGE
from probpose_training.domain import AREAS, PAPER_DOMAINS
from probpose_training.evaluate import Measurement, Predictions
from probpose_training.metrics.binary import THRESHOLDS, Reliability
from probpose_training.metrics.exmap import RECALLS
from probpose_training.report_template import TEMPLATE

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (after the backend is chosen)

WORST, OVERLAYS = 8, 6  # pictures
MIN_JOINTS = 5  # labelled joints for a worst case to say something
PICTURE_HEIGHT = 340  # px
TRUTH_COLOR = (255, 210, 60)  # BGR
BLUE, ORANGE, GREY = "#2563eb", "#ea580c", "#94a3b8"
STYLE: Any = {
    "font.size": 9, "font.family": "sans-serif", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#64748b", "axes.titlesize": 10, "axes.titleweight": "bold", "axes.grid": True,
    "axes.axisbelow": True, "grid.color": "#e2e8f0", "legend.frameon": False, "svg.fonttype": "none",
}  # fmt: skip


def write_report(
    path: Path,
    title: str,
    dataset: CocoKeypoints,
    images: str | Path,
    predictions: Predictions,
    measurement: Measurement,
    domain: dict[str, float],
) -> None:
    """Write the page; the arguments are what `evaluate` made."""
    metrics = measurement.metrics
    with pyplot.rc_context(STYLE):
        plots = {
            "precision_recall": _precision_recall(measurement),
            "accuracy": _accuracy(measurement),
            "reliability": _reliability(measurement.reliabilities),
            "joints": _joints(metrics["joints"]),
        }
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters.update(percent=_percent, number=_number, range=_range)
    page = environment.from_string(TEMPLATE).render(
        title=title,
        m=metrics,
        plots=plots,
        domain=domain,
        areas=AREAS,
        paper_domains=PAPER_DOMAINS,
        worst=_worst_cases(dataset, images, predictions, measurement),
        overlays=_overlays(dataset, images, predictions),
    )
    path.write_text(page)


def _number(value: float, digits: int = 3) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}"


def _range(figure: dict) -> str:
    """``58.0 – 68.2``, in percent."""
    low, high = figure["ci95"]
    return f"{_percent(low)} – {_percent(high)}" if math.isfinite(low) else ""


def svg(figure: matplotlib.figure.Figure) -> str:
    """Inline SVG; its text stays text."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _precision_recall(measurement: Measurement) -> str:
    figure, panels = pyplot.subplots(1, 2, figsize=(8.6, 3.1), sharey=True)
    for panel, name in zip(panels, ("OKS", "Ex-OKS"), strict=True):
        precision = measurement.curves[f"precision {name}"]
        for row, color, label in ((0, GREY, "at .50"), (5, ORANGE, "at .75")):
            panel.plot(RECALLS, precision[row], color=color, label=label)
        panel.plot(RECALLS, precision.mean(axis=0), color=BLUE, linewidth=2, label="mean of .50 – .95")
        panel.set(title=name, xlabel="recall", xlim=(0, 1), ylim=(0, 1.02))
    panels[0].set_ylabel("precision")
    panels[1].legend(loc="lower left")
    return svg(figure)


def _accuracy(measurement: Measurement) -> str:
    figure, panel = pyplot.subplots(figsize=(4.4, 3.1))
    for name, color, style in (("accuracy", BLUE, "-"), ("balanced accuracy", ORANGE, "--")):
        curve = measurement.curves[name]
        if np.isfinite(curve).any():
            best = int(np.nanargmax(curve))
            panel.plot(
                THRESHOLDS, curve, style, color=color, label=f"{name}: {curve[best]:.3f} at {THRESHOLDS[best]:.2f}"
            )
            panel.plot(THRESHOLDS[best], curve[best], "o", color=color, markersize=5)
    panel.set(
        title="In or out of the window", xlabel="presence threshold", ylabel="accuracy", xlim=(0, 1), ylim=(None, 1.005)
    )
    if panel.lines:
        panel.legend(loc="lower center")
    return svg(figure)


def _reliability(curves: dict[str, Reliability]) -> str:
    outcomes = {"presence": "share in the window", "visibility": "share visible", "quality": "mean true OKS"}
    figure, panels = pyplot.subplots(1, 3, figsize=(8.6, 3.0))
    for panel, (name, curve) in zip(panels, curves.items(), strict=True):
        panel.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        panel.plot(curve.predicted, curve.observed, "o-", color=BLUE, markersize=4)
        title = f"{name}, ECE {curve.error:.3f}" if math.isfinite(curve.error) else f"{name}: no data"
        panel.set(
            title=title, xlabel=f"predicted {name}", ylabel=outcomes[name], xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
        )
        panel.set_aspect("equal")
    figure.tight_layout()
    return svg(figure)


def _joints(joints: list[dict]) -> str:
    figure, panel = pyplot.subplots(figsize=(8.6, 3.0))
    place = np.arange(len(joints))
    panel.bar(place - 0.2, [joint["oks"] for joint in joints], 0.4, color=BLUE, label="true OKS")
    panel.bar(place + 0.2, [joint["quality"] for joint in joints], 0.4, color=GREY, label="predicted quality")
    panel.set_xticks(place, [joint["joint"].replace("_", " ") for joint in joints], rotation=40, ha="right")
    panel.set(ylim=(0, 1.1), title="Mean per joint, in the window")
    panel.grid(axis="x", visible=False)
    panel.legend(loc="upper right", ncol=2)
    return svg(figure)


def _worst_cases(
    dataset: CocoKeypoints, images: str | Path, predictions: Predictions, measurement: Measurement
) -> list[dict]:
    """Persons with the lowest mean Ex-OKS, drawn with the truth."""
    pairs = measurement.pairs
    count = pairs.labelled.sum(axis=1)
    score = np.where(pairs.labelled, pairs.ex_oks, 0).sum(axis=1) / np.maximum(count, 1)
    order = [row for row in np.argsort(score, kind="stable") if count[row] >= MIN_JOINTS][:WORST]
    cases = []
    for row in order:
        person, result = pairs.person[row], predictions.results[pairs.result[row]]
        entry = dataset.images[int(dataset.image_ids[person])]
        frame = predictions.frames[entry.id]
        x, y, w, h = result["bbox"]
        nearest = min(frame.people, key=lambda p: float(np.abs(p.bbox - [x, y, x + w, y + h]).sum()))
        labelled = pairs.labelled[row]
        points, outside = dataset.keypoints[person][labelled], dataset.visibility[person][labelled] == OUTSIDE_IMAGE
        picture = _picture(
            read_image(images, entry), FrameResult((nearest,), entry.width, entry.height, FrameState.OK),
            points, outside, pairs.points[row][labelled],
        )  # fmt: skip
        text = f"Ex-OKS {score[row]:.2f}, quality {np.nanmean(nearest.quality):.2f}"
        cases.append({"src": picture, "text": text, "where": f"{entry.file_name}, annotation {dataset.ids[person]}"})
    return cases


def _overlays(dataset: CocoKeypoints, images: str | Path, predictions: Predictions) -> list[dict]:
    """Pictures spread evenly over the set, not chosen."""
    seen = [image_id for image_id, frame in predictions.frames.items() if frame.people]
    chosen = [seen[i] for i in np.unique(np.linspace(0, len(seen) - 1, OVERLAYS).astype(int))] if seen else []
    rows = []
    for image_id in chosen:
        entry = dataset.images[image_id]
        canvas = draw(read_image(images, entry), predictions.frames[image_id], margin=0.1, legend=False)
        rows.append(
            {
                "src": _jpeg(canvas),
                "text": f"people: {len(predictions.frames[image_id].people)}",
                "where": entry.file_name,
            }
        )
    return rows


def _picture(
    image: np.ndarray, frame: FrameResult, points: np.ndarray, outside: np.ndarray, predicted: np.ndarray
) -> str:
    """One person in its window: the prediction as on the robot, the truth as crosses, a line from one to the other."""
    window = frame.people[0].window
    low = np.floor(np.minimum(window[:2], points.min(axis=0)) - 4).astype(int)
    high = np.ceil(np.maximum(window[2:], points.max(axis=0)) + 4).astype(int)
    scale = PICTURE_HEIGHT / (high[1] - low[1])
    # Drawn on an enlarged image, so that lines are as fine on a small person as on a big one.
    matrix = np.array([[scale, 0, -low[0] * scale], [0, scale, -low[1] * scale]])
    size = tuple(int(v) for v in np.ceil((high - low) * scale))
    canvas = cv2.warpAffine(
        image, matrix, size, flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR, borderValue=(46, 42, 40)
    )
    canvas = draw(canvas, _scaled(frame, scale, low), legend=False)
    for point, away, found in zip((points - low) * scale, outside, (predicted - low) * scale, strict=True):
        x, y = (int(round(v)) for v in point)
        cv2.line(canvas, (x, y), tuple(int(round(v)) for v in np.clip(found, -9999, 9999)), TRUTH_COLOR, 1, cv2.LINE_AA)
        mark = cv2.MARKER_DIAMOND if away else cv2.MARKER_TILTED_CROSS
        cv2.drawMarker(canvas, (x, y), TRUTH_COLOR, mark, 9, 2, cv2.LINE_AA)
    return _jpeg(canvas)


def _scaled(frame: FrameResult, scale: float, origin: np.ndarray) -> FrameResult:
    """The frame as seen in a picture whose pixel (0, 0) is ``origin`` and that is ``scale`` times as large."""
    person = frame.people[0]
    shift = np.concatenate([origin, origin])
    moved_person = replace(
        person,
        bbox=((person.bbox - shift) * scale).astype(np.float32),
        window=((person.window - shift) * scale).astype(np.float32),
        keypoints=((person.keypoints - origin) * scale).astype(np.float32),
        regions=None,
    )
    return replace(frame, people=(moved_person,))


def _jpeg(image: np.ndarray) -> str:
    """A data URI."""
    height = image.shape[0]
    if height > PICTURE_HEIGHT:
        factor = PICTURE_HEIGHT / height
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
