"""Greater-Than (Hanna et al., 2305.00586): `The war lasted from the year 17 41 to the year 17` → a year above 41.

A year is two two-digit numbers, its century and its year in it. Many answers are right, the readout contrasts two of them:

- the answer is one year above the start, drawn uniformly from start + 1 … 99; the others above are valid too;
- the foil is one year that is not above the start, drawn uniformly from 02 … start;
- the corrupt side starts in the year 01, after which answer and foil are both right: only the comparison is lost.

Under a tokenizer that splits numbers into digits, a digit of the foil that begins some year above the start is not read.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING

from mechshift_tl.tasks.data_files import csv_rows, shown
from mechshift_tl.tasks.examples import Example, TextPair, split_answer
from mechshift_tl.tasks.task import Split, Task, in_split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NOUNS = tuple(
    "war campaign study project trial plan program contract marriage practice employment operation quest growth riot case "
    "progress testing process deal attack siege journey strike reign debate voyage drought truce exile".split()
)
CENTURIES = tuple(range(11, 18))
STARTS = tuple(range(2, 99))
SENTENCE = "The {noun} lasted from the year {century}{gap}{start:02d} to the year {century}"
WRITTEN = re.compile(r"^The (\w+) lasted from the year (\d\d)( ?)(\d\d) to the year \2$")


class GreaterThan(Task):
    """Sentences about how long something lasted, with two-digit answers.

    Arguments: `nouns`, `centuries` (two-digit numbers), `gap` between a century and its year: a space gives word-level tokenizers two
    tokens, "" writes years as people do. Held out: (century, start) pairs. An example's group is its start decade, such as `40s`.
    """

    name = "greater_than"
    dependency = "local"
    correct = "above_foil"

    def __init__(
        self,
        *,
        nouns: tuple[str, ...] = NOUNS,
        centuries: tuple[int, ...] = CENTURIES,
        gap: str = " ",
        rows: tuple[TextPair, ...] | None = None,
    ) -> None:
        if gap not in ("", " "):
            raise ValueError(f"GreaterThan: gap is {gap!r}; choose '' or ' '")
        if not all(10 <= century <= 99 for century in centuries):
            raise ValueError(f"GreaterThan: centuries are two-digit numbers, got {centuries}")
        self.nouns, self.centuries, self.gap, self.rows = nouns, centuries, gap, rows

    @classmethod
    def from_csv(cls, path: str | Path) -> GreaterThan:
        """Sentences read from columns `clean` and `corrupted`; a row's answer and foil are drawn from a seed made of its sentence.

        Raises ValueError on a file without the columns, and on a row that is no such sentence or whose corrupt side differs in more than
        the start year.
        """
        rows = csv_rows(path, ("clean", "corrupted"))
        return cls(gap="", rows=tuple(_pair_from_sentences(row["clean"], row["corrupted"], where) for where, row in rows))

    def starts(self, split: Split) -> list[tuple[int, int]]:
        """(century, start) pairs of `split`."""
        return [(c, y) for c, y in product(self.centuries, STARTS) if in_split(f"greater_than:{c}{y:02d}", split)]

    def capacity(self, split: Split) -> int:
        """Given rows, or every noun with every pair of `split`."""
        if self.rows is not None:
            return len(self.rows) if split == "held_out" else 0
        return len(self.starts(split)) * len(self.nouns)

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """Each sentence of `split` once; given rows belong to the held-out split whole."""
        if self.rows is not None:
            yield from self.rows if split == "held_out" else ()
            return
        sentences = list(product(self.nouns, self.starts(split)))
        rng.shuffle(sentences)
        for noun, (century, start) in sentences:
            yield _pair(noun, century, self.gap, start, rng)

    def training_texts(self, n: int, seed: int = 0) -> list[tuple[str, str]]:
        """`n` training sentences as (prompt, answer); a sentence comes again, with another answer, once all were drawn."""
        rng = random.Random(f"{self.name}:texts:{seed}")
        endless = (pair for _ in iter(int, 1) for pair in self.draw(rng, "train"))
        return [(pair.prompt, pair.answer) for pair in islice(endless, n)]

    def screen(self, tokenizer: PreTrainedTokenizerBase, pair: TextPair) -> str | None:
        """Drop sentences whose answer is one token with the century before it."""
        _, start = split_answer(tokenizer, pair.prompt, pair.answer)
        offsets = tokenizer(pair.prompt + pair.answer, return_offsets_mapping=True)["offset_mapping"]
        return None if offsets[start][0] >= len(pair.prompt) else "the century and the answer share a token"

    def solved(self, example: Example, decoded: str) -> bool:
        """The decoded year lies above the start."""
        match = re.fullmatch(r"\d\d", re.sub(r"\s", "", decoded))
        return match is not None and int(match[0]) > start_year(example.pair.prompt)


def start_year(prompt: str) -> int:
    """The year of a sentence's start, without its century. Raises ValueError on another text."""
    match = WRITTEN.match(prompt)
    if match is None:
        raise ValueError(f"{prompt!r} is no Greater-Than sentence")
    return int(match[4])


def _pair(noun: str, century: int, gap: str, start: int, rng: random.Random) -> TextPair:
    """One sentence with an answer and a foil drawn by `rng`."""

    def sentence(year: int) -> str:
        return SENTENCE.format(noun=noun, century=century, gap=gap, start=year)

    above = [f"{gap}{year:02d}" for year in range(start + 1, 100)]
    answer, foil = rng.choice(above), f"{gap}{rng.randint(2, start):02d}"
    return TextPair(sentence(start), answer, sentence(1), answer, foil, f"{start // 10}0s", tuple(above))


def _pair_from_sentences(clean: str, corrupt: str, where: str) -> TextPair:
    """The pair of a file's row, its draws seeded by the sentence."""
    match = WRITTEN.match(clean)
    if match is None or not 2 <= int(match[4]) <= 98:
        raise ValueError(
            f"{where}: {shown(clean)} is no sentence 'The … lasted from the year 1352 to the year 13' with a start from 02 to 98"
        )
    pair = _pair(match[1], int(match[2]), match[3], int(match[4]), random.Random(clean))
    if corrupt != pair.corrupt_prompt:
        raise ValueError(f"{where}: the corrupt side is {shown(corrupt)}, not {pair.corrupt_prompt!r}")
    return pair
