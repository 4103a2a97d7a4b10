"""Random circuits with a circuit's own layer profile: what chance alone would give.

Possible edges fall into cells, one per (writer layer, reader layer); the input is layer −1, the logits are layer n_layers. In each cell, as
many edges are drawn without replacement as the circuit has there, and the cell's scores are dealt to them in random order. The depth
profile, of edges and of |score|, therefore stays exactly as it was. Where a circuit holds every possible edge of a cell, these edges
cannot move; `full_cell_share` says how many those are. Random circuits are not pruned again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from numbers import Integral

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.graph import Graph
from mechshift_tl.intervals import MAX_DRAWN, seeded

#: The most cells that the masks of random circuits may have together: a cell takes one byte.
MAX_MASKED = 4 * 2**30


def random_circuit(circuit: Circuit, seed: int = 0) -> Circuit:
    """One random circuit with as many edges in every (writer layer, reader layer) cell as `circuit`."""
    return next(random_circuits(circuit, 1, seed))


def random_circuits(circuit: Circuit, n_draws: int, seed: int | torch.Generator = 0) -> Iterator[Circuit]:
    """`n_draws` independent random circuits: all drawn at once, then made one by one. Raises ValueError below 0, and on too many."""
    if not isinstance(n_draws, Integral) or n_draws < 0:
        raise ValueError(f"random_circuits: n_draws is {n_draws}; give a whole number, 0 or more")
    if n_draws * circuit.kept > MAX_DRAWN:
        raise ValueError(
            f"random_circuits: {n_draws} draws of {circuit.kept} edges do not fit in memory; draw at most {MAX_DRAWN // circuit.kept}"
        )
    generator = seed if isinstance(seed, torch.Generator) else seeded(seed)
    possible = _by_cell(circuit.graph.possible, circuit.graph)
    held = _by_cell(circuit.edges, circuit.graph)
    drawn, dealt = [possible[0].new_zeros(n_draws, 0)], [circuit.scores.new_zeros(0)]
    for room, edges in zip(possible, held, strict=True):
        if len(edges):
            drawn.append(room[_subsets(n_draws, len(room), len(edges), generator)])
            dealt.append(circuit.scores.flatten()[edges])
    # The scores of a cell in one order, edges drawn in random order: so the scores are dealt at random.
    values = torch.cat(dealt)
    for index in torch.cat(drawn, 1):
        edges, scores = torch.zeros_like(circuit.edges), torch.zeros_like(circuit.scores)
        edges.view(-1)[index] = True
        scores.view(-1)[index] = values
        yield replace(circuit, edges=edges, scores=scores, settings=circuit.settings | {"random": True})


def random_edges(circuit: Circuit, n_random: int, seed: int = 0) -> list[Bool[Tensor, "n_writers n_readers"]]:
    """The edges of `n_random` random circuits, all in memory at once, for callers that run them together.

    Raises ValueError unless `n_random` is a whole number of at least 1 whose masks fit in memory.
    """
    if not isinstance(n_random, Integral) or n_random < 1:
        raise ValueError(f"n_random is {n_random}; give a whole number of random circuits, at least 1")
    if n_random * circuit.edges.numel() > MAX_MASKED:
        most = MAX_MASKED // circuit.edges.numel()
        raise ValueError(f"n_random is {n_random}; of this graph, at most {most} random circuits fit in memory")
    return [other.edges for other in random_circuits(circuit, n_random, seed)]


def cell_counts(edges: Bool[Tensor, "n_writers n_readers"], graph: Graph) -> Int[Tensor, " n_cells"]:
    """How many of `edges` lie in each (writer layer, reader layer) cell, row-major; cells that no edge can be in count 0."""
    return torch.bincount(_cells(graph)[edges], minlength=(graph.n_layers + 1) ** 2)


def full_cell_share(circuit: Circuit) -> float:
    """Share of the circuit's edges that lie in full cells, where every possible edge is in the circuit, in [0, 1]; NaN when empty."""
    held, room = cell_counts(circuit.edges, circuit.graph), cell_counts(circuit.graph.possible, circuit.graph)
    return (held[held == room].sum() / held.sum()).item()


def _cells(graph: Graph) -> Int[Tensor, "n_writers n_readers"]:
    return (graph.writer_layers[:, None] + 1) * (graph.n_layers + 1) + graph.reader_layers


def _subsets(n_draws: int, size: int, count: int, generator: torch.Generator) -> Int[Tensor, "n_draws count"]:
    """Per draw, `count` different numbers below `size` in random order.

    A few of many numbers are drawn by Floyd's algorithm: its cost grows with `count²` and does not depend on `size`. Where a shuffle of all
    numbers costs less, they are shuffled.
    """
    if count * (400 + n_draws * count // 64) > n_draws * size:  # in numbers shuffled in the same time
        return torch.rand(n_draws, size, generator=generator).argsort(1)[:, :count]
    chosen = torch.empty(n_draws, 0, dtype=torch.long)
    for last in range(size - count, size):
        # Floyd: a number that is taken is replaced by `last`, which is free: earlier draws were all smaller.
        pick = torch.randint(last + 1, (n_draws, 1), generator=generator)
        taken = (chosen == pick).any(1, keepdim=True)
        chosen = torch.cat([chosen, pick.masked_fill(taken, last)], 1)
    # Floyd's numbers are a random set, but not in random order.
    return chosen.gather(1, torch.rand(n_draws, count, generator=generator).argsort(1))


def _by_cell(edges: Bool[Tensor, "n_writers n_readers"], graph: Graph) -> tuple[Int[Tensor, " edges_of_cell"], ...]:
    """Flat indices of `edges`, cell by cell."""
    index = edges.flatten().nonzero()[:, 0]
    order = _cells(graph)[edges].argsort(stable=True)
    return index[order].split(cell_counts(edges, graph).tolist())
