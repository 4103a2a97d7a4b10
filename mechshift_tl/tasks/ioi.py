"""Indirect object identification (Wang et al., 2211.00593): `… Mary and John … John gave a drink to` → ` Mary`.

The subject S is the name that appears twice (S1, then S2); the indirect object IO is the name that appears once. A BABA sentence names the
subject first; an ABBA sentence names the indirect object first. Three corruptions make the corrupt prompt:

- `s2_to_other`: S2 becomes a third name, so no name is repeated;
- `s2_to_io`: S2 becomes the IO, so the other name is the answer;
- `abc`: three other names, all different, replace the three.
"""

from __future__ import annotations

import csv
import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from mechshift_tl.tasks.examples import Example, TextPair, split_answer
from mechshift_tl.tasks.task import Split, Task, in_split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Corruption = Literal["s2_to_other", "s2_to_io", "abc"]

TEMPLATES = (
    "Then, {0} and {1} went to the {place}. {s} gave a {thing} to",
    "After lunch, {0} and {1} walked to the {place}. {s} handed a {thing} to",
    "When {0} and {1} met at the {place}, {s} offered a {thing} to",
    "Yesterday {0} and {1} were at the {place}. {s} decided to give a {thing} to",
    "While {0} and {1} were working at the {place}, {s} passed a {thing} to",
    "In the morning, {0} and {1} had fun at the {place}. {s} brought a {thing} to",
    "Because {0} and {1} were late for the {place}, {s} sent a {thing} to",
    "Once {0} and {1} arrived at the {place}, {s} showed a {thing} to",
    "Friends {0} and {1} found a {thing} at the {place}. {s} gave it to",
    "As {0} and {1} left the {place}, {s} threw a {thing} to",
    "The day {0} and {1} visited the {place}, {s} lent a {thing} to",
    "Later, {0} and {1} sat in the {place}. {s} read a letter about a {thing} to",
    "Before {0} and {1} closed the {place}, {s} sold a {thing} to",
    "Afterwards {0} and {1} got lost near the {place}. {s} wanted to give a {thing} to",
    "Last year {0} and {1} opened the {place}. {s} promised a {thing} to",
)
NAMES = tuple(
    "Mary John Tom James Dan Paul Mark David Anna Sarah Kate Laura Emma Jack Henry Peter Alice Jane Lisa Robert "
    "Michael Kevin Simon Amy Rachel Andrew Grace Chris Brian Maria".split()
)
PLACES = tuple("store school park house garden station office hospital market restaurant".split())
THINGS = tuple("drink book ring ball kiss snack flower necklace computer key".split())


