"""A figure as a page of its own: it opens offline, says the same every time, and escapes its title."""

from __future__ import annotations

import re

import plotly.graph_objects as go

from mechshift_tl.report.page import write_page


def test_a_page_loads_nothing_and_is_the_same_every_time(tmp_path) -> None:
    for name in ("a.html", "b.html"):
        write_page(go.Figure(go.Scatter(x=[1, 2], y=[3, 4])), tmp_path / name, "<b>Edges</b> & more")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "b.html").read_text(encoding="utf-8")
    assert "<title>&lt;b&gt;Edges&lt;/b&gt; &amp; more</title>" in page and "<b>Edges" not in page
    assert page.count("plotly.js v") == 1 and "Plotly.newPlot(" in page and "default-src 'none'" in page
    assert not re.search(r"<(script|link|img|iframe)[^>]*\s(src|href)=", page)
