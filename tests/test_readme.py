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


def test_what_it_names_exists():
    for name in re.findall(r"`(\w+)/?`", (ROOT / "README.md").read_text().split("## How it is built")[1].split("## What")[0]):
        ours = [*ROOT.glob(f"*/{name}"), *ROOT.glob(f"*/{name}.py"), *ROOT.glob(name)]
        assert ours or importlib.util.find_spec(name), name
