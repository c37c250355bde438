"""The HTML of the evaluation report (jinja2)."""

# ruff: noqa: E501

TEMPLATE = """{% macro figure(f) %}{{ f.value | percent }}<i>{{ f | range }}</i>{% endmacro -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { --ink: #0f172a; --soft: #64748b; --line: #e2e8f0; --blue: #2563eb; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--ink); margin: 0; background: #f8fafc; }
main { max-width: 1080px; margin: 0 auto; padding: 36px 28px 72px; background: #fff; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 40px 0 8px; } p { margin: 4px 0 12px; max-width: 78ch; }
.soft, figcaption { color: var(--soft); } .small { font-size: 13px; }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 22px 0 6px; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.card b { display: block; font-size: 26px; line-height: 1.2; font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; margin: 8px 0 14px; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--soft); } th:first-child, td:first-child { text-align: left; } tr.this td { font-weight: 600; }
td i { font-style: normal; font-size: 12px; color: var(--soft); margin-left: 7px; }
.plots { display: flex; flex-wrap: wrap; gap: 28px; align-items: flex-start; } svg { max-width: 100%; height: auto; } .wide svg { width: 780px; }
.pictures { display: flex; flex-wrap: wrap; gap: 14px; } figure { margin: 0; } figure img { display: block; border-radius: 6px; height: 244px; }
figcaption { font-size: 12px; margin-top: 4px; }
</style>
</head>
<body><main>
<h1>{{ title }}</h1>
<p class="soft">{{ m.images }} images, {{ m.persons }} annotated people, {{ m.predictions }} predictions
({{ m.persons_matched }} matched), boxes: {{ m.boxes }}. Read: {{ m.skipped }}. Beside a number, in grey: its 95 % interval over photographs.</p>

<div class="cards">
<div class="card"><b>{{ m.coco["AP"].value | percent }}</b>AP<br><span>{{ m.coco["AP"] | range }}</span></div>
<div class="card"><b>{{ m.extended.paper_split["AP"].value | percent }}</b>Ex-AP<br><span>{{ m.extended.paper_split["AP"] | range }}</span></div>
<div class="card"><b>{{ m.presence.auroc.value | number }}</b>presence AUROC<br>
<span>{{ m.presence.in }} in, {{ m.presence.out }} out of the window</span></div>
<div class="card"><b>{{ m.quality.mean_oks | number }}</b>mean OKS of a joint<br><span>quality says {{ m.quality.mean_quality | number }}</span></div>
</div>

<h2>Average precision</h2>
<table>
<tr><th>percent</th>{% for name in ["AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR"] %}<th>{{ name }}</th>{% endfor %}</tr>
{% for label, row in [("OKS, pycocotools", m.coco), ("Ex-OKS, paper's distance", m.extended.paper),
  ("Ex-OKS, threshold from a split", m.extended.paper_split), ("Ex-OKS, exococotools", m.extended.exococotools)] %}
<tr><td>{{ label }}</td>{% for name in ["AP", "AP .5", "AP .75", "AP (M)", "AP (L)", "AR"] %}<td>{{ figure(row[name]) }}</td>{% endfor %}</tr>
{% endfor %}
</table>
<table>
<tr><th>Ex-AP by visibility</th>{% for name in m.extended.paper if name.startswith("AP (v=") %}<th>{{ name[4:-1] }}</th>{% endfor %}<th>threshold</th></tr>
{% for label, row in [("paper's distance", m.extended.paper), ("exococotools", m.extended.exococotools)] %}
<tr><td>{{ label }}</td>{% for name in row if name.startswith("AP (v=") %}<td>{{ figure(row[name]) }}</td>{% endfor %}<td>{{ row.threshold | number(2) }}</td></tr>
{% endfor %}
</table>
<p class="soft small">v = 1 occluded, 2 visible, 3 outside the activation window. The presence threshold is the one of the highest in-or-out accuracy on
this set's own labels, as published tables do it; the split row takes it for each half of the photographs from the other half
({{ m.extended.paper_split.threshold[0] | number(2) }} and {{ m.extended.paper_split.threshold[1] | number(2) }}).</p>
<div class="wide">{{ plots.precision_recall | safe }}</div>

<h2>Presence: in the activation window or not</h2>
<div class="plots"><div>{{ plots.accuracy | safe }}</div>
<table>
<tr><th>over labelled joints</th><th></th></tr>
{% for label, key in [("best accuracy, percent", "accuracy"), ("accuracy, threshold from a split", "accuracy_split"),
  ("best balanced accuracy", "balanced_accuracy")] %}
<tr><td>{{ label }}</td><td>{{ figure(m.presence[key]) }}</td></tr>
{% endfor %}
{% for label, key in [("AUROC", "auroc"), ("Brier score", "brier"), ("calibration error (ECE)", "ece")] %}
<tr><td>{{ label }}</td><td>{{ m.presence[key].value | number }}<i>{{ m.presence[key].ci95[0] | number }} – {{ m.presence[key].ci95[1] | number }}</i></td></tr>
{% endfor %}
<tr><td>ECE if it were perfect</td><td>{{ m.presence.ece_of_perfect_calibration | number }}</td></tr>
</table></div>

<h2>Do the numbers mean what they say?</h2>
<p class="soft small">Each dot holds as many joints as the others. On the line, the prediction is honest; below it, too sure.</p>
<div class="wide">{{ plots.reliability | safe }}</div>
<table>
<tr><th></th><th>AUROC</th><th>Brier</th><th>ECE</th></tr>
<tr><td>visibility ({{ m.visibility.visible }} visible, {{ m.visibility.occluded }} occluded)</td><td>{{ m.visibility.auroc | number }}</td><td>{{ m.visibility.brier | number }}</td><td>{{ m.visibility.ece | number }}</td></tr>
</table>
<table>
<tr><th></th><th>rank correlation</th><th>mean absolute error</th><th>ECE</th></tr>
<tr><td>quality against true OKS ({{ m.quality.keypoints }} joints)</td><td>{{ m.quality.rank_correlation | number }}</td><td>{{ m.quality.mean_absolute_error | number }}</td><td>{{ m.quality.calibration_error | number }}</td></tr>
</table>

<h2>Joint by joint</h2>
<div class="wide">{{ plots.joints | safe }}</div>
<table>
<tr><th>joint</th><th>in</th><th>out</th><th>OKS</th><th>OKS &gt; ½, %</th><th>Ex-OKS</th><th>quality</th><th>presence right, %</th></tr>
{% for j in m.joints %}
<tr><td>{{ j.joint.replace("_", " ") }}</td><td>{{ j.in }}</td><td>{{ j.out }}</td><td>{{ j.oks | number }}</td><td>{{ j.oks_above_half | percent }}</td><td>{{ j.ex_oks | number }}</td><td>{{ j.quality | number }}</td><td>{{ j.presence_accuracy | percent }}</td></tr>
{% endfor %}
</table>

<h2>Domain</h2>
<p class="soft small">Where the annotated joints lie, in percent: {% for area, text in areas.items() %}{{ area }} {{ text }}{{ "; " if not loop.last }}{% endfor %}.</p>
<table>
<tr><th></th>{% for area in areas %}<th>{{ area }}</th>{% endfor %}</tr>
<tr class="this"><td>this set</td>{% for value in domain.values() %}<td>{{ value | number(1) }}</td>{% endfor %}</tr>
{% for name, row in paper_domains.items() %}<tr><td>{{ name }} (paper)</td>{% for value in row %}<td>{{ value | number(1) }}</td>{% endfor %}</tr>{% endfor %}
</table>

<h2>Worst cases</h2>
<p class="soft small">Lowest mean Ex-OKS of a person. Prediction: green in, orange in or out, red ring out; light blue: the truth (cross in the image,
diamond outside it) and the way to it. Dashed: activation window.</p>
<div class="pictures">{% for p in worst %}<figure><img src="{{ p.src }}" alt="{{ p.where }}"><figcaption>{{ p.text }}<br>{{ p.where }}</figcaption></figure>{% endfor %}</div>

<h2>Samples</h2>
<p class="soft small">Images spread evenly over the set, not chosen; ellipses: uncertainty regions.</p>
<div class="pictures">{% for p in overlays %}<figure><img src="{{ p.src }}" alt="{{ p.where }}"><figcaption>{{ p.text }}<br>{{ p.where }}</figcaption></figure>{% endfor %}</div>
</main></body></html>
"""
