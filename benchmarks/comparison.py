"""Attribution beside the passes it cannot do without, and beside how others do it, at one size.

- floor: m plain forwards and activation-only backwards of the Hugging Face model (`floor`);
- attribute: `mechshift_tl.attribute` with m EAP-IG steps, K and V per KV head or (ungrouped) per query head; and, as in an IOI prompt
  whose subject is replaced, of prompts that are alike for their first two thirds; and under full attention, as an MDM has;
- split hooks: EAP-IG through a residual copied for every reader, by TransformerLens 4's own flags (`literal.split_hooks`);
- published: the same with the published code's arithmetic (`literal.published`);
- TransformerLens: its own edge attribution, which takes one gradient and one prompt at a time, on models without KV groups (`peer`).

The two literal methods know no KV groups; as their authors ask, they get the model with its K/V heads repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.floor import floor
from benchmarks.literal import published, split_hooks
from benchmarks.measure import Cost, costs
from benchmarks.peer import edge_scores
from benchmarks.sizes import Size, hooked, native, prompts, ungrouped
from benchmarks.tables import markdown
from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts

#: Edges × tokens beyond which TransformerLens' edge attribution, a Python object per edge and position, is left out.
PEER_LIMIT = 200_000


@dataclass(frozen=True)
class Target:
    """A figure that must not exceed its limit."""

    name: str
    figure: float
    limit: float

    def __str__(self) -> str:
        return f"{self.name}: {self.figure:.3f}, target ≤ {self.limit:.3f}, {'reached' if self.figure <= self.limit else 'not reached'}"


@dataclass(frozen=True)
class Comparison:
    """Costs of the variants at one size, and of one prompt with one gradient."""

    size: Size
    costs: dict[str, Cost]
    one_prompt: dict[str, Cost]

    def targets(self, floor_limit: float) -> list[Target]:
        """What attribution is held to: beside the floor, beside the published method, and in memory."""
        least, peak = ({name: getattr(cost, key) for name, cost in self.costs.items()} for key in ("least", "peak_bytes"))
        return [
            Target("attribute / floor, time", least["attribute"] / least["floor"], floor_limit),
            Target("attribute / floor, memory", peak["attribute"] / peak["floor"], 2.0),
            Target("attribute / published, time", least["attribute"] / least["published"], 1 / 8),
        ]

    def markdown(self) -> str:
        """Seconds, MiB, and both as multiples of the floor."""
        parts = [table(self.costs)]
        if self.one_prompt:
            parts += ["One prompt, one gradient:", table(self.one_prompt)]
        return "\n\n".join(parts)


def table(measured: dict[str, Cost]) -> str:
    """One row per variant; the first is the floor."""
    floor_cost = next(iter(measured.values()))
    rows = [
        [
            name, f"{cost.least:.3f}", f"{cost.median:.3f}", f"{cost.least / floor_cost.least:.2f}",
            f"{cost.mib:.0f}", f"{cost.peak_bytes / floor_cost.peak_bytes:.2f}",
        ]
        for name, cost in measured.items()
    ]  # fmt: skip
    return markdown(["", "least s", "median s", "× floor", "peak MiB", "× floor"], rows)


def in_full(bridge: HookedDiffusionTransformer, readouts: Readouts, ig_steps: int) -> None:
    """Attribution under full attention, where every position sees and moves every other."""
    with bridge.attention("full"):
        attribute(bridge, readouts, ig_steps=ig_steps)


def compare(size: Size, repeats: int) -> Comparison:
    """Measure every variant at one size."""
    model, readouts, m = native(size), prompts(size), size.ig_steps
    alike = prompts(size, first=2 * size.tokens // 3)
    bridge = hooked(model)
    expanded = hooked(ungrouped(model))
    variants: dict[str, Callable[[], Any]] = {
        "floor": lambda: floor(model, readouts, m),
        "attribute": lambda: attribute(bridge, readouts, ig_steps=m),
        "attribute, two thirds alike": lambda: attribute(bridge, alike, ig_steps=m),
        "attribute, full attention": lambda: in_full(bridge, readouts, m),
        "split hooks": lambda: split_hooks(expanded, readouts, m),
        "published": lambda: published(expanded, readouts, m),
    }
    if size.kv_heads != size.heads:
        variants["attribute, ungrouped"] = lambda: attribute(bridge, readouts, ig_steps=m, kv="ungrouped")
    single = {}
    if size.kv_heads == size.heads and Graph.of(bridge).n_edges * size.tokens <= PEER_LIMIT:
        one = readouts.select([0])
        single = {
            "floor": lambda: floor(model, one, 1),
            "attribute": lambda: attribute(bridge, one, ig_steps=1),
            "TransformerLens": lambda: edge_scores(bridge, one),
        }
    return Comparison(size, costs(variants, repeats), costs(single, repeats))
