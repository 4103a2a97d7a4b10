"""Pages of the site that no file here holds, made while mkdocs runs: the tutorial from the notebooks, the reference from the docstrings."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("[0-9]*.ipynb"))
PACKAGES = ("mechshift_tl", "hooked_diffusion")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages that are made to the navigation."""
    sections = {title: pages for one in config.nav or [] if isinstance(one, dict) for title, pages in one.items()}
    sections["Tutorial"][:] = [f"tutorial/{notebook.stem}.md" for notebook in NOTEBOOKS]
    sections["Reference"] += [{package: [f"reference/{package}/{room}.md" for room, _ in _rooms(package)]} for package in PACKAGES]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages themselves, and the pictures of the notebooks."""
    for notebook in NOTEBOOKS:
        text, pictures = tutorial(notebook)
        files.append(File.generated(config, f"tutorial/{notebook.stem}.md", content=text))
        for name, picture in pictures.items():
            files.append(File.generated(config, f"tutorial/{name}", content=picture))
    for package in PACKAGES:
        for room, modules in _rooms(package):
            files.append(File.generated(config, f"reference/{package}/{room}.md", content=reference(room, modules)))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """The page as it is. Raises PluginError where it would fetch something from another host."""
    if found := re.search(r"""<(?:link|script|img)\b[^>]*(?:src|href)=["']?(?:https?:)?//[^>]*>""", output):
        raise PluginError(f"{page.file.src_uri} fetches {found[0]}; keep what a page needs beside it")
    return output


def tutorial(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as a page of Markdown, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            # Badges come from another host, and mean nothing here.
            parts.append(re.sub(r"\[!\[Open in Colab\].*\n|In Colab, run .*", "", source).replace("](../docs/", "](../"))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            name = f"{notebook.stem}-{len(pictures)}.png"
            parts.append(_shown(output, name, pictures))
    return "\n\n".join(parts) + f"\n\nThe notebook: `examples/{notebook.name}`.\n", pictures


def _shown(output: dict, name: str, pictures: dict[str, bytes]) -> str:
    """What a cell put out: a picture, a table, or text."""
    data = output.get("data", {})
    if "image/png" in data:
        pictures[name] = base64.b64decode(data["image/png"])
        return f"![What the cell above shows]({name})"
    if "text/html" in data:
        return re.sub(r"\n\s*", "\n", "".join(data["text/html"])).replace("\n\n", "\n")
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text}\n```" if text.strip() else ""


def _rooms(package: str) -> Iterator[tuple[str, list[str]]]:
    """The rooms of a package, and the modules of each that have something public."""
    for path in sorted((ROOT / package).iterdir()):
        inside = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        modules = [one for one in inside if one.suffix == ".py" and not one.name.startswith("_")]
        if modules:
            yield path.stem, [".".join(one.relative_to(ROOT).with_suffix("").parts) for one in modules]


def reference(room: str, modules: list[str]) -> str:
    """A page with the docstrings of a room."""
    return f"# {room}\n\n" + "\n\n".join(f"::: {module}" for module in modules) + "\n"
