"""`python -m benchmarks.attribution`: what `mechshift_tl.attribute` costs, as Markdown.

One process, one thread, float32 on the CPU, random Llama weights. First each size beside the floor and beside how others do it
(`comparison`), with what running a circuit costs there (`circuits`); then how time and memory grow (`growth`). Targets stand beside their
figures; a missed one is said, not an error.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.circuits import CircuitCosts, circuit_costs
from benchmarks.comparison import Comparison, Target, compare
from benchmarks.growth import FACTORS, Growth, growth
from benchmarks.sizes import Size

SIZES = {"small": Size(8, 256, 8, 8), "large": Size(12, 512, 16, 4), "tiny": Size(2, 64, 4, 4, prompts=2, tokens=9)}
#: Most that attribution may take, as a multiple of the floor.
FLOOR_LIMITS = {"small": 1.55, "large": 1.35, "tiny": float("inf")}


def main(
    size: Annotated[list[str] | None, typer.Option(help=f"Sizes to measure, of {', '.join(SIZES)}; default small and large.")] = None,
    factor: Annotated[list[str] | None, typer.Option(help=f"Factors to double, of {', '.join(FACTORS)}; default all; or none.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each variant.")] = 7,
    out: Annotated[Path | None, typer.Option("--json", help="File for every measured figure.")] = None,
) -> None:
    """Measure attribution and print the tables."""
    sizes, factors = size or ["small", "large"], factor or list(FACTORS)
    check(sizes, factors)
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, one thread of {cpu()}, float32; random Llama models.\n")
    figures: dict[str, Any] = {"torch": torch.__version__, "cpu": cpu(), "sizes": {}, "circuits": {}, "growth": {}}
    for name in sizes:
        measured = compare(SIZES[name], repeats)
        show(str(measured.size), measured, measured.targets(FLOOR_LIMITS[name]))
        figures["sizes"][name] = asdict(measured)
        runs = circuit_costs(SIZES[name], repeats)
        show("Circuits at that size", runs, runs.targets())
        figures["circuits"][name] = asdict(runs)
    for name in (f for f in factors if f != "none"):
        grown = growth(name, repeats)
        show(f"Growth with {name}", grown, grown.targets())
        figures["growth"][name] = asdict(grown)
    if out is not None:
        out.write_text(json.dumps(figures, indent=1))


def check(sizes: list[str], factors: list[str]) -> None:
    """Refuse a size or a factor that there is not."""
    for name, known in ((sizes, SIZES), (factors, (*FACTORS, "none"))):
        for value in name:
            if value not in known:
                raise typer.BadParameter(f"{value!r} is not one of {', '.join(known)}")


def show(title: str, measured: Comparison | CircuitCosts | Growth, targets: list[Target]) -> None:
    """Print one section as soon as it is measured."""
    print(f"### {title}\n\n{measured.markdown()}\n", flush=True)
    for target in targets:
        print(f"- {target}")
    print(flush=True)


def cpu() -> str:
    """The processor's name, where the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    typer.run(main)
