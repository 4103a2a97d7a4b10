"""The README's Python runs as printed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_snippet_runs(capsys):
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert found is not None
    exec(compile(found[1], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "logits" in printed and "edge_jaccard" in printed


def test_the_picture_is_there():
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / path).is_file(), path


def built() -> str:
    return (ROOT / "README.md").read_text().split("## How it is built")[1].split("## What")[0]


def test_what_it_names_exists():
    for name in re.findall(r"`(\w+)/?`", built()):
        ours = [*ROOT.glob(f"*/{name}"), *ROOT.glob(f"*/{name}.py"), *ROOT.glob(name)]
        assert ours or importlib.util.find_spec(name), name


def test_it_names_every_folder_and_defines_its_words_in_700_words():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 700
    folders = {path.name for package in ("mechshift_tl", "hooked_diffusion") for path in (ROOT / package).iterdir() if path.is_dir()}
    assert folders - {"__pycache__"} == set(re.findall(r"^- `(\w+)/` ", built(), re.M))
    assert {word.lower() for word in re.findall(r"^- \*\*(\w+)\*\*: [A-Z]?[^\n]+\.$", text, re.M)} == {
        "edge", "writer", "reader", "readout", "canvas", "floor", "ceiling",
    }  # fmt: skip


def test_what_the_documents_link_to_is_there():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)
