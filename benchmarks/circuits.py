"""What running a circuit costs, in plain forwards of the same Hugging Face model, and how that grows with the edges it keeps.

Circuits are random, the worst case: at 2 % of the edges nearly every writer and reader has one, where an attribution's circuit of that size
leaves most without.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.comparison import Target
from benchmarks.measure import Cost, costs
from benchmarks.sizes import Size, hooked, native, prompts
from benchmarks.tables import markdown
from mechshift_tl.circuits.run import run_edges
from mechshift_tl.graph import KV, Graph

SIZE = Size(12, 512, 16, 4)
SHARES = (0.0, 0.005, 0.02, 0.1, 0.5, 1.0)
LIMIT, AT = 3.0, 0.02
#: Circuits of one call, over which its clean and base runs are shared.
TOGETHER = 4


@dataclass(frozen=True)
class CircuitCosts:
    """Costs of one plain forward, and per share of edges of one circuit alone and of `TOGETHER` at once."""

    forward: Cost
    alone: dict[float, Cost]
    together: dict[float, Cost]

    def further(self, share: float) -> float:
        """Seconds that one more circuit of that share takes."""
        return (self.together[share].least - self.alone[share].least) / (TOGETHER - 1)

    def markdown(self) -> str:
        """A row per share, in plain forwards: a further circuit, one alone with its clean and base runs; and peak memory."""
        plain = self.forward.least
        rows = [
            [f"{share:.1%}", f"{self.further(share) / plain:.2f}", f"{cost.least / plain:.2f}", f"{cost.mib:.0f}"]
            for share, cost in self.alone.items()
        ]
        return markdown(["edges kept", "a circuit", "with clean and base run", "MiB"], rows)

    def targets(self) -> list[Target]:
        """A circuit of 2 % of the edges takes at most three plain forwards."""
        return [Target(f"a circuit of {AT:.0%} of the edges / plain forward", self.further(AT) / self.forward.least, LIMIT)]


def circuit_costs(repeats: int, size: Size = SIZE, kv: KV = "grouped", shares: tuple[float, ...] = SHARES) -> CircuitCosts:
    """Measure random circuits of each share of the edges; linear in `repeats`."""
    plain, readouts = native(size), prompts(size)
    model = hooked(plain)
    graph, generator = Graph.of(model, kv), torch.Generator().manual_seed(0)
    variants = {"forward": partial(plain, readouts.clean)}
    for share in shares:
        edges = graph.possible & (torch.rand(graph.possible.shape, generator=generator) < share)
        variants |= {f"{n} {share}": partial(run_edges, model, readouts, graph, [edges] * n) for n in (1, TOGETHER)}
    with torch.no_grad():
        measured = costs(variants, repeats)
    alone, together = ({share: measured[f"{n} {share}"] for share in shares} for n in (1, TOGETHER))
    return CircuitCosts(measured["forward"], alone, together)
