"""Indirect object identification (Wang et al., 2211.00593): `… Mary and John … John gave a drink to` → ` Mary`.

The subject S is the name that appears twice (S1, then S2); the indirect object IO is the name that appears once. A BABA sentence names the
subject first; an ABBA sentence names the indirect object first. Three corruptions make the corrupt prompt:

- `s2_to_other`: S2 becomes a third name, so no name is repeated;
- `s2_to_io`: S2 becomes the IO, so the other name is the answer;
- `abc`: three other names, all different, replace the three.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Literal, get_args

from mechshift_tl.tasks.data_files import csv_rows, shown
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
#: What a template may hold: two names, the subject, a place, a thing.
FIELDS = {"0", "1", "s", "place", "thing"}
#: After this many draws in a row that gave a sentence again, the other sentences are listed one by one.
MOST_MISSES = 200


class IOI(Task):
    """IOI sentences whose names are single tokens.

    - `corruption`: how the corrupt prompt differs from the clean one, as the module says.
    - `names`, `templates`: what sentences are made of; in a template, `{0}` and `{1}` are the names and `{s}` is the subject.
    - `rows`: text pairs to use in place of made ones.

    Splits hold different pairs of names. The group of an example is its template's number and its order, such as `3:ABBA`. The tiny pair
    solves the default settings.
    """

    name = "ioi"
    dependency = "local"

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
        _check_words(names, templates)
        self.corruption, self.names, self.templates, self.rows = corruption, names, templates, rows

    @classmethod
    def from_csv(cls, path: str | Path, *, corruption: str = "corrupted") -> IOI:
        """Sentences from a CSV file: clean ones in the column `clean`, corrupt ones in the column that `corruption` names.

        The sentence gives the answer: IO is the name that it has once, S the name that it has twice. Other columns are ignored; token ids,
        say, belong to another tokenizer. Raises ValueError, naming a column that is missing, or the row of a sentence without two names.
        """
        if not corruption.strip():
            raise ValueError(f"IOI: the column of corrupt sentences is {corruption!r}; name one, such as 'corrupted'")
        rows = csv_rows(path, ("clean", corruption))
        return cls(rows=tuple(_pair_from_sentences(row["clean"], row[corruption], where) for where, row in rows))

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """Distinct sentences with the name pairs of `split`. Given rows are all held out."""
        if self.rows is not None:
            yield from self.rows if split == "held_out" else ()
            return
        pairs, limit = self.name_pairs(split), self.capacity(split)
        seen: set[str] = set()
        misses = 0
        while pairs and len(seen) < limit and misses < MOST_MISSES:
            pair = self._sentence(rng, rng.choice(pairs))
            misses = misses + 1 if pair.prompt in seen else 0
            if not misses:
                seen.add(pair.prompt)
                yield pair
        # What is left is too rare to be met by chance, and may be nothing: two templates can give one sentence.
        for pair in self._every_sentence(rng, pairs) if len(seen) < limit else ():
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
        return self._filled(rng, (io, s), order, index, {"place": rng.choice(PLACES), "thing": rng.choice(THINGS)})

    def _every_sentence(self, rng: random.Random, pairs: list[tuple[str, str]]) -> Iterator[TextPair]:
        """Every sentence with these pairs of names, one after the other; the corruptions are drawn."""
        for (one, other), (index, template), order in product(pairs, enumerate(self.templates), ("BABA", "ABBA")):
            places = PLACES if "{place}" in template else PLACES[:1]
            things = THINGS if "{thing}" in template else THINGS[:1]
            for roles, place, thing in product(((one, other), (other, one)), places, things):
                yield self._filled(rng, roles, order, index, {"place": place, "thing": thing})

    def _filled(self, rng: random.Random, roles: tuple[str, str], order: str, index: int, fill: dict[str, str]) -> TextPair:
        """One sentence with its corruption; `roles` are the indirect object and the subject."""
        io, s = roles

        def sentence(io: str, s1: str, s2: str) -> str:
            first = (s1, io) if order == "BABA" else (io, s1)
            return self.templates[index].format(*first, s=s2, **fill)

        others = rng.sample([name for name in self.names if name not in roles], 3)
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


def _check_words(names: tuple[str, ...], templates: tuple[str, ...]) -> None:
    """Raise ValueError, naming it, on a name that is empty or a template without its places for two names and the subject."""
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"IOI: a name is {name!r}; give names of letters")
    if not templates:
        raise ValueError("IOI: there are no templates; give at least one, such as 'Then, {0} and {1} sat. {s} read to'")
    for template in templates:
        try:
            fields = {field for _, field, *_ in Formatter().parse(template) if field is not None}
        except (TypeError, ValueError) as error:
            raise ValueError(f"IOI: the template {shown(template)} is no format string ({error}); write {{{{ for a brace") from None
        if not {"0", "1", "s"} <= fields <= FIELDS:
            raise ValueError(f"IOI: the template {shown(template)} needs {{0}}, {{1}} and {{s}}, and may have {{place}} and {{thing}}")


def _pair_from_sentences(clean: str, corrupt: str, where: str) -> TextPair:
    match = re.search(r"\b([A-Z][a-z]+) and ([A-Z][a-z]+)\b", clean)
    count = Counter(re.findall(r"\b[A-Z][a-z]+\b", clean))
    names = list(match.groups()) if match else []
    if len(set(names)) != 2 or sorted(count[name] for name in names) != [1, 2]:
        raise ValueError(f"{where}: {shown(clean)} does not name two people, one of them twice; correct the sentence, or leave it out")
    io, s = sorted(names, key=lambda name: count[name])
    flipped = Counter(re.findall(r"\b[A-Z][a-z]+\b", corrupt))[io] == 2
    return TextPair(clean, f" {io}", corrupt, f" {s if flipped else io}", f" {s}", "BABA" if names[0] == s else "ABBA")
