"""What the bench found -> a Markdown table and a plot. Every target has a row, also one that was not measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any


class Target:
    """A ratio that should be at most ``limit``; path: where it is in the JSON.

    why: the reason where it is missed; what stands in it in braces, a path, is replaced by the number found there.
    """

    def __init__(self, name: str, limit: float, path: str, why: str, unit: str = "") -> None:
        self.name, self.limit, self.path, self.why, self.unit = name, limit, path.split("/"), why, unit

    def reason(self, results: dict[str, Any]) -> str:
        def number(path: re.Match[str]) -> str:
            value, _ = find(results, path[1].split("/"))
            return "?" if value is None else f"{value['median'] if isinstance(value, dict) else value:.2f}"

        return re.sub(r"\{(.+?)\}", number, self.why)

    def row(self, results: dict[str, Any]) -> str:
        value, reason = find(results, self.path)
        if value is None:
            return f"| {self.name} | not measured: {reason} | {self.limit:g}{self.unit} | |"
        spread = ""
        if isinstance(value, dict):
            spread = f" ({value['q25']:.3f} to {value['q75']:.3f})" if "q25" in value else ""
            spread += f", {value['case']}" if "case" in value else ""
            value = value["median"]
        missed = f"**missed by {value / self.limit - 1:.0%}**" if self.limit else "**missed**"
        verdict = "met" if value <= self.limit else f"{missed}: {self.reason(results)}"
        return f"| {self.name} | {value:.3g}{self.unit}{spread} | {self.limit:g}{self.unit} | {verdict} |"


TARGETS = [
    Target("our ProbPose-s graph / published path, 1 thread", 0.75, "networks/1 threads/ours | published", "-"),
    Target("the same, 2 threads", 0.6, "networks/2 threads/ours | published", "less shares well"),
    Target(
        "sparsemax, decode and regions / sort, SciPy and NumPy", 0.05, "networks/tail/ours | published",
        "{networks/tail/ms/regions} ms are regions with polygons, ellipses and covariances that contain them, where "
        "the other side makes masks; sparsemax and decode are {networks/tail/ms/sparsemax and decode} ms",
    ),
    Target(
        "sparsemax and decode / sort and SciPy", 0.05, "networks/tail/without regions",
        "{networks/tail/ms/sparsemax and decode} ms: seven Newton steps over all cells, each five passes, and two "
        "products of matrices",
    ),
    Target(
        "forward / (13.44 GFLOP at the GEMM rate of this run), 1 thread", 1.3, "networks/1 threads/ours | floor",
        "softmax, normalisation and transposes are no products",
    ),
    Target(
        "the same, 2 threads", 1.3, "networks/2 threads/ours | floor",
        "{networks/2 threads/ms/ours} ms in the median, {networks/2 threads/ms/ours/min} at best, over a floor of "
        "{networks/2 threads/floor_ms} by the fastest product; what is no product does not share as well",
    ),
    Target(
        "INT8 / fp32, ProbPose-s, 1 thread (random weights: no accuracy)", 0.6,
        "networks/1 threads/int8 | fp32, ProbPose-s", "attention stays in float",
    ),
    Target(
        "INT8 / fp32, bundled pose network, 1 thread (accuracy: below)", 0.6,
        "networks/1 threads/int8 | fp32, bundled",
        "{networks/1 threads/ms/bundled int8} instead of {networks/1 threads/ms/bundled} ms: sparsemax, decode and the "
        "image's normalisation stay in float",
    ),
    Target(
        "bundled default network / ProbPose-s", 0.06, "networks/1 threads/bundled | ProbPose-s",
        "the bundled network was made larger for accuracy",
    ),
    Target(
        "node frame time / (detector and pose network alone)", 1.1, "node/frame/node | networks",
        "{node/frame/node_ms} ms beside networks of {node/frame/networks_ms}: letterbox and boxes "
        "{node/frame/parts/letterbox and boxes}, crops {node/frame/parts/crops}, checks of the maps "
        "{node/frame/parts/checks of the maps}, regions {node/frame/parts/regions}, the rest "
        "{node/frame/parts/waking up, reading, tracks, message}",
    ),
    Target(
        "result build and publish, 5 people / frame", 0.02, "node/result/share",
        "{node/result/ms} of {node/result/frame_ms} ms",
    ),
    Target("1080p latency, two processes / one", 2.5, "transport/1080p ratio", "waking the other process"),
    Target("images lost of 1000 at 1080p, 30 Hz", 0, "transport/1080p lost", "the machine was too busy to take them"),
    Target(
        "frame age at 3 x overload, p99, in frame times", 2.0, "node/overload/p99 age | frame",
        "p50 {node/overload/age_ms/p50} ms, p99 {node/overload/age_ms/p99} when received and "
        "{node/overload/age_ms when sent/p99} when sent, frames of {node/overload/frame_ms}: the newest image waits "
        "for the one in hand, and the sender of all these images has the same cores",
    ),
    Target("GPU: our graph / eager published path, batch 1, end to end", 0.1, "gpu/ours | published", "-"),
    Target("GPU: per person at batch 8 / batch 1", 0.25, "gpu/batch 8 | batch 1", "-"),
    Target("GPU: forward / floor", 4.0, "gpu/ours | floor", "-"),
]  # fmt: skip


def find(results: dict[str, Any], path: list[str]) -> tuple[Any, str]:
    """The value at a path, or None and why it is not there. In a path | stands for / in a name."""
    value: Any = results
    for part in path:
        if isinstance(value, dict) and "skipped" in value and isinstance(value["skipped"], str):
            return None, value["skipped"]
        value = value.get(part.replace(" | ", " / ")) if isinstance(value, dict) else None
        if value is None:
            return None, "this part did not run"
    return value, ""


def markdown(results: dict[str, Any]) -> str:
    """Tables; what is missing says why."""
    host = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in host["versions"].items())
    models = " and ".join(f"{name} ({sha256[:8]})" for name, sha256 in results.get("models", {}).items())
    lines = [
        f"{host['cpu']}, {host['cores']} cores, load {host['load_at_start']:.1f} before the run, {host['date']}; "
        f"{versions}; bundled networks: {models or 'not recorded'}. Ratios are medians of rounds in which both "
        "sides took turns, with quartiles; 1 thread: processor time.", "",
        "| ratio | measured | target | |", "|---|---|---|---|", *(target.row(results) for target in TARGETS), "",
    ]  # fmt: skip
    for threads in ("1 threads", "2 threads"):
        times, reason = find(results, ["networks", threads, "ms"])
        lines += ["", f"**One person, {threads.replace('1 threads', '1 thread')}, ms**", ""]
        if times is None:
            lines.append(f"not measured: {reason}")
            continue
        lines += ["| | median | best |", "|---|---|---|"]
        lines += [f"| {name} | {row['median']:.2f} | {row['min']:.2f} |" for name, row in times.items()]
    if (tail := find(results, ["networks", "tail", "ms"])[0]) is not None:
        lines += ["", "**After the network, one person, 1 thread, ms**", "", "| | median |", "|---|---|"]
        lines += [f"| {name} | {row['median']:.2f} |" for name, row in tail.items()]
    frames = results.get("frames", {})
    for kind, title in (("people", "people"), ("size", "image, 2 people"), ("cameras", "cameras, 2 people each")):
        if kind in frames:
            names = list(next(iter(frames[kind].values())))
            lines += ["", f"**Whole frames with the bundled models, ms, all cores: {title}**", ""]
            lines += ["| | " + " | ".join(names) + " | frames/s |", "|---" * (len(names) + 2) + "|"]
            for value, row in frames[kind].items():
                cells = " | ".join(f"{row[name]:.2f}" for name in names)
                lines.append(f"| {value} | {cells} | {1000 / row['frame']:.1f} |")
    if (frame := find(results, ["node", "frame"])[0]) is not None:
        lines += ["", f"**A frame of the node, {frame['people']} people, until the result is sent**", ""]
        lines += ["Differences of medians: a small part may come out below zero.", ""]
        lines += ["| | ms | share |", "|---|---|---|"]
        lines += [f"| {name} | {ms:.2f} | {ms / frame['node_ms']:.0%} |" for name, ms in frame["parts"].items()]
    if "sizes" in (transport := results.get("transport", {})):
        lines += ["", "**Images between processes, 30 Hz, best effort, newest only**", ""]
        lines += ["| | way | arrived | p50 ms | p99 ms |", "|---|---|---|---|---|"]
        for size, ways in transport["sizes"].items():
            for way, row in ways.items():
                times = "{p50:.1f} | {p99:.1f}".format(**row["ms"]) if row["ms"] else "- | -"  # - where none arrived
                lines.append(f"| {size} | {way} | {row['received']} of {row['sent']} | {times} |")
    for part, content in results.items():
        if isinstance(content, dict) and isinstance(content.get("skipped"), str):
            lines += ["", f"Not run: {part}: {content['skipped']}."]
        elif isinstance(content, dict) and content.get("skipped"):
            lines += ["", *(f"Left out: {name}: {reason}." for name, reason in content["skipped"].items())]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """Stages by people, image size and cameras; and the ways through ProbPose-s."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(16, 4), constrained_layout=True)
    for axis, kind in zip(axes, ("people", "size", "cameras")):
        rows = results.get("frames", {}).get(kind, {})
        below = [0.0] * len(rows)
        for stage in ("detect", "crop", "pose", "regions"):
            heights = [row[stage] for row in rows.values()]
            axis.bar(list(rows), heights, bottom=below, label=stage)
            below = [a + b for a, b in zip(below, heights)]
        axis.set(xlabel=kind, ylabel="ms a frame" if kind == "people" else "")
    axes[0].legend()
    times = find(results, ["networks", "1 threads", "ms"])[0] or {}
    shown = {name: row["median"] for name, row in times.items() if not name.startswith("GEMM")}
    axes[3].barh(list(shown)[::-1], list(shown.values())[::-1])
    axes[3].set(xlabel="ms, one person, 1 thread")
    figure.savefig(path, dpi=100)
