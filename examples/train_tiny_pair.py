"""Train the bundled pair on five tasks: an ARM, the MDM post-trained from it, and a control that continues the ARM without diffusion.

    python examples/train_tiny_pair.py start          # two tasks, smaller numbers
    python examples/train_tiny_pair.py arm            # two tasks, the whole range
    python examples/train_tiny_pair.py five           # all five tasks: the pair's ARM
    python examples/train_tiny_pair.py mdm_start      # then these two and, from each, the next two: one process per core
    python examples/train_tiny_pair.py control_start
    python examples/train_tiny_pair.py mdm
    python examples/train_tiny_pair.py control
    python examples/train_tiny_pair.py export         # weights, specs and tokenizer into the package

Each stage resumes from its last checkpoint in `--work`. One thread per process. The first two stages know the words of two tasks; `five`
adds those of the others below them.
"""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hooked_diffusion import DiffusionSpec
from hooked_diffusion.checkpoints.saving import save_checkpoint
from hooked_diffusion.posttrain import Recipe, Rows, train
from mechshift_tl.tasks import IOI, Arithmetic, Countdown, GreaterThan, SemanticInfilling
from mechshift_tl.tasks.greater_than import NOUNS, SENTENCE
from mechshift_tl.tasks.infilling import AGAIN, BLANK, FRAMES, THINGS, VERBS, WORDS
from mechshift_tl.tasks.ioi import NAMES, PLACES, TEMPLATES
from mechshift_tl.tasks.ioi import THINGS as GIFTS

#: Where the given numbers stand in `<s> Input : a , b , c , target Output : …`; their order is shuffled at every draw.
NUMBERS_AT = torch.tensor([3, 5, 7])
#: Rows per step; "middle" is infilling without the restated sentence, which asks for the text on both sides of the mask.
TWO = {"countdown": 208, "ioi": 48}
FIRST = {"countdown": 40, "ioi": 6, "greater_than": 16, "infilling": 20, "middle": 6, "arithmetic": 40}
FIVE = {"countdown": 72, "ioi": 4, "greater_than": 5, "infilling": 7, "middle": 4, "arithmetic": 24}
LAST = {"countdown": 72, "ioi": 3, "greater_than": 3, "infilling": 5, "middle": 3, "arithmetic": 32}


@dataclass(frozen=True)
class Stage:
    """One training: its recipe, the stage whose weights it starts from, the rows of each task per step, Countdown's largest number."""

    recipe: Recipe
    starts_from: str | None
    rows: dict[str, int]
    largest: int = 60


STAGES = {
    "start": Stage(Recipe("next_token", steps=2800, stop=2200, seed=1), None, TWO, largest=50),
    "arm": Stage(Recipe("next_token", steps=1300, seed=4, learning_rate=1.2e-3), "start", TWO),
    "five": Stage(Recipe("next_token", steps=1000, seed=5, learning_rate=1.5e-3), "arm", FIRST),
    "mdm_start": Stage(
        Recipe("masked_diffusion", steps=1800, stop=1200, seed=2, learning_rate=8e-4, anneal_steps=200, t_min=0.1), "five", FIVE
    ),
    "control_start": Stage(Recipe("next_token", steps=1800, stop=1200, seed=3, learning_rate=8e-4), "five", FIVE),
    "mdm": Stage(Recipe("masked_diffusion", steps=2600, seed=7, learning_rate=8e-4, t_min=0.1), "mdm_start", LAST),
    "control": Stage(Recipe("next_token", steps=2600, seed=8, learning_rate=8e-4), "control_start", LAST),
}


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


