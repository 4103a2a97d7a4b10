"""The data of the tiny pair: a tokenizer of whole words, and rows of five tasks, each of one length."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Generator
from transformers import PreTrainedTokenizerFast

from hooked_diffusion.posttrain import Rows
from hooked_diffusion.posttrain.texts import answered
from mechshift_tl.tasks import IOI, Arithmetic, Countdown, GreaterThan, SemanticInfilling
from mechshift_tl.tasks.greater_than import NOUNS, SENTENCE
from mechshift_tl.tasks.infilling import AGAIN, BLANK, FRAMES, THINGS, VERBS, WORDS
from mechshift_tl.tasks.ioi import NAMES, PLACES, TEMPLATES
from mechshift_tl.tasks.ioi import THINGS as GIFTS

#: Where the given numbers stand in `<s> Input : a , b , c , target Output : …`; their order is shuffled at every draw.
NUMBERS_AT = torch.tensor([3, 5, 7])


def make_tokenizer(tasks: int = 5) -> PreTrainedTokenizerFast:
    """Word-level: every word, number and sign is one token; `<s>` is added in front, as Llama's tokenizer does.

    The words that only later tasks use (`tasks` 5, not 2) come last, so the ids of the others do not depend on them.
    """
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\d+|[^\w\s]"), "isolated")])

    def words(*texts: str) -> set[str]:
        return {word for word, _ in split.pre_tokenize_str(re.sub(r"\{.*?\}", " ", " ".join(texts)))}

    specials = ["<s>", "</s>", "<mask>", "<unk>"]
    fixed = [*"+-*/=,:.", "Input", "Output", *map(str, range(1, Countdown().limit + 1))]
    known = [*specials, *fixed, *sorted(words(*TEMPLATES, *NAMES, *PLACES, *GIFTS) - set(fixed))]
    if tasks == 5:
        years = [f"{year:02d}" for year in range(1, 10)]
        sentences = [SENTENCE, BLANK, AGAIN, "Compute Steps", *(part for frame in FRAMES for part in frame)]
        cues = [word for group in (*VERBS.values(), *THINGS.values(), *(row.values() for row in WORDS.values())) for word in group]
        known += sorted(words(*NOUNS, *years, *sentences, *THINGS, *cues) - set(known))
    vocabulary = {word: i for i, word in enumerate(known)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", mask_token="<mask>", unk_token="<unk>", pad_token="</s>"
    )


def id_of(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token of the vocabulary."""
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int)
    return number


class TaskRows:
    """A `RowSource`: one step is a batch per task, each row closed by `</s>`.

    `rows`: how many of each task; "middle" is infilling without the restated sentence. `largest`: Countdown's largest number.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rows: dict[str, int], largest: int, seed: int = 0) -> None:
        self.counts = {task: n for task, n in rows.items() if task != "countdown"}
        self.n_countdown = rows["countdown"]
        problems = [Countdown(largest=largest, unique=unique) for unique in (True, False)]
        self.countdown = [by_length(tokenizer, task.training_texts()) for task in problems]
        self.others = {task: by_length(tokenizer, training_texts(task, tokenizer, seed)) for task in self.counts}

    def __call__(self, generator: Generator) -> list[Rows]:
        """One step: as many Countdown rows with a unique solution as of any kind, and rows of one length of each other task."""
        parts = [_draw(groups, self.n_countdown // 2, generator) for groups in self.countdown]
        countdown = Rows(torch.cat([p.tokens for p in parts]), torch.cat([p.is_answer for p in parts]))
        order = torch.rand(len(countdown.tokens), len(NUMBERS_AT), generator=generator).argsort(1)
        countdown.tokens[:, NUMBERS_AT] = countdown.tokens[:, NUMBERS_AT].gather(1, order)
        return [countdown, *(_draw(self.others[task], n, generator) for task, n in self.counts.items())]


def training_texts(task: str, tokenizer: PreTrainedTokenizerFast, seed: int) -> Sequence[tuple[str, ...]]:
    """(prompt, answer) or (prompt, answer, suffix) of a task's training split."""
    if task == "ioi":
        return [(e.pair.prompt, e.pair.answer) for e in IOI().examples(tokenizer, 20_000, seed, split="train")]
    if task == "greater_than":
        return GreaterThan().training_texts(60_000, seed)
    if task == "arithmetic":
        return Arithmetic().training_texts(60_000, seed)
    return SemanticInfilling(restate=task == "infilling").training_texts(25_000, seed)


def by_length(tokenizer: PreTrainedTokenizerFast, texts: Sequence[tuple[str, ...]]) -> list[Rows]:
    """Rows of one length each; the closing `</s>` counts as answer, unless a suffix stands before it."""
    groups: dict[int, list[tuple[tuple[int, ...], tuple[bool, ...]]]] = defaultdict(list)
    for text in answered(tokenizer, texts, id_of(tokenizer, "</s>")):
        groups[len(text.tokens)].append((text.tokens, text.is_answer))
    return [Rows(*(torch.tensor(column) for column in zip(*rows, strict=True))) for _, rows in sorted(groups.items())]


def _draw(groups: list[Rows], n: int, generator: Generator) -> Rows:
    """`n` rows of one length, the length drawn by how many rows have it."""
    group = groups[int(torch.multinomial(torch.tensor([float(len(g)) for g in groups]), 1, generator=generator))]
    return group[torch.randint(len(group), (n,), generator=generator)]
