"""A real browser, cut off from every network, shows the whole report: nothing is cut off, nothing is small, nobody is locked out."""

import csv
import io
import xml.etree.ElementTree as ET
from importlib import resources
from pathlib import Path

import pytest

from hooked_diffusion import load_pair
from mechshift_tl.report import write_report
from mechshift_tl.study import StudyConfig, run_study
from mechshift_tl.tasks import TASKS

pytestmark = pytest.mark.browser
WIDTHS, THEMES = (390, 900, 1280), ("light", "dark")
UNFOLD = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
SETTLED = "new Promise(done => setTimeout(done, 1500))"
WIDER = """[...document.querySelectorAll('figure, .drawing, .maps, .tape, svg.map, .first, main')].filter(
    one => one.clientWidth && one.scrollWidth > one.clientWidth + 1).map(one => `${one.tagName} ${one.id} ${one.className}`)"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The report of a small study of the bundled pair, with measurements, a run to play, and components."""
    pair = load_pair("tiny")
    config = StudyConfig(
        n=8, held_out=4, ig_steps=2, n_boot=4, n_random=4, verdict_draws=50, permutations=20, null_circuits=2, validity_n=2,
        validity_edges=5, measurements="quick",
    )  # fmt: skip
    study = run_study(pair, [TASKS["ioi"](), TASKS["countdown"]()], config)
    return write_report(study, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture(params=[(width, theme) for width in WIDTHS for theme in THEMES], ids=lambda one: f"{one[0]}-{one[1]}")
def opened(request, tab, page):
    width, theme = request.param
    tab.problems.clear()
    tab.open(page, width, 800, theme)
    return tab


def test_nothing_is_cut_off_and_nothing_complains(opened):
    assert opened.run("document.documentElement.scrollWidth <= innerWidth")
    opened.run(UNFOLD)
    opened.run(SETTLED)
    assert opened.run(WIDER) == []
    drawn, all_ = opened.run("[document.querySelectorAll('.plot .main-svg').length > 0, document.querySelectorAll('.plot').length]")
    assert drawn and opened.run("document.querySelectorAll('.plot.js-plotly-plot').length") == all_
    assert opened.problems == []


def test_axe_finds_nothing(opened):
    opened.run(resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8") + "; 0")
    found = """axe.run(document, {resultTypes: ['violations']}).then(
        found => found.violations.map(one => `${one.id}: ${one.nodes.slice(0, 3).map(node => node.html)}`))"""
    assert opened.run(found) == []
    opened.run(UNFOLD)
    opened.run(SETTLED)
    assert opened.run(found) == []


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])
def test_the_first_screen_holds_the_answer(tab, page, width, height):
    tab.open(page, width, height)
    ends = tab.run("['.said:last-of-type', '#overlaps', '.basis'].map(one => document.querySelector(one).getBoundingClientRect().bottom)")
    assert all(0 < end <= height for end in ends)


def test_two_thousand_words_at_most_are_seen_first(tab, page):
    tab.open(page)
    assert tab.run("document.body.innerText.split(/\\s+/).length") <= 2000


@pytest.mark.parametrize("width", [360, 390, 900, 1280, 1920])
def test_circuits_keep_their_text_and_stay_inside(tab, page, width):
    tab.open(page, width, hash="#task-1-circuits")
    tab.run(SETTLED)
    for view in ("Side by side", "Difference", "With the control"):
        tab.run(f"[...document.querySelectorAll('#task-1-map button')].find(one => one.textContent === '{view}').click()")
        tab.run("new Promise(done => setTimeout(done, 300))")
        maps = tab.run(
            """[...document.querySelectorAll('#task-1-map .maps svg.map')].map(one => {
            const box = one.getBoundingClientRect(), scale = box.width / one.viewBox.baseVal.width;
            const parts = [...one.querySelectorAll('rect, text')].map(part => part.getBoundingClientRect());
            const texts = [...one.querySelectorAll('text')].map(text => parseFloat(getComputedStyle(text).fontSize) * scale);
            return {inside: parts.every(part => part.left >= box.left - 1 && part.right <= box.right + 1 && part.bottom <= box.bottom + 1),
                    fits: box.right <= innerWidth, least: Math.min(...texts), labels: texts.length};
            })"""
        )
        assert len(maps) == {"Side by side": 2, "Difference": 1, "With the control": 3}[view]
        assert all(one["inside"] and one["fits"] and one["least"] >= 12 and one["labels"] > 4 for one in maps), (view, maps)


