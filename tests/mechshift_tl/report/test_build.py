"""The page: what it holds, what it escapes, and that it loads nothing."""

from html.parser import HTMLParser

import pytest
from plotly.offline import get_plotlyjs

from mechshift_tl.compare.result import CAVEAT
from mechshift_tl.report import build_report, write_report
from mechshift_tl.report.build import as_json, number, percent
from mechshift_tl.study import Study


class Page(HTMLParser):
    """Text, headings, resources and ids of a page, scripts and styles left out."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.resources: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.resources += [given[name] or "" for name in ("src", "href", "data", "srcset", "poster", "action") if name in given]
        if own := given.get("id"):
            self.ids.append(own)

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(f"/{tag}")


@pytest.fixture(scope="module")
def html(study) -> str:
    return build_report(study)


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html.replace(get_plotlyjs(), ""))


def test_plotly_is_there_once_and_nothing_else_is_loaded(html, page):
    assert html.count(get_plotlyjs()) == 1
    assert all(resource.startswith("#") for resource in page.resources) and page.resources
    assert not {"link", "iframe", "img", "object", "embed", "base"} & set(page.tags)
    assert "default-src 'none'" in html and "@import" not in html.replace(get_plotlyjs(), "")


def test_links_lead_somewhere_and_ids_are_unique(page):
    assert {resource[1:] for resource in page.resources} <= set(page.ids)  # of sections and components
    assert len(page.ids) == len(set(page.ids))


def test_hostile_texts_are_shown_and_not_run(html, page):
    assert "<script>alert" not in html
    for what in ("pair", "task", "prompt", "reason", "model"):
        assert f"<script>alert('{what}')</script>" in page.text, what


def test_every_result_is_on_the_page(study, task_study, page):
    text = page.text
    assert CAVEAT in text
    for comparison in task_study.comparisons.values():
        assert comparison.verdict in text
        assert number(comparison.edge_jaccard) in text and number(comparison.floor["edge_jaccard"].mean) in text
    for row in study.accuracy().to_dict("records"):
        assert percent(row["completeness_gap"]) in text
    for role, scores in task_study.scores.items():
        edge = scores.top(1).iloc[0]
        assert f"{edge['writer']} → {edge['reader']}" in text and number(edge["score"], 3, "+") in text, role
    for components in task_study.component_sets.values():
        assert all(component in text for component in components)
    for version in task_study.scores["arm"].provenance["versions"].values():
        assert version in text


def test_every_figure_has_a_caption_and_its_files(page, html):
    assert page.tags.count("figure") == page.tags.count("figcaption") == html.count('data-save="svg"') == html.count('data-save="csv"') > 2


def test_the_answer_stands_first_and_the_rest_is_folded(page, html):
    first = html.index('id="answer"')
    assert html.index("ARM and MDM share") < html.index('id="overlaps"') < html.index('class="basis"') < html.index('<details class="fold"')
    assert first < html.index('<details class="fold"') and "<details open" not in html


def test_claims_are_supported_or_not_in_plain_words(page):
    assert "Supported:" in page.text or "Not supported:" in page.text
    assert "edges with the ARM" in page.text or "edges that MDM and control share with the ARM" in page.text
    assert "No intervals or floors are computed" in page.text


def test_json_in_the_page_ends_no_script():
    assert as_json({"a": "</script><!--"}) == '{"a":"\\u003c/script>\\u003c!--"}'


def test_a_study_without_control_or_intervals(without_control):
    page = Page(build_report(without_control).replace(get_plotlyjs(), ""))
    assert "ARM → MDM" in page.text and "ARM → control" not in page.text and "Against the control" not in page.text
    assert "Not supported: the edge overlap" in page.text and "has no interval over prompts" in page.text
    assert "[–, –]" in page.text and "No intervals over prompts: n_boot is 0." in page.text


def test_the_same_study_gives_the_same_file(study, html, tmp_path):
    path = write_report(study, tmp_path / "report.html")
    assert path == tmp_path / "report.html" and path.read_text(encoding="utf-8") == html


def test_numbers():
    assert number(-0.12345) == "−0.123" and number(1.5, 1, "+") == "+1.5" and number(float("nan")) == number(None) == "–"
    assert percent(0.0534) == "5.3 %" and percent(1, 0) == "100 %" and percent(None) == "–"


@pytest.mark.parametrize("name", ["study", "without_control"])
def test_a_study_that_was_kept_gives_the_same_page(request, tmp_path, name) -> None:
    """Without evidence, without a control, and under names that are hostile markup."""
    study = request.getfixturevalue(name)
    study.save(tmp_path)
    assert build_report(Study.load(tmp_path)) == build_report(study)
