"""Semantic infilling: a content word in the middle of a sentence, decided by what stands on both of its sides.

    Emma fed the ___ that was as red as blood. In full: Emma fed the [lobster] that was as red as blood.

Construction, on a grid of kinds (animal, fruit, flower, gem) by colours (red, yellow, white, blue, orange) with one word in each cell:

1. the left cue is a verb that only one kind fits (`fed`): five words are left;
2. the right cue is a comparison that only one colour fits (`as red as blood`): four words are left; both cues together leave one;
3. the corrupt side swaps one of the two cues, left or right; its word is the foil: right by the other cue alone.

The masked word stands between its two sides on an MDM's canvas: the text after the answer is the example's suffix. An ARM never sees what
comes later, so the prompt first states the sentence with a blank: the only form in which the same examples ask the same of both. With
`restate=False` that statement is left out: an MDM can still answer, an ARM can only guess among the five words of a kind.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice, product
from typing import Literal, get_args

from mechshift_tl.tasks.examples import Example, TextPair
from mechshift_tl.tasks.ioi import NAMES, PLACES
from mechshift_tl.tasks.task import Split, Task, in_split

Corruption = Literal["left", "right", "either"]

VERBS = {
    "animal": ("fed", "tamed", "chased", "petted"),
    "fruit": ("ate", "peeled", "tasted", "swallowed"),
    "flower": ("planted", "watered", "smelled", "picked"),
    "gem": ("mined", "polished", "wore", "appraised"),
}
THINGS = {
    "red": ("blood", "fire", "wine", "bricks"),
    "yellow": ("butter", "honey", "straw", "mustard"),
    "white": ("snow", "milk", "chalk", "bone"),
    "blue": ("ink", "denim", "ice", "cobalt"),
    "orange": ("rust", "carrots", "pumpkins", "flames"),
}
WORDS = {
    "animal": {"red": "lobster", "yellow": "canary", "white": "swan", "blue": "whale", "orange": "tiger"},
    "fruit": {"red": "cherry", "yellow": "banana", "white": "coconut", "blue": "plum", "orange": "mango"},
    "flower": {"red": "rose", "yellow": "sunflower", "white": "lily", "blue": "violet", "orange": "marigold"},
    "gem": {"red": "ruby", "yellow": "topaz", "white": "pearl", "blue": "sapphire", "orange": "amber"},
}
#: What stands on the left and on the right of the word.
FRAMES = (
    ("{name} {verb} the", " that was as {colour} as {thing}."),
    ("At the {place}, {name} {verb} the", " that looked {colour} like {thing}."),
    ("Yesterday {name} {verb} the", " and it was {colour} like {thing}."),
)
BLANK, AGAIN = " ___", " In full: "
KIND_OF = {verb: kind for kind, verbs in VERBS.items() for verb in verbs}
COLOUR_OF = {thing: colour for colour, things in THINGS.items() for thing in things}


class SemanticInfilling(Task):
    """Sentences with one blank, as the module describes.

    Arguments: `corruption`, the cue that the corrupt side swaps, "either" for a fair coin; `restate`, whether the prompt states the
    sentence before it. Held out: (verb, thing) pairs, so both cues are trained and their meeting is new. An example's group is its frame
    and the cue swapped, such as `0:left`.
    """

    name = "infilling"
    dependency = "global"

    def __init__(self, *, corruption: Corruption = "either", restate: bool = True) -> None:
        if corruption not in get_args(Corruption):
            raise ValueError(f"SemanticInfilling: unknown corruption {corruption!r}; choose one of {', '.join(get_args(Corruption))}")
        self.corruption, self.restate = corruption, restate

    def cues(self, split: Split) -> list[tuple[str, str]]:
        """(verb, thing) pairs of `split`."""
        return [(v, t) for v, t in product(KIND_OF, COLOUR_OF) if in_split(f"infilling:{v}|{t}", split)]

    def capacity(self, split: Split) -> int:
        """Every frame with every name and every pair of cues of `split`, each once."""
        return len(FRAMES) * len(NAMES) * len(self.cues(split))

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """Each frame with each name and each pair of cues of `split`, once."""
        sentences = list(product(range(len(FRAMES)), NAMES, self.cues(split)))
        rng.shuffle(sentences)
        for frame, name, cues in sentences:
            side = rng.choice(("left", "right")) if self.corruption == "either" else self.corruption
            other, place = _swapped(rng, cues, side), rng.choice(PLACES)
            (prompt, suffix), (corrupt_prompt, corrupt_suffix) = (self._around(frame, name, place, pair) for pair in (cues, other))
            yield TextPair(
                prompt=prompt, answer=f" {word_of(*cues)}", corrupt_prompt=corrupt_prompt, corrupt_answer=f" {word_of(*other)}",
                foil=f" {word_of(*other)}", group=f"{frame}:{side}", suffix=suffix, corrupt_suffix=corrupt_suffix,
            )  # fmt: skip

    def _around(self, frame: int, name: str, place: str, cues: tuple[str, str]) -> tuple[str, str]:
        """The prompt and the suffix of one sentence."""
        verb, thing = cues
        fill = {"name": name, "place": place, "verb": verb, "colour": COLOUR_OF[thing], "thing": thing}
        left, right = (part.format(**fill) for part in FRAMES[frame])
        return (left + BLANK + right + AGAIN + left if self.restate else left), right

    def training_texts(self, n: int, seed: int = 0) -> list[tuple[str, str, str]]:
        """`n` distinct training sentences as (prompt, answer, suffix)."""
        rng = random.Random(f"{self.name}:texts:{seed}")
        return [(pair.prompt, pair.answer, pair.suffix) for pair in islice(self.draw(rng, "train"), n)]

    def solved(self, example: Example, decoded: str) -> bool:
        """The decoded word is the one that fits both cues."""
        return decoded.strip() == example.pair.answer.strip()


def word_of(verb: str, thing: str) -> str:
    """The one word that both cues leave."""
    return WORDS[KIND_OF[verb]][COLOUR_OF[thing]]


def _swapped(rng: random.Random, cues: tuple[str, str], side: str) -> tuple[str, str]:
    """The cues with the one on `side` replaced by one of another kind or colour."""
    verb, thing = cues
    if side == "left":
        return rng.choice([v for v, kind in KIND_OF.items() if kind != KIND_OF[verb]]), thing
    return verb, rng.choice([t for t, colour in COLOUR_OF.items() if colour != COLOUR_OF[thing]])
