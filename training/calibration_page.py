"""The coverage report of a calibration as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
from matplotlib import pyplot

from probpose_training.report import BLUE, GREY, ORANGE, STYLE, svg

# ruff: noqa: E501

COLOURS = {"ours": BLUE, "raw map mass": ORANGE, "temperature scaling (paper)": "#b45309"}

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Calibrated regions: {{ r.model }}</title>
<style>
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: #0f172a; margin: 0; background: #f8fafc; }
main { max-width: 1080px; margin: 0 auto; padding: 36px 28px 72px; background: #fff; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 8px; } p { margin: 4px 0 12px; max-width: 80ch; }
.soft { color: #64748b; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; margin: 8px 0 14px; }
th, td { padding: 4px 11px 4px 0; text-align: right; border-bottom: 1px solid #e2e8f0; white-space: nowrap; }
th { font-weight: 600; color: #64748b; } th:first-child, td:first-child { text-align: left; } tr.ours td { font-weight: 600; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body><main>
<h1>Calibrated regions: {{ r.model }}</h1>
<p class="soft">Data: {{ r.data }}; boxes: {{ r.boxes }}. {{ r.keypoints }} annotated keypoints in the activation window,
{{ r.photographs }} photographs, {{ r.reshuffles }} reshuffles (15 % of the photographs fit, 45 % calibrate, 40 % test).
{{ r.persons_without_box }} of {{ r.persons }} annotated people have no box: no region covers them.</p>
<p>On data exchangeable with this set, with detected persons, the {{ level | level }} % regions contained the annotated joint in
{{ ours.coverage | percent }} % (95 % interval over photographs {{ r.ci95[key][0] | percent }} – {{ r.ci95[key][1] | percent }} %),
per joint, per frame, at exposure time. One keypoint of each of {{ single.photographs }} test photographs of one split:
{{ single.ci95[0] | percent }} – {{ single.ci95[1] | percent }} % (Clopper-Pearson).
Not a safety function; no PL or SIL claimed; not for the sole protection of persons.</p>
{% if r.unsupported %}<p>Not supported by this much data:</p><ul>{% for line in r.unsupported %}<li>{{ line }}</li>{% endfor %}</ul>{% endif %}

<h2>Coverage</h2>
{{ plot | safe }}
<div class="scroll"><table>
<tr><th>coverage, %</th>{% for l in r.levels %}<th>{{ l | level }}</th>{% endfor %}<th>area / box at {{ level | level }}</th><th>median</th><th>whole window</th></tr>
{% for name, row in r.methods.items() %}<tr{% if name == "ours" %} class="ours"{% endif %}><td>{{ name }}</td>
{% for l in r.levels %}<td>{{ row[l | string].coverage | percent }}</td>{% endfor %}
<td>{{ "%.3f" | format(row[key].mean_area_per_box) }}</td><td>{{ "%.3f" | format(row[key].median_area_per_box) }}</td><td>{{ row[key].whole_window | percent }} %</td></tr>
{% endfor %}
{% for name, rows in [("ours: 95 % interval over photographs", r.ci95), ("ours: 95 % of the reshuffles", r.spread)] %}
<tr><td>{{ name }}</td>{% for l in r.levels %}<td>{{ rows[l | string][0] | percent }} – {{ rows[l | string][1] | percent }}</td>{% endfor %}<td></td><td></td><td></td></tr>
{% endfor %}
</table></div>

<h2>Strata at {{ level | level }} %</h2>
<div class="scroll"><table>
<tr><th></th><th>keypoints</th><th>photographs</th><th>coverage</th><th>95 % interval</th><th>area / box</th><th>whole window</th></tr>
{% for s in r.strata %}<tr><td>{{ s.stratum }}</td><td>{{ s.n }}</td><td>{{ s.photographs }}</td><td>{{ s.coverage | percent }}</td>
<td>{{ s.ci95[0] | percent }} – {{ s.ci95[1] | percent }}</td><td>{{ "%.3f" | format(s.mean_area_per_box) }}</td><td>{{ s.whole_window | percent }} %</td></tr>
{% endfor %}
</table></div>

<h2>All joints of a person at once</h2>
<div class="scroll"><table>
<tr><th>persons all of whose joints in the window are held, % of {{ r.together.marginal.persons }}</th>{% for l in r.levels %}<th>{{ l | level }}</th>{% endfor %}<th>area / box at {{ level | level }}</th></tr>
{% for kind, table in r.together.items() %}<tr><td>{{ kind }} regions</td>{% for l in r.levels %}<td>{{ table.levels[l | string].coverage | percent }}</td>{% endfor %}<td>{{ "%.3f" | format(table.levels[key].mean_area_per_box) }}</td></tr>
{% endfor %}
<tr><td>simultaneous: 95 % interval over photographs</td>{% for l in r.levels %}{% set ci = r.together.simultaneous.levels[l | string].ci95 %}<td>{{ ci[0] | percent }} – {{ ci[1] | percent }}</td>{% endfor %}<td></td></tr>
</table></div>

<h2>Truth in exact zeros of the map</h2>
<p>{{ r.zeros.share | percent }} % of {{ r.zeros.n }} keypoints lie where the map is exactly 0: no threshold on its mass can hold them.</p>
<table><tr><th></th><th>keypoints</th><th>in exact zeros</th></tr>
{% for part in [r.zeros.joints, r.zeros.quality] %}{% for name, row in part.items() %}<tr><td>{{ name }}</td><td>{{ row.n }}</td><td>{{ row.share | percent }} %</td></tr>{% endfor %}{% endfor %}
</table>

<h2>Presence</h2>
<table>
<tr><th>{{ p.in }} in, {{ p.out }} out of the window</th><th>network</th><th>calibrated</th></tr>
<tr><td>AUROC</td><td>{{ "%.3f" | format(p.auroc) }}</td><td></td></tr>
<tr><td>Brier score</td><td>{{ "%.4f" | format(p.brier_raw) }}</td><td>{{ "%.4f" | format(p.brier) }}</td></tr>
<tr><td>ECE (perfect: {{ "%.4f" | format(p.ece_of_perfect_calibration) }})</td><td>{{ "%.4f" | format(p.ece_raw) }}</td><td>{{ "%.4f" | format(p.ece) }}</td></tr>
<tr><td>NLL</td><td></td><td>{{ "%.4f" | format(p.nll) }}</td></tr>
<tr><td>regions dropped though the joint is in</td><td></td><td>none, in no state</td></tr>
<tr><td>called OUT though in (upper bound if keypoints were independent)</td><td></td><td>{{ "%.2f" | format(100 * p.called_out_given_present) }} % ({{ "%.2f" | format(100 * p.called_out_upper_bound) }} %)</td></tr>
<tr><td>the bound with one keypoint of each of {{ p.photographs }} photographs ({{ p.photographs_for_bound }} without one would show {{ p.drop | level }} %)</td><td></td><td>{{ "%.1f" | format(100 * p.called_out_upper_bound_photographs) }} %</td></tr>
<tr><td>called IN though out (nominal {{ p.alpha | level }} %)</td><td></td><td>{{ p.called_in_given_absent | percent }} %</td></tr>
</table>
<p>Quality against the true OKS: calibration error {{ "%.4f" | format(r.quality_error[0]) }} of the network, {{ "%.4f" | format(r.quality_error[1]) }} calibrated.</p>
</main></body></html>
"""


