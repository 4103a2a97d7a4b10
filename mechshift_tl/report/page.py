"""One figure as a page of its own, which opens offline: plotly.js is in it, and its policy forbids it to load anything."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
from jinja2 import Environment
from plotly.offline import get_plotlyjs

from mechshift_tl.plotting import FONT, INK, Drawing

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:">
<title>{{ title }}</title>
<style>body { margin: 1.5rem; font-family: {{ font | safe }}; color: {{ ink }} } h1 { font-size: 1.2rem; font-weight: 600 }</style>
<script>{{ plotly_js | safe }}</script>
</head>
<body>
<h1>{{ title }}</h1>
{{ drawing }}
</body>
</html>
"""  # noqa: E501


def write_page(figure: go.Figure, path: str | Path, title: str) -> None:
    """Write `figure` under its `title` to `path`, some 5 MB of HTML; the same figure gives the same bytes."""
    drawing = Drawing(figure, title, "").to_html("figure")
    page = Environment(autoescape=True).from_string(PAGE)
    html = page.render(title=title, font=FONT, ink=INK, plotly_js=get_plotlyjs(), drawing=drawing)
    Path(path).write_text(html, encoding="utf-8")
