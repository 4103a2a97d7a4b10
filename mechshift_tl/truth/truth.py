"""`Truth`: a model whose circuit is known, with prompts to find it on, and two sets of edges that are told apart.

- Program edges: those that the weights use, from `input` to `logits`, whatever the prompts. Some carry a constant (positions, biases).
- Moving edges: those whose effect is not zero on these prompts, by exact patching. A constant moves nowhere, and where two edges each
  suffice, neither moves alone.

A method that scores effects can find moving edges alone; what it misses of the program is no error of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from jaxtyping import Bool, Float
from torch import Tensor

from mechshift_tl.attribution.attribute import attribute
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts

#: An edge moves where its mean |effect| over prompts is above this share of the largest.
MOVES = 0.01


@dataclass(frozen=True, eq=False)
class Truth:
    """A model with a known circuit.

    - `name`: as `load_truth` takes it; the part behind the last hyphen says how the model attends, "causal" or "full".
    - `readouts`: clean and corrupt prompts with answers and foils, `n_examples` of them.
    - `program_edges (n_writers, n_readers)`: edges that the weights use on a path from input to logits.
    - `note`: what a reader must know: where a method fails by nature. Empty where there is nothing.
    """

    name: str
    model: HookedModel = field(repr=False)
    readouts: Readouts = field(repr=False)
    program_edges: Bool[Tensor, "n_writers n_readers"] = field(repr=False)
    note: str = ""

    @property
    def graph(self) -> Graph:
        """The model's graph."""
        return Graph.of(self.model)

    @cached_property
    def moving_edges(self) -> Bool[Tensor, "n_writers n_readers"]:
        """Edges whose mean |effect| over all prompts is above 1 % of the largest, by exact patching, `(n_writers, n_readers)`."""
        effects = attribute(self.model, self.readouts, method="exact", keep_per_example=True).per_example
        assert effects is not None
        return moving(effects)


def moving(effects: Float[Tensor, "n_examples n_writers n_readers"]) -> Bool[Tensor, "n_writers n_readers"]:
    """Which edges move, by the exact effect of each on each prompt."""
    size = effects.abs().mean(0)
    return size > MOVES * size.max()