def write_page(path: Path, report: dict[str, Any], level: float) -> None:
    """Write the page of :func:`probpose_training.calibration_report.coverage`; ``level``: of the strata."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["percent"] = lambda value: f"{100 * value:.1f}"
    environment.filters["level"] = lambda value: f"{100 * value:g}"
    with pyplot.rc_context(STYLE):
        plot = _plot(report)
    page = environment.from_string(TEMPLATE).render(
        r=report, p=report["presence"], level=level, key=str(level), plot=plot,
        ours=report["methods"]["ours"][str(level)], single=report["one_keypoint_per_photograph"],
    )  # fmt: skip
    path.write_text(page)


def _plot(report: dict[str, Any]) -> str:
    """Coverage over level of every method, and area over coverage."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9.2, 3.4))
    for name, table in report["methods"].items():
        coverage = [100 * table[str(level)]["coverage"] for level in report["levels"]]
        area = [table[str(level)]["mean_area_per_box"] for level in report["levels"]]
        style = {"color": COLOURS.get(name, GREY), "marker": "o", "markersize": 3, "lw": 2 if name == "ours" else 1.2}
        dash = {"conformal ellipse": ":", "conformal ball, by quality": "--"}.get(name, "-")
        left.plot([100 * level for level in report["levels"]], coverage, dash, label=name, **style)
        right.plot(coverage, area, dash, **style)
    left.plot([45, 100], [45, 100], color="#0f172a", lw=0.8)
    left.set(title="Coverage", xlabel="level, %", ylabel="annotated joints inside, %")
    right.set(title="What it costs", xlabel="coverage, %", ylabel="mean area / box area", yscale="log")
    left.legend(fontsize=7)
    figure.tight_layout()
    return svg(figure)
