"""A trajectory as one self-contained HTML page, which opens offline."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment
from plotly.offline import get_plotlyjs

from hooked_diffusion.html import table
from mechshift_tl.compare.result import CAVEAT
from mechshift_tl.plotting import FONT, INK, Drawing
from mechshift_tl.study.trajectory.result import Trajectory

CAPTION = (
    "{task}, n {n} prompts (circuits run on {run} others, accuracy on {read}). Line and band: value and 95 % over prompts. Line across: "
    "the ARM. Dotted and dashed: floor (97.5 % of random circuits of the same layer profile) and ceiling (split halves) of the MDM. "
    "Shaded: where half of the MDM's change lies, 95 %."
)
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>{{ title }}</title>
<style>
body { margin: 1.5rem auto; max-width: 75rem; padding: 0 1rem; font-family: {{ font | safe }}; color: {{ ink }} }
table { border-collapse: collapse; font-size: .8rem } td, th { padding: .2rem .5rem; border-bottom: 1px solid #e3e7eb; text-align: left }
.wide { overflow-x: auto }
</style>
<script>{{ plotly_js | safe }}</script>
</head>
<body>
<h1>{{ title }}</h1>
{% for said in findings %}<p>{{ said }}</p>
{% endfor %}
<p>{{ caveat }}</p>
<div class="wide">{{ changes }}</div>
{% for drawing in drawings %}
<h2>{{ drawing.title }}</h2>
{{ drawing.to_html("figure-" ~ loop.index) }}
<p>{{ drawing.caption }}</p>
{% endfor %}
<details><summary>Every figure</summary><div class="wide">{{ points }}</div></details>
</body>
</html>
"""  # noqa: E501


def write_trajectory_report(trajectory: Trajectory, path: str | Path) -> Path:
    """Write the page to `path`, some 5 MB; returns it. The same trajectory gives the same bytes."""
    page = Environment(autoescape=True).from_string(PAGE)
    html = page.render(
        title=f"From {trajectory.arm} to a masked-diffusion model", font=FONT, ink=INK, plotly_js=get_plotlyjs(), caveat=CAVEAT,
        findings=trajectory.findings(), changes=table(trajectory.changes_table(), missing="–"),
        drawings=[_drawing(trajectory, task) for task in trajectory.tasks],
        points=table(trajectory.to_dataframe(), missing="–"),
    )  # fmt: skip
    Path(path).write_text(html, encoding="utf-8")
    return Path(path)


def _drawing(trajectory: Trajectory, task: str) -> Drawing:
    first = trajectory.of(task, "mdm")[0]
    caption = CAPTION.format(task=task, n=first.n_scored, run=first.n_run, read=first.n_read)
    return Drawing(trajectory.figure(task), task, caption)