def test_zoom_keeps_the_size_of_text(tab, page):
    tab.open(page, hash="#task-1-circuits")
    tab.run(SETTLED)
    one = "document.querySelector('#task-1-map .maps svg')"
    scale = f"{one}.clientWidth / {one}.viewBox.baseVal.width"
    size = f"parseFloat({one}.querySelector('text').getAttribute('font-size')) * {scale}"
    before = tab.run(size)
    tab.run("document.querySelector('#task-1-map [aria-label=\"Zoom in\"]').click()")
    assert tab.run(scale) > 1.4
    assert tab.run(size) == pytest.approx(before, rel=0.02)


def test_a_component_leads_to_its_section(tab, page):
    tab.open(page, hash="#task-1-circuits")
    tab.run(SETTLED)
    link = tab.run("document.querySelector('#task-1-map svg a').getAttribute('href')")
    tab.run("document.querySelector('#task-1-map svg a').dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true}))")
    tab.run("new Promise(done => setTimeout(done, 400))")
    assert tab.run(f"document.getElementById('{link[1:]}').open") and tab.run("location.hash") == link


def test_the_player_steps_to_the_end(tab, page):
    tab.open(page, hash="#task-2-player")
    tab.run(SETTLED)
    masked = "document.querySelectorAll('#task-2-player .cell.open').length"
    first = tab.run(masked)
    assert first > 2
    tab.run("document.querySelector('#task-2-player [aria-label=\"Step on\"]').click()")
    assert tab.run(masked) == first - 1 and tab.run("document.querySelectorAll('#task-2-player .cell.fresh').length") == 1
    tab.run("(one => { one.value = one.max; one.dispatchEvent(new Event('input')); })(document.querySelector('#task-2-player input'))")
    assert tab.run(masked) == 0 and "done after" in tab.run("document.querySelector('#task-2-player').innerText")


def test_every_figure_is_saved_as_csv_and_svg(tab, page):
    tab.open(page)
    tab.run(UNFOLD)
    tab.run(SETTLED)
    count = tab.run("window.figures = [...document.querySelectorAll('figure')].filter(one => one.clientWidth); figures.length")
    assert count > 10
    for i in range(count):
        table, picture = (tab.run(f"Promise.resolve(figures[{i}].saves.{kind}())") for kind in ("csv", "svg"))
        rows = list(csv.reader(io.StringIO(table)))
        assert len(rows) > 1 and len({len(row) for row in rows}) == 1
        assert ET.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    assert tab.problems == []


def test_the_theme_is_changed_and_kept(tab, page):
    tab.open(page, theme="dark")
    dark = tab.run("getComputedStyle(document.body).backgroundColor")
    tab.run("document.getElementById('theme').click()")
    assert (
        tab.run("document.documentElement.dataset.theme") == "light" and tab.run("getComputedStyle(document.body).backgroundColor") != dark
    )
    tab.open(page, theme="dark")
    assert tab.run("document.documentElement.dataset.theme") == "light"
    tab.run("localStorage.clear()")


def test_hostile_texts_run_nothing(tab, study, tmp_path):
    tab.problems.clear()
    tab.run("0")
    tab.open(write_report(study, tmp_path / "report.html"))
    tab.run(UNFOLD)
    tab.run(SETTLED)
    assert tab.problems == [] and "alert('prompt')" in tab.run("document.body.innerText")
    tab.run("localStorage.clear()")
