"""Where a step's rows come from: some texts of each source, drawn anew at every step and packed together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator

from hooked_diffusion.posttrain.rows import Rows, Text, pack


@dataclass(frozen=True)
class Source:
    """Texts of one kind, and how many of them each step takes; drawn with replacement."""

    texts: Sequence[Text]
    per_step: int


@dataclass(frozen=True)
class Mixture:
    """A `RowSource`: each step draws from every source, then packs the texts into rows of `length`, filled up with `padding`.

    Two recipes of one seed get the same rows at the same steps. Raises ValueError on a source without texts.
    """

    sources: Mapping[str, Source]
    length: int
    padding: int

    def __post_init__(self) -> None:
        for name, source in self.sources.items():
            if not source.texts or source.per_step < 1:
                raise ValueError(f"Mixture: source {name!r} has {len(source.texts)} texts, {source.per_step} per step; both are at least 1")

    def __call__(self, generator: Generator) -> list[Rows]:
        """One step's rows, as one batch."""
        drawn = []
        for source in self.sources.values():
            picked = torch.randint(len(source.texts), (source.per_step,), generator=generator)
            drawn += [source.texts[index] for index in picked.tolist()]
        return [pack(drawn, self.length, self.padding)]

    def facts(self) -> dict[str, object]:
        """What tells one mixture from another, as JSON values: the length of rows; per source its texts, tokens, share and checksum."""
        sources = {
            name: {
                "texts": len(source.texts),
                "tokens": sum(len(text.tokens) for text in source.texts),
                "per_step": source.per_step,
                "sha256": hashlib.sha256(repr([(text.tokens, text.is_answer) for text in source.texts]).encode()).hexdigest(),
            }
            for name, source in self.sources.items()
        }
        return {"length": self.length, "sources": sources}

    def holds(self, token: int) -> str | None:
        """The first source that has `token` in a text; None where it occurs in none."""
        return next((name for name, source in self.sources.items() if any(token in text.tokens for text in source.texts)), None)
