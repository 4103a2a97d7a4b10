"""The picture of the rooms is the code's, and what the map names is there."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_picture_is_the_code_s(monkeypatch) -> None:
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, script)  # dataclasses look their module up
    spec.loader.exec_module(script)
    drawn = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert script.svg() == drawn, "the imports changed: run `python docs/draw_architecture.py` and commit docs/architecture.svg"


def found(name: str) -> object:
    """The module, class or function of that dotted name. Raises AttributeError or ImportError where there is none."""
    parts = name.split(".")
    files = [
        i for i in range(1, len(parts) + 1) if ROOT.joinpath(*parts[:i]).is_dir() or ROOT.joinpath(*parts[:i]).with_suffix(".py").is_file()
    ]
    thing: object = importlib.import_module(".".join(parts[: files[-1]]))
    for part in parts[files[-1] :]:
        thing = getattr(thing, part)
    return thing


def test_every_name_and_path_on_the_page_exists() -> None:
    names = re.findall(r"`((?:mechshift_tl|hooked_diffusion)(?:\.\w+)+)`", PAGE)
    assert len(names) > 15 and all(found(name) is not None for name in names)
    paths = re.findall(r"`((?:mechshift_tl|hooked_diffusion)/[\w/.]*)`", PAGE) + re.findall(r"\]\(([\w.]+)\)", PAGE)
    assert len(paths) > 8
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / "docs" / path).exists(), path
