"""The counts of the house, on a working tree made by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.house import circles, room, siblings

FILES = {
    "README.md": "four words and more\n",
    "hooked_diffusion/__init__.py": "",
    "hooked_diffusion/spec.py": "from typing import Any\n\n\nx: Any = 1  # why\ny: Any = 2  # noqa: E501\n",
    "mechshift_tl/__init__.py": "",
    "mechshift_tl/graph.py": "def f():\n    from mechshift_tl.tasks import ioi\n",
    "mechshift_tl/tasks/__init__.py": "",
    "mechshift_tl/tasks/ioi.py": "from hooked_diffusion import spec\nfrom mechshift_tl import graph\n",
}


@pytest.fixture
def tree(tmp_path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_counts_of_a_small_tree(tree) -> None:
    run = [sys.executable, "-m", "benchmarks.house", str(tree)]
    table = subprocess.run(run, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    assert [value for _, value in cells] == ["3", "3", "3", "1", "1", "6", "9", "3 of 3", "5", "222.2", "11.1", "4"]


def test_circles_are_counted_within_each_folder() -> None:
    assert circles({("a", "b"), ("b", "c"), ("c", "a"), ("b", "a"), ("a", "d")}) == (2, 1)
    assert circles({("a", "b"), ("a", "c"), ("b", "c")}) == (0, 0)
    arrows = siblings([("p.a.x", "p.b"), ("p.a.x", "p.a.y"), ("q.a", "p.b")], "p")
    assert arrows == {("p.a", "p.b")}
    assert (room("mechshift_tl.tasks.ioi"), room("mechshift_tl"), room("mechshift_tl.__main__")) == ("mechshift_tl.tasks", None, None)
