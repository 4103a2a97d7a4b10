"""`python docs/draw_architecture.py`: draws `docs/architecture.svg`, the rooms of both packages and the arrows between them, from the code.

1. A room is a file or folder directly inside a package; an arrow runs from a room to each room that imports it. `grimp` reads the imports,
   lazy ones and those for types alone too. Arrows that follow from other arrows are left out (transitive reduction).
2. A room's row is as low as the rooms that use it allow, so every arrow points down. Rooms that import nothing of their package share a
   box.
3. Within a row, rooms stand near the rooms they are joined to (the barycentre method); a long arrow passes the rows between in a narrow
   slot.

Nothing is random, so the same code gives the same bytes; `tests/test_architecture.py` compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import grimp
import networkx as nx

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "architecture.svg"

#: What each room holds, in words that fit its box.
WORDS = {
    "hooked_diffusion.architectures": "native classes",
    "hooked_diffusion.gradients": "frozen weights",
    "hooked_diffusion.checkpoints": "formats, families",
    "hooked_diffusion.denoising": "the loop, its caches",
    "hooked_diffusion.model": "one bridge for both",
    "hooked_diffusion.pairs": "ARM, MDM, control",
    "hooked_diffusion.plotting": "colours, layout",
    "hooked_diffusion.plugin": "TransformerLens",
    "hooked_diffusion.posttrain": "from ARM to MDM",
    "hooked_diffusion.progress": "one bar per call",
    "hooked_diffusion.spec": "how it is read",
    "hooked_diffusion.tokenizers": "checked and safe",
    "mechshift_tl.attribution": "scores of edges",
    "mechshift_tl.bridge": "hooks and weights",
    "mechshift_tl.circuits": "strongest edges",
    "mechshift_tl.cli": "the command",
    "mechshift_tl.compare": "two models",
    "mechshift_tl.component_grid": "heads by layer",
    "mechshift_tl.evaluation": "what circuits do",
    "mechshift_tl.graph": "writers and readers",
    "mechshift_tl.intervals": "bootstrap",
    "mechshift_tl.interventions": "replaced outputs",
    "mechshift_tl.planning": "cost in advance",
    "mechshift_tl.plotting": "models side by side",
    "mechshift_tl.readouts": "what is run, read",
    "mechshift_tl.recipes": "pairs from nothing",
    "mechshift_tl.report": "one HTML page",
    "mechshift_tl.runs": "files, processes",
    "mechshift_tl.study": "a pair, measured",
    "mechshift_tl.tasks": "clean and corrupt",
    "mechshift_tl.views": "lens and neurons",
}
#: Rooms that data passes through; the others serve them.
FLOW = {"tasks", "readouts", "attribution", "views", "circuits", "compare", "evaluation", "study", "report", "model", "pairs"}

WIDTH, MARGIN = 560, 13
BOX, SLOT, GAP, MOST = 150, 10, 10, 3
HEIGHT, RISE = 56, 40
INK, QUIET, LINE = "#1d2733", "#52606d", "#8595a6"
FILL = {True: ("#dbe9f7", "#23629f"), False: ("#ffffff", "#b4bfca")}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"


@dataclass
class Node:
    """A box, or where a long arrow passes a row (`names` is empty). `x` is its middle."""

    names: tuple[str, ...]
    row: int
    x: float = 0.0
    above: list[Node] = field(default_factory=list)
    below: list[Node] = field(default_factory=list)

    @property
    def width(self) -> float:
        """In pixels."""
        return SLOT if not self.names else BOX if len(self.names) == 1 else WIDTH - 4 * MARGIN


def arrows() -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
    """The rooms of each package, and the arrows (used, user) within the packages; both sorted."""
    graph = grimp.build_graph("hooked_diffusion", "mechshift_tl", cache_dir=None)
    shown = [m for m in graph.modules if "." in m and not m.endswith(".__main__")]
    rooms = {package: sorted({_room(m) for m in shown if m.startswith(package + ".")}) for package in ("hooked_diffusion", "mechshift_tl")}
    uses = {(_room(b), _room(a)) for a in shown for b in graph.find_modules_directly_imported_by(a) if "." in b}
    inside = [(a, b) for a, b in uses if a != b and a.split(".")[0] == b.split(".")[0]]
    return rooms, sorted(inside)


def _room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def layout(rooms: list[str], edges: list[tuple[str, str]]) -> list[list[Node]]:
    """The rows of one package, top to bottom, with every node's `x` set."""
    merged = _ground(rooms, edges)
    name_of = {room: names for names in merged for room in names}
    whole = nx.DiGraph(sorted({(name_of[a], name_of[b]) for a, b in edges if name_of[a] != name_of[b]}))
    whole.add_nodes_from(merged)
    graph = nx.transitive_reduction(whole)
    row = _rows(graph)
    nodes = {names: Node(names, row[names]) for names in merged}
    rows: list[list[Node]] = [[] for _ in range(max(row.values()) + 1)]
    for node in nodes.values():
        rows[node.row].append(node)
    for a, b in sorted(graph.edges):
        _join(nodes[a], nodes[b], rows)
    _order(rows)
    return rows


