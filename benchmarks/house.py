"""`python -m benchmarks.house [FOLDER …]`: how the code is laid out, in numbers, as a Markdown table with one column per working tree.

- A *room* is a file or folder directly inside one of the two packages. An *arrow* is a pair of rooms of which one imports the other; lazy
  imports and those for types alone count too.
- A *circle* is a round trip along arrows between the files and folders of one folder, at any depth. *Upward imports* are the fewest arrows
  whose removal leaves no circle.
- The other rows count the packages' Python files; tests, benchmarks and examples are left out.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path

import grimp
import networkx as nx

PACKAGES = ("mechshift_tl", "hooked_diffusion")
SHORT = 80
#: Comments for tools, which explain nothing to a reader.
DIRECTIVES = ("# noqa", "# fmt:", "# type:", "# pyright:")


def main(folders: list[str]) -> None:
    """Print one column per folder. A process of its own counts each, since a package is imported once per process."""
    if len(folders) == 1:
        columns = [counts(Path(folders[0]).resolve())]
    else:
        run = [[sys.executable, "-m", "benchmarks.house", folder] for folder in folders]
        columns = [_read(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for command in run]
    print("| | " + " | ".join(folders) + " |\n|---|" + "---:|" * len(folders))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")


def _read(table: str) -> dict[str, str]:
    """The first column of a table that `main` printed."""
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:])
    return dict(cells)


def counts(root: Path) -> dict[str, str]:
    """Every number, by name, of the working tree at `root`."""
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    total, modules = sum(lines.values()), [path for path in files if path.name != "__init__.py"]
    return {
        **imports(root),
        "files": f"{len(files)}",
        "lines": f"{total}",
        f"files under {SHORT} lines, of those that are no `__init__`": f"{sum(lines[path] < SHORT for path in modules)} of {len(modules)}",
        "longest file, lines": f"{max(lines.values())}",
        "`Any` per 1 000 lines": f"{1000 * sum(map(anys, files)) / total:.1f}",
        "lines with a comment, %": f"{100 * sum(map(comments, files)) / total:.1f}",
        "README, words": f"{len((root / 'README.md').read_text(encoding='utf-8').split())}",
    }


def imports(root: Path) -> dict[str, str]:
    """Rooms, arrows, circles and upward imports."""
    sys.path.insert(0, str(root))
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    direct = [(a, b) for a in graph.modules for b in graph.find_modules_directly_imported_by(a)]
    rooms = {one for module in graph.modules if (one := room(module))}
    found = [circles(siblings(direct, folder)) for folder in graph.modules]
    return {
        "rooms": f"{len(rooms)}",
        "rooms, loose files of hooked_diffusion as one": f"{len({_together(root, one) for one in rooms})}",
        "arrows": f"{len({(a, b) for x, y in direct if (a := room(x)) and (b := room(y)) and a != b})}",
        "circles": f"{sum(n for n, _ in found)}",
        "upward imports": f"{sum(n for _, n in found)}",
    }


def room(module: str) -> str | None:
    """The room of a module; None for the packages themselves and for `__main__`, which import whatever they show."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 and parts[1] != "__main__" else None


def _together(root: Path, room: str) -> str:
    package, name = room.split(".")
    return room if package == PACKAGES[0] or (root / package / name).is_dir() else package


def siblings(direct: list[tuple[str, str]], folder: str) -> set[tuple[str, str]]:
    """Arrows between the files and folders of one folder."""
    depth = folder.count(".") + 2

    def child(module: str) -> str | None:
        return ".".join(module.split(".")[:depth]) if module.startswith(folder + ".") else None

    return {(a, b) for x, y in direct if (a := child(x)) and (b := child(y)) and a != b}


def circles(arrows: set[tuple[str, str]]) -> tuple[int, int]:
    """The number of round trips, and the smallest number of arrows whose removal leaves none."""
    whole = nx.DiGraph(list(arrows))
    rings = [whole.subgraph(nodes) for nodes in nx.strongly_connected_components(whole) if len(nodes) > 1]
    return sum(1 for ring in rings for _ in nx.simple_cycles(ring)), sum(map(_back, rings))


def _back(ring: nx.DiGraph) -> int:
    """Of all orders of a ring's rooms, the fewest arrows that run back. Rings are small, so all orders are tried."""
    orders = ({name: i for i, name in enumerate(order)} for order in permutations(ring.nodes))
    return min(sum(place[a] > place[b] for a, b in ring.edges) for place in orders)


def anys(path: Path) -> int:
    """How often the code of a file says `Any`, its import left out."""
    return sum(isinstance(node, ast.Name) and node.id == "Any" for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def comments(path: Path) -> int:
    """How many lines have a comment for readers."""
    with path.open("rb") as file:
        return len({token.start[0] for token in _comments(file.readline)})


def _comments(readline: Callable[[], bytes]) -> Iterator[tokenize.TokenInfo]:
    for token in tokenize.tokenize(readline):
        if token.type == tokenize.COMMENT and not token.string.startswith(DIRECTIVES):
            yield token


if __name__ == "__main__":
    main(sys.argv[1:] or ["."])
