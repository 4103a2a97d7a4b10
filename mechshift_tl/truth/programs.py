"""Programs in RASP, compiled to weights by Tracr (Lindner et al. 2023, arXiv 2301.05062): the weights are the program.

`benchmarks/compile_programs.py` compiled them once; `weights/` holds them with their vocabularies. A row is BOS and a sequence, read at one
position where the program says something else on the corrupt row. Programs that look ahead need full attention; the others run both ways,
and then mean what they say of the sequence up to each position.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from mechshift_tl.readouts import Readouts
from mechshift_tl.truth.native import Attention, embeddings_of, native_model
from mechshift_tl.truth.structure import edges_in_weights
from mechshift_tl.truth.truth import Truth

WEIGHTS = Path(__file__).parent / "weights"
N_EXAMPLES = 24
STEPS = (
    "its MLP turns a number into a category by steep steps: a gradient is zero between them and misses the edges into it, unless the path "
    "has many points"
)


@dataclass(frozen=True)
class Program:
    """What a program says at each position of a sequence, as text; whether it needs what comes after; whether its tokens differ."""

    says: Callable[[Sequence[str]], Sequence[object]]
    looks_ahead: bool = True
    distinct: bool = False
    note: str = ""


def _prefixes(row: Sequence[str]) -> list[Sequence[str]]:
    return [row[: i + 1] for i in range(len(row))]


def _balanced(row: Sequence[str]) -> bool:
    depths = [part.count("(") - part.count(")") for part in _prefixes(row)]
    return depths[-1] == 0 and min(depths) >= 0


PROGRAMS: dict[str, Program] = {
    "reverse": Program(lambda row: row[::-1]),
    "sort": Program(sorted),
    "unique-sort": Program(sorted, distinct=True),
    "dyck": Program(lambda row: [_balanced(row)] * len(row), note=STEPS),
    "histogram": Program(lambda row: [row.count(token) for token in row], looks_ahead=False, note=STEPS),
    "fraction": Program(lambda row: [2 * part.count("x") > len(part) + 1 for part in _prefixes(row)], looks_ahead=False, note=STEPS),
    "pattern": Program(lambda row: ["".join(part[-3:]) == "abc" for part in _prefixes(row)], looks_ahead=False),
}


def said(name: str, row: Sequence[str], attention: Attention) -> list[str]:
    """What the program says at each position; under causal attention, of the sequence up to there."""
    program = PROGRAMS[name]
    if attention == "causal":
        return [str(program.says(part)[-1]) for part in _prefixes(row)]
    return [str(value) for value in program.says(row)]


def program(name: str, attention: Attention) -> Truth:
    """A program of `PROGRAMS`, from its weights."""
    with safe_open(WEIGHTS / f"{name}.safetensors", "pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        sizes, reads, writes = (json.loads(file.metadata()[key]) for key in ("config", "reads", "writes"))
    model = native_model(f"{name}-{attention}", sizes, weights, attention)
    rows = _readouts(name, attention, reads, writes, sizes["n_ctx"] - 1)
    return Truth(f"{name}-{attention}", model, rows, edges_in_weights(model, embeddings_of(weights)), PROGRAMS[name].note)


def _readouts(name: str, attention: Attention, reads: dict[str, int], writes: dict[str, int], length: int) -> Readouts:
    """Pairs of random sequences, read at a random position at which the program tells them apart."""
    rng, words, found = random.Random(0), sorted(word for word in reads if word not in ("BOS", "compiler_pad")), []
    while len(found) < N_EXAMPLES:
        clean, corrupt = (rng.sample(words, length) if PROGRAMS[name].distinct else rng.choices(words, k=length) for _ in range(2))
        answers, foils = said(name, clean, attention), said(name, corrupt, attention)
        apart = [i for i in range(length) if answers[i] != foils[i] and {answers[i], foils[i]} <= writes.keys()]
        if apart:
            at = rng.choice(apart)
            found.append((clean, corrupt, at + 1, writes[answers[at]], writes[foils[at]]))
    clean, corrupt, *columns = zip(*found, strict=True)
    tokens = (torch.tensor([[reads[word] for word in ("BOS", *row)] for row in side]) for side in (clean, corrupt))
    return Readouts.from_tokens(*tokens, *(torch.tensor(column) for column in columns))
