"""`python -m benchmarks.attribution`: what `mechshift_tl.attribute` costs beside the passes it cannot do without.

One process, one thread, float32 on the CPU, random Llama weights. At each target size, in turns:

- a floor: m plain forwards and activation-only backwards of the Hugging Face model (`floor`);
- b attribute: `mechshift_tl.attribute` with m EAP-IG steps;
- c published: EAP-IG done literally, with TransformerLens' split hooks, on K and V per query head as published (`literal`).
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer

from benchmarks.floor import floor
from benchmarks.literal import literal
from benchmarks.measure import Variants, costs
from benchmarks.sizes import Size, hooked, native, prompts, ungrouped
from mechshift_tl import attribute

SIZES = {"small": Size(8, 256, 8, 8), "large": Size(12, 512, 16, 4)}


def variants(size: Size) -> Variants:
    """What is run at one size, by name."""
    model, readouts, m = native(size), prompts(size), size.ig_steps
    bridge, expanded = hooked(model), hooked(ungrouped(model))
    return {
        "floor": lambda: floor(model, readouts, m),
        "attribute": lambda: attribute(bridge, readouts, ig_steps=m),
        "published": lambda: literal(expanded, readouts, m),
    }


def main(
    size: Annotated[list[str], typer.Option(help="Sizes to measure.")] = list(SIZES),
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each variant.")] = 5,
) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    for name in size:
        measured = costs(variants(SIZES[name]), repeats)
        print(SIZES[name])
        for variant, cost in measured.items():
            ratio = cost.least / measured["floor"].least
            print(f"  {variant:10} least {cost.least:7.3f} s  median {cost.median:7.3f} s  {cost.mib:8.1f} MiB  {ratio:6.2f} × floor")


if __name__ == "__main__":
    typer.run(main)