def _ground(rooms: list[str], edges: list[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Rooms one by one; those that others use and that import nothing of their package together, where there are more than three."""
    users, used = {b for _, b in edges}, {a for a, _ in edges}
    free = [room for room in rooms if room in used - users]
    ground = tuple(free) if len(free) > MOST else ()
    return [*([ground] if ground else []), *((room,) for room in rooms if room not in ground)]


def _rows(graph: nx.DiGraph) -> dict[tuple[str, ...], int]:
    """Row of each box: right above the highest box that uses it; without users, below what it uses, where a row has room."""
    order = list(nx.lexicographical_topological_sort(graph))
    first: dict[tuple[str, ...], int] = {}
    for box in order:
        first[box] = max((first[used] + 1 for used in graph.predecessors(box)), default=0)
    row = {box: first[box] for box in order if graph.out_degree(box) == 0 and graph.degree(box)}
    lowest = max(row.values())
    row = {box: at for box, at in row.items() if at == lowest}
    for box in reversed(order):
        if graph.out_degree(box):
            row[box] = min((row[user] - 1 for user in graph.successors(box) if user in row), default=first[box])
    for box in order:
        if box not in row:
            free = [at for at in range(first[box], lowest + 1) if list(row.values()).count(at) < MOST]
            row[box] = free[0] if graph.degree(box) else free[-1]
    return row


def _join(a: Node, b: Node, rows: list[list[Node]]) -> None:
    """Join two boxes, with a slot in every row between."""
    before = a
    for row in range(a.row + 1, b.row + 1):
        here = b if row == b.row else Node((), row)
        if here is not b:
            rows[row].append(here)
        before.below.append(here)
        here.above.append(before)
        before = here


def _order(rows: list[list[Node]]) -> None:
    """Order the nodes of each row near their neighbours, then set `x`; the order with the fewest crossings of the sweeps is kept."""
    best, fewest = [list(row) for row in rows], _crossings(rows)
    for sweep in range(24):
        for row in rows if sweep % 2 else reversed(rows):
            place = {id(node): i for line in rows for i, node in enumerate(line)}
            row.sort(
                key=lambda node: _middle([place[id(n)] / max(1, len(rows[n.row]) - 1) for n in (node.above if sweep % 2 else node.below)])
            )
        if (found := _crossings(rows)) < fewest:
            best, fewest = [list(row) for row in rows], found
    rows[:] = best
    for row in rows:
        _spread(row, [WIDTH / 2] * len(row))
    for sweep in range(40):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            _spread(row, [_wanted(node) for node in row])


def _wanted(node: Node) -> float:
    """Slots of one arrow stand below each other; boxes stand amid their neighbours, boxes before slots."""
    near = node.above + node.below
    alike = [n.x for n in near if bool(n.names) == bool(node.names)]
    return _middle(alike or [n.x for n in near], WIDTH / 2)


def _middle(values: list[float], default: float = 0.5) -> float:
    return sum(values) / len(values) if values else default


def _crossings(rows: list[list[Node]]) -> int:
    """How many pairs of arrows cross between neighbouring rows."""
    total = 0
    for upper, lower in zip(rows, rows[1:], strict=False):
        place = {id(node): i for i, node in enumerate(lower)}
        ends = [(i, place[id(below)]) for i, node in enumerate(upper) for below in node.below]
        total += sum((a - c) * (b - d) < 0 for k, (a, b) in enumerate(ends) for c, d in ends[:k])
    return total


def _spread(row: list[Node], wanted: list[float]) -> None:
    """Put the nodes where they want to be, as far as their order, their widths and the margins allow."""
    left = MARGIN * 2.0
    for i, (node, x) in enumerate(zip(row, wanted, strict=True)):
        rest = sum(n.width + GAP for n in row[i + 1 :])
        low, high = left + node.width / 2, WIDTH - MARGIN * 2 - rest - node.width / 2
        node.x = min(max(x, low), high)
        left = node.x + node.width / 2 + GAP


def svg() -> str:
    """The whole picture."""
    rooms, edges = arrows()
    parts, y = [], 78.0
    for package, words in (("hooked_diffusion", "the models"), ("mechshift_tl", "the analyses")):
        inside = [(a, b) for a, b in edges if a.startswith(package)]
        rows = layout(rooms[package], inside)
        drawn, height = _panel(package, words, rows, y)
        parts.append(drawn)
        if package == "hooked_diffusion":
            parts.append(_arrow([(WIDTH / 2, y + height), (WIDTH / 2, y + height + 32)], QUIET, 3.0))
        y += height + 34
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y - 34 + MARGIN:.0f}" width="{WIDTH}" role="img" '
        f'font-family="{FONT}" fill="{INK}">\n<title>The rooms of both packages</title>\n'
        "<desc>An arrow runs from each room to the rooms that import it; arrows that follow from others are left out.</desc>\n"
        f'<rect width="100%" height="100%" fill="#f6f8fa"/>\n'
    )
    legend = _text(MARGIN, 32, "An arrow runs from a room to a room that uses it.", 17, 600) + _text(
        MARGIN, 56, "Data passes through the blue rooms; the white rooms serve them.", 15, 400, QUIET
    )
    return head + legend + "".join(parts) + "</svg>\n"


def _panel(package: str, words: str, rows: list[list[Node]], y: float) -> tuple[str, float]:
    """A package as a frame with its rooms, and the height of the frame."""
    top, step = y + 44, HEIGHT + RISE
    height = 44 + len(rows) * step - RISE + MARGIN
    frame = f'<rect x="{MARGIN}" y="{y:.0f}" width="{WIDTH - 2 * MARGIN}" height="{height:.0f}" rx="12" fill="#eef2f6" stroke="#d5dde5"/>\n'
    title = _text(MARGIN + 14, y + 27, package, 18, 700) + _text(WIDTH - MARGIN - 14, y + 27, words, 15, 400, QUIET, "end")
    lines = "".join(_line(node, below, top, step) for row in rows for node in row if node.names for below in node.below)
    boxes = "".join(_box(node, top + node.row * step) for row in rows for node in row if node.names)
    return frame + title + lines + boxes, height


def _line(start: Node, first: Node, top: float, step: float) -> str:
    """One arrow, from its box through its slots to its end."""
    points = [(_port(start, first, start.below), top + start.row * step + HEIGHT)]
    before, here = start, first
    while not here.names:
        points += [(here.x, top + here.row * step), (here.x, top + here.row * step + HEIGHT)]
        before, here = here, here.below[0]
    points.append((_port(here, before, here.above), top + here.row * step))
    return _arrow(points, LINE, 1.8)


def _port(box: Node, other: Node, others: list[Node]) -> float:
    """Where on a box's edge the arrow to `other` ends: arrows leave side by side, in the order of their other ends."""
    place = sorted(others, key=lambda node: node.x).index(other) + 1
    spread = min(box.width - 24, 34.0 * len(others))
    return box.x - spread / 2 + spread * place / (len(others) + 1)


def _arrow(points: list[tuple[float, float]], colour: str, width: float) -> str:
    """A smooth line down through `points`, with a head at its end."""
    tip_x, tip_y = points[-1]
    points = [*points[:-1], (tip_x, tip_y - 7)]
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x, y), (to_x, to_y) in zip(points, points[1:], strict=False):
        bend = (to_y - y) / 2
        path += f"C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y:.1f}"
    head = f'<path d="M{tip_x - 5:.1f} {tip_y - 9:.1f}L{tip_x + 5:.1f} {tip_y - 9:.1f}L{tip_x:.1f} {tip_y:.1f}Z" fill="{colour}"/>\n'
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>' + head


def _box(node: Node, y: float) -> str:
    fill, stroke = FILL[any(name.split(".")[1] in FLOW for name in node.names)]
    left = node.x - node.width / 2
    box = f'<rect x="{left:.1f}" y="{y:.0f}" width="{node.width:.0f}" height="{HEIGHT}" rx="8" fill="{fill}" stroke="{stroke}"/>\n'
    names = [name.split(".")[1] for name in node.names]
    if len(names) == 1:
        words = WORDS.get(node.names[0], "")
        name = _text(node.x, y + (24 if words else 34), names[0], 17, 600, INK, "middle")
        return box + name + (_text(node.x, y + 44, words, 14, 400, QUIET, "middle") if words else "")
    half = -(-len(names) // 2)
    lines = (" · ".join(names[:half]), " · ".join(names[half:]))
    return box + "".join(_text(node.x, y + 24 + 20 * i, line, 16, 600, INK, "middle") for i, line in enumerate(lines))


def _text(x: float, y: float, text: str, size: int, weight: int, colour: str = INK, anchor: str = "start") -> str:
    where = f'x="{x:.1f}" y="{y:.0f}" text-anchor="{anchor}"'
    return f'<text {where} font-size="{size}" font-weight="{weight}" fill="{colour}">{escape(text)}</text>\n'


if __name__ == "__main__":
    TARGET.write_text(svg(), encoding="utf-8")
    print(f"{TARGET} is drawn")