class IOI(Task):
    """IOI sentences whose names are single tokens.

    - `corruption`: how the corrupt prompt differs from the clean one, as the module says.
    - `names`, `templates`: what sentences are made of; in a template, `{0}` and `{1}` are the names and `{s}` is the subject.
    - `rows`: text pairs to use in place of made ones.

    Splits hold different pairs of names. The group of an example is its template's number and its order, such as `3:ABBA`. The tiny pair
    solves the default settings.
    """

    name = "ioi"

    def __init__(
        self,
        *,
        corruption: Corruption = "s2_to_other",
        names: tuple[str, ...] = NAMES,
        templates: tuple[str, ...] = TEMPLATES,
        rows: tuple[TextPair, ...] | None = None,
    ) -> None:
        if corruption not in get_args(Corruption):
            raise ValueError(f"IOI: unknown corruption {corruption!r}; choose one of {', '.join(get_args(Corruption))}")
        if len(set(names)) < 5:
            raise ValueError(f"IOI: {len(set(names))} names; give at least 5, two for the sentence and three others for its corruptions")
        self.corruption, self.names, self.templates, self.rows = corruption, names, templates, rows

    @classmethod
    def from_csv(cls, path: str | Path, *, corruption: str = "corrupted") -> IOI:
        """Sentences from a CSV file: clean ones in the column `clean`, corrupt ones in the column that `corruption` names.

        The sentence gives the answer: IO is the name that it has once, S the name that it has twice. Other columns are ignored; token ids,
        say, belong to another tokenizer. Raises ValueError, naming a column that is missing, or the row of a sentence without two names.
        """
        with open(path, newline="") as file:
            reader = csv.DictReader(file)
            missing = {"clean", corruption} - set(reader.fieldnames or ())
            if missing:
                raise ValueError(f"{path}: no column {', '.join(sorted(missing))}; it has {', '.join(reader.fieldnames or ())}")
            rows = tuple(_pair_from_sentences(row["clean"], row[corruption], f"{path}, row {i}") for i, row in enumerate(reader, 2))
        return cls(rows=rows)

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """Distinct sentences with the name pairs of `split`. Given rows are all held out."""
        if self.rows is not None:
            yield from self.rows if split == "held_out" else ()
            return
        pairs, limit = self.name_pairs(split), self.capacity(split)
        seen: set[str] = set()
        while pairs and len(seen) < limit:
            pair = self._sentence(rng, rng.choice(pairs))
            if pair.prompt not in seen:
                seen.add(pair.prompt)
                yield pair

    def capacity(self, split: Split) -> int:
        """The number of given rows; or of sentences: each pair of names in each template, in both orders, with either as the subject."""
        if self.rows is not None:
            return len(self.rows) if split == "held_out" else 0
        fillings = sum((len(PLACES) if "{place}" in t else 1) * (len(THINGS) if "{thing}" in t else 1) for t in set(self.templates))
        return len(self.name_pairs(split)) * 2 * 2 * fillings

    def name_pairs(self, split: Split) -> list[tuple[str, str]]:
        """The pairs of names of `split`, each in alphabetical order."""
        return [p for p in combinations(sorted(self.names), 2) if in_split(f"ioi:{p[0]}|{p[1]}", split)]

    def _sentence(self, rng: random.Random, names: tuple[str, str]) -> TextPair:
        io, s = rng.sample(names, 2)
        order = rng.choice(("BABA", "ABBA"))
        index = rng.randrange(len(self.templates))
        fill = {"place": rng.choice(PLACES), "thing": rng.choice(THINGS)}

        def sentence(io: str, s1: str, s2: str) -> str:
            first = (s1, io) if order == "BABA" else (io, s1)
            return self.templates[index].format(*first, s=s2, **fill)

        others = rng.sample([name for name in self.names if name not in names], 3)
        corrupt = {"s2_to_other": (io, s, others[0]), "s2_to_io": (io, s, io), "abc": tuple(others)}[self.corruption]
        return TextPair(
            prompt=sentence(io, s, s),
            answer=f" {io}",
            corrupt_prompt=sentence(*corrupt),
            corrupt_answer=f" {s}" if self.corruption == "s2_to_io" else f" {io}",
            foil=f" {s}",
            group=f"{index}:{order}",
        )

    def screen(self, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> str | None:
        """Drop a sentence when one of its names is more than one token."""
        spans = (split_answer(tokenizer, pair.prompt, name) for name in (pair.answer, pair.foil))
        return "a name has more than one token" if any(len(ids) != start + 1 for ids, start in spans) else None

    def solved(self, example: Example, decoded: str) -> bool:
        """Whether the decoded name is the indirect object."""
        return decoded.strip() == example.pair.answer.strip()


def _pair_from_sentences(clean: str, corrupt: str, where: str) -> TextPair:
    match = re.search(r"\b([A-Z][a-z]+) and ([A-Z][a-z]+)\b", clean)
    count = Counter(re.findall(r"\b[A-Z][a-z]+\b", clean))
    names = list(match.groups()) if match else []
    if len(set(names)) != 2 or sorted(count[name] for name in names) != [1, 2]:
        raise ValueError(f"{where}: {clean!r} does not name two people, one of them twice")
    io, s = sorted(names, key=lambda name: count[name])
    flipped = Counter(re.findall(r"\b[A-Z][a-z]+\b", corrupt))[io] == 2
    return TextPair(clean, f" {io}", corrupt, f" {s if flipped else io}", f" {s}", "BABA" if names[0] == s else "ABBA")
