"""The notebooks are those of the scripts, executed without error, small, and show their figures without JavaScript."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = [notebook.with_suffix(".py") for notebook in sorted(EXAMPLES.glob("[0-9]*.ipynb"))]
MOST_BYTES = 2**20


def read(script: Path) -> dict[str, Any]:
    return json.loads(script.with_suffix(".ipynb").read_text(encoding="utf-8"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_notebook_is_the_script_s(script: Path) -> None:
    jupytext = pytest.importorskip("jupytext")
    wanted = [(cell.cell_type, cell.source) for cell in jupytext.read(script).cells]
    assert [(cell["cell_type"], "".join(cell["source"])) for cell in read(script)["cells"]] == wanted, "run `make notebooks`"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_is_executed_and_every_figure_has_a_picture(script: Path) -> None:
    cells = [cell for cell in read(script)["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [one for one in outputs if one["output_type"] == "error" or one.get("name") == "stderr"]
    assert all("image/png" in one["data"] for one in outputs if "application/vnd.plotly.v1+json" in one.get("data", {}))
    assert any("image/png" in one.get("data", {}) for one in outputs)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_it_is_small_and_names_no_machine(script: Path) -> None:
    text = script.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert len(text.encode()) <= MOST_BYTES
    assert not re.search(r"/work/|/home/|/root/", text)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_its_badge_opens_it(script: Path) -> None:
    assert f"/examples/{script.stem}.ipynb)" in script.read_text(encoding="utf-8").split("# %%")[1]
