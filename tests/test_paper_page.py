"""`docs/paper.md`: it answers every row that was asked for, and every section and option that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mechshift_tl.cli.run import run
from mechshift_tl.study.measurements import MEASUREMENTS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")


@pytest.mark.shared
def test_every_row_has_an_answer() -> None:
    seeds = (ROOT.parent / "shared" / "SEEDS.md").read_text(encoding="utf-8")
    asked = re.findall(r"^\| ([A-Z]\d) \|", seeds, re.M)
    answered = {one for cell in re.findall(r"^\| ([A-Z]\d(?:, [A-Z]\d)*) \|", PAGE, re.M) for one in cell.split(", ")}
    assert len(asked) >= 20 and set(asked) == answered


def test_its_sections_are_in_the_report() -> None:
    pages = sorted((ROOT / "mechshift_tl" / "report" / "templates").glob("*.html.j2"))
    template = "".join(page.read_text(encoding="utf-8") for page in pages).replace("’", "'")
    titles = {one.title for one in MEASUREMENTS} | set(re.findall(r"<h[23][^>]*>([^<{]+)</h[23]>", template))
    named = set(re.findall(r"\*([A-Z][^*]+?)\*[,:;|. ]", PAGE.replace("*Mechanism Shift", "Mechanism Shift")))
    assert named and named - titles == set()


def test_its_options_are_those_of_the_command() -> None:
    from inspect import signature

    known = {name.replace("_", "-") for name in signature(run).parameters}
    assert {one for line in re.findall(r"mechshift run .*|`--[^`]+`", PAGE) for one in re.findall(r"--([a-z-]+)", line)} <= known
