"""Make the notebooks from the scripts: `python examples/build_notebooks.py [SCRIPT …]`, or `make notebooks` for all.

1. Read `NAME.py` (jupytext's percent format), run it in a fresh kernel, and keep what its cells put out.
2. Give every plotly figure a PNG beside it, drawn by headless Chromium: GitHub and exported HTML show the PNG, Jupyter the live figure.
3. Write `NAME.ipynb`.

A figure whose live form is large keeps the PNG alone. Needs the extra `notebooks`, and a `chromium` on the PATH.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbformat import NotebookNode, write
from plotly.offline import get_plotlyjs

EXAMPLES = Path(__file__).resolve().parent
#: Largest live form of a figure that a notebook keeps, in bytes.
MOST = 60_000
FIGURE = "application/vnd.plotly.v1+json"
WIDTH, SCALE = 860, 1
PAGE = """<!doctype html><meta charset="utf-8"><body><script>{plotly}</script><script>
const figures = {figures};
(async () => {{
  for (const [layout, data] of figures) {{
    const at = document.body.appendChild(document.createElement("div"));
    await Plotly.newPlot(at, data, layout);
    const size = {{width: layout.width || {width}, height: layout.height || 420}};
    const url = await Plotly.toImage(at, {{format: "png", scale: {scale}, ...size}});
    at.remove();
    const found = document.body.appendChild(document.createElement("img"));
    found.src = url;
  }}
}})();
</script></body>"""


def built(script: Path) -> NotebookNode:
    """The script's notebook, executed, with a PNG for each figure. Raises CellExecutionError where a cell fails."""
    notebook = jupytext.read(script)
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
    os.environ |= {"PLOTLY_RENDERER": "plotly_mimetype", "TQDM_DISABLE": "1"}
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ()) if FIGURE in one.get("data", {})]
    for output, image in zip(outputs, pngs([one["data"][FIGURE] for one in outputs]), strict=True):
        output["data"]["image/png"] = image
        output["data"].pop("text/html", None)
        if len(json.dumps(output["data"][FIGURE])) > MOST:
            del output["data"][FIGURE]
    return _settled(notebook)


def pngs(figures: list[dict]) -> list[str]:
    """A PNG of each plotly figure (as JSON values), in base64. Raises RuntimeError where Chromium drew fewer."""
    if not figures:
        return []
    drawn = json.dumps([[_on_white(one["layout"]), one["data"]] for one in figures])
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "figures.html"
        text = PAGE.format(plotly=get_plotlyjs(), figures=drawn.replace("</", "<\\/"), width=WIDTH, scale=SCALE)
        page.write_text(text, encoding="utf-8")
        chromium = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        asked = [*chromium, "--virtual-time-budget=60000", "--dump-dom", page.as_uri()]
        dom = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)"', dom)
    if len(found) != len(figures):
        raise RuntimeError(f"Chromium drew {len(found)} of {len(figures)} figures")
    return found


def _on_white(layout: dict) -> dict:
    """A layout whose paper is white: a transparent one is unreadable on a dark page."""
    return {**layout, "paper_bgcolor": "white"}


def _settled(notebook: NotebookNode) -> NotebookNode:
    """The notebook without what differs from run to run: ids and times of cells, the kernel's version, addresses of objects."""
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell["id"], cell["metadata"] = f"cell-{number}", {}
    return notebook


def main() -> None:
    """Build the scripts that are named, or every one whose name begins with a number."""
    for script in [Path(name).resolve() for name in sys.argv[1:]] or sorted(EXAMPLES.glob("[0-9]*.py")):
        write(built(script), script.with_suffix(".ipynb"))
        print(script.with_suffix(".ipynb"))


if __name__ == "__main__":
    main()
