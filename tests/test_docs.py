"""Every Python snippet of the documentation runs as printed, the snippets of a page one after the other; what pages link to is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hooked_diffusion.checkpoints import registry

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
FENCE = re.compile(r"^```python\n(.*?)^```", re.S | re.M)


@pytest.mark.parametrize("page", [page for page in PAGES if FENCE.search((DOCS / page).read_text(encoding="utf-8"))])
def test_the_snippets_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_ADAPTERS", dict(registry._ADAPTERS))
    text = (DOCS / page).read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for found in FENCE.finditer(text):
        # Lines keep their numbers in the page, for the traceback.
        source = "\n" * text[: found.start()].count("\n") + "\n" + found[1]
        exec(compile(source, f"docs/{page}", "exec"), namespace)


def test_every_page_is_in_the_navigation() -> None:
    nav: list[Any] = yaml.load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)["nav"]

    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        inside = entry.values() if isinstance(entry, dict) else entry
        return [page for one in inside for page in pages(one)]

    assert sorted(pages(nav)) == PAGES


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DOCS / page).read_text(encoding="utf-8")):
            assert (DOCS / page).parent.joinpath(link).exists(), (page, link)


def test_the_site_fetches_nothing() -> None:
    config = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    assert "font: false" in config and "http" not in config


def test_the_errors_that_are_listed_exist(every_error: Callable[[], set[str]]) -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z]\w+)`(?:, | \()", page)) - {"ValueError", "RuntimeError", "ImportError"}
    assert named - every_error() == set()


@pytest.fixture
def every_error() -> Callable[[], set[str]]:
    """The names of all exceptions of both packages."""
    root = DOCS.parent
    files = [path for package in ("mechshift_tl", "hooked_diffusion") for path in (root / package).rglob("*.py")]
    raised = re.compile(r"^class (\w+)\(.*(?:Error|Exception|Unreadable)", re.M)
    return lambda: {name for path in files for name in raised.findall(path.read_text(encoding="utf-8"))}