class TaskRows:
    """Training rows of all tasks: one step is a batch per task, each row closed by `</s>`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rows: dict[str, int], largest: int, seed: int = 0) -> None:
        self.counts = {task: n for task, n in rows.items() if task != "countdown"}
        self.n_countdown = rows["countdown"]
        problems = [Countdown(largest=largest, unique=unique) for unique in (True, False)]
        self.countdown = [by_length(tokenizer, task.training_texts()) for task in problems]
        self.others = {task: by_length(tokenizer, training_texts(task, tokenizer, seed)) for task in self.counts}

    def __call__(self, generator: torch.Generator) -> list[Rows]:
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
    groups: dict[int, list[tuple[list[int], int, int]]] = defaultdict(list)
    end = id_of(tokenizer, "</s>")
    ids = tokenizer(["".join(text) for text in texts])["input_ids"]
    starts = [len(x) for x in tokenizer([text[0] for text in texts])["input_ids"]]
    stops = [len(x) for x in tokenizer(["".join(text[:2]) for text in texts])["input_ids"]]
    for row, start, stop in zip(ids, starts, stops, strict=True):
        groups[len(row)].append(([*row, end], start, stop + (stop == len(row))))
    made = []
    for _, rows in sorted(groups.items()):
        tokens, start, stop = (torch.tensor(column) for column in zip(*rows, strict=True))
        place = torch.arange(tokens.shape[1])
        made.append(Rows(tokens, (place >= start[:, None]) & (place < stop[:, None])))
    return made


def id_of(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of one token of the vocabulary."""
    number = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(number, int)
    return number


def _draw(groups: list[Rows], n: int, generator: torch.Generator) -> Rows:
    """`n` rows of one length, the length drawn by how many rows have it."""
    sizes = torch.tensor([float(g.tokens.shape[0]) for g in groups])
    group = groups[int(torch.multinomial(sizes, 1, generator=generator))]
    picked = torch.randint(group.tokens.shape[0], (n,), generator=generator)
    return Rows(group.tokens[picked], group.is_answer[picked])


def make_model(vocabulary: int) -> LlamaForCausalLM:
    """A Llama of 6 layers, 4 heads and 128 dimensions, untied, from a fixed seed."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=384, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def load_stage(model: LlamaForCausalLM, folder: Path) -> None:
    """Put the weights of a stage's checkpoint into `model`; words that the stage did not know keep their random rows."""
    own = model.state_dict()
    for name, weight in load_file(folder / "checkpoint.safetensors").items():
        if name.startswith("model."):
            own[name.removeprefix("model.")][: len(weight)] = weight


def export(work: Path, out: Path) -> None:
    """Write the pair: a whole checkpoint folder per role, and the tokenizer they share."""
    tokenizer = make_tokenizer()
    mask, tail = id_of(tokenizer, "<mask>"), (id_of(tokenizer, "</s>"),)
    for role, stage in {"arm": "five", "mdm": "mdm", "control": "control"}.items():
        model = make_model(len(tokenizer))
        load_stage(model, work / stage)
        spec = DiffusionSpec("full", mask_token_id=mask, tail=tail) if role == "mdm" else DiffusionSpec("causal", tail=tail)
        save_checkpoint(model, out / role, spec, tokenizer)
    tokenizer.save_pretrained(out / "tokenizer")


def main() -> None:
    """Parse the stage and run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "export"])
    parser.add_argument("--work", type=Path, default=Path("runs/tiny_pair"), help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, default=Path("hooked_diffusion/pretrained/tiny"), help="where export writes")
    args = parser.parse_args()
    if args.stage == "export":
        export(args.work, args.out)
        return
    torch.set_num_threads(1)
    stage = STAGES[args.stage]
    tokenizer = make_tokenizer(2 if stage.rows is TWO else 5)
    model = make_model(len(tokenizer))
    if stage.starts_from:
        load_stage(model, args.work / stage.starts_from)
    model.config.is_causal = stage.recipe.objective == "next_token"
    rows = TaskRows(tokenizer, stage.rows, stage.largest)
    mask = id_of(tokenizer, "<mask>")
    train(model, rows, stage.recipe, folder=args.work / args.stage, mask_token_id=mask, log=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
