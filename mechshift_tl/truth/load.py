"""Names of the truths, and each truth by its name."""

from __future__ import annotations

from mechshift_tl.truth.gates import gate
from mechshift_tl.truth.native import Attention
from mechshift_tl.truth.planted import planted
from mechshift_tl.truth.programs import PROGRAMS, program
from mechshift_tl.truth.truth import Truth

GATE_NAMES = ("and", "or", "or-redundant", "xor")
DIRECTIONS: tuple[Attention, ...] = ("causal", "full")


def truths() -> list[str]:
    """Names that `load_truth` knows, such as "and-causal", "reverse-full", "planted-full"."""
    gates = [f"{name}-{attention}" for name in GATE_NAMES for attention in DIRECTIONS]
    programs = [f"{name}-{way}" for name, one in PROGRAMS.items() for way in DIRECTIONS if way == "full" or not one.looks_ahead]
    return [*gates, *programs, *(f"planted-{attention}" for attention in DIRECTIONS)]


def load_truth(name: str) -> Truth:
    """The truth of that name. Raises ValueError on an unknown one."""
    if name not in truths():
        raise ValueError(f"truth: {name!r} is unknown; choose of {', '.join(truths())}")
    kind, _, way = name.rpartition("-")
    attention: Attention = "causal" if way == "causal" else "full"
    if kind == "planted":
        return planted(attention)
    return program(kind, attention) if kind in PROGRAMS else gate(kind, attention)
