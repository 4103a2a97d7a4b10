"""Train the bundled tiny pair: an ARM, the MDM post-trained from it, and a control that continues the ARM without diffusion.

    python examples/train_tiny_pair.py start          # first: smaller numbers
    python examples/train_tiny_pair.py arm            # then the whole range
    python examples/train_tiny_pair.py mdm            # then these two, one process per core
    python examples/train_tiny_pair.py control
    python examples/train_tiny_pair.py export         # weights, specs and tokenizer into the package

Each stage resumes from its last checkpoint in `--work`. One thread per process.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hooked_diffusion import DiffusionSpec
from hooked_diffusion.checkpoints.saving import save_checkpoint
from hooked_diffusion.posttrain import Recipe, Rows, train
from mechshift_tl.tasks import IOI, Countdown
from mechshift_tl.tasks.ioi import NAMES, PLACES, TEMPLATES, THINGS

COUNTDOWN_ROWS = 208
#: Where the given numbers stand in `<s> Input : a , b , c , target Output : …`; their order is shuffled at every draw.
NUMBERS_AT = torch.tensor([3, 5, 7])


@dataclass(frozen=True)
class Stage:
    """One training: its recipe, the largest number in its problems, IOI rows per step, and the stage whose weights it starts from."""

    recipe: Recipe
    largest: int
    ioi_rows: int
    starts_from: str | None


STAGES = {
    "start": Stage(Recipe("next_token", steps=2800, stop=2200, seed=1), largest=50, ioi_rows=48, starts_from=None),
    "arm": Stage(Recipe("next_token", steps=1300, seed=4, learning_rate=1.2e-3), largest=60, ioi_rows=48, starts_from="start"),
    "mdm": Stage(Recipe("masked_diffusion", steps=4000, seed=2, anneal_steps=300, t_min=0.1), largest=60, ioi_rows=24, starts_from="arm"),
    "control": Stage(Recipe("next_token", steps=4000, seed=3), largest=60, ioi_rows=24, starts_from="arm"),
}


def make_tokenizer(largest_result: int) -> PreTrainedTokenizerFast:
    """Word-level: every word, number and sign is one token; `<s>` is added in front, as Llama's tokenizer does."""
    text = " ".join(TEMPLATES + NAMES + PLACES + THINGS).replace("{place}", " ").replace("{thing}", " ")
    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\d+|[^\w\s]"), "isolated")])
    words = {word for word, _ in split.pre_tokenize_str(text.replace("{0}", " ").replace("{1}", " ").replace("{s}", " "))}
    specials = ["<s>", "</s>", "<mask>", "<unk>"]
    fixed = [*"+-*/=,:.", "Input", "Output", *map(str, range(1, largest_result + 1))]
    vocabulary = {word: i for i, word in enumerate([*specials, *fixed, *sorted(words - set(fixed))])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", mask_token="<mask>", unk_token="<unk>", pad_token="</s>"
    )


class TaskRows:
    """Training rows of both tasks: one step is a Countdown batch and an IOI batch, each closed by `</s>`."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, largest: int, ioi_rows: int, seed: int = 0) -> None:
        self.ioi_rows = ioi_rows
        problems = [Countdown(largest=largest, unique=unique) for unique in (True, False)]
        self.countdown = [self._by_length(tokenizer, task.training_texts()) for task in problems]
        pairs = IOI().examples(tokenizer, 20_000, seed, split="train")
        self.ioi = self._by_length(tokenizer, [(e.pair.prompt, e.pair.answer) for e in pairs])

    @staticmethod
    def _by_length(tokenizer: PreTrainedTokenizerFast, texts: list[tuple[str, str]]) -> list[Rows]:
        groups: dict[int, list[tuple[list[int], int]]] = defaultdict(list)
        ids = tokenizer([p + a for p, a in texts])["input_ids"]
        starts = [len(x) for x in tokenizer([p for p, _ in texts])["input_ids"]]
        end = tokenizer.eos_token_id
        assert isinstance(end, int)
        for row, start in zip(ids, starts, strict=True):
            groups[len(row)].append(([*row, end], start))
        made = []
        for _, rows in sorted(groups.items()):
            tokens = torch.tensor([row for row, _ in rows])
            is_answer = torch.arange(tokens.shape[1]) >= torch.tensor([start for _, start in rows])[:, None]
            made.append(Rows(tokens, is_answer))
        return made

    def __call__(self, generator: torch.Generator) -> list[Rows]:
        """One step: as many Countdown rows with a unique solution as of any kind, and IOI rows of one length."""
        parts = [_draw(groups, COUNTDOWN_ROWS // 2, generator) for groups in self.countdown]
        countdown = Rows(torch.cat([p.tokens for p in parts]), torch.cat([p.is_answer for p in parts]))
        order = torch.rand(len(countdown.tokens), len(NUMBERS_AT), generator=generator).argsort(1)
        countdown.tokens[:, NUMBERS_AT] = countdown.tokens[:, NUMBERS_AT].gather(1, order)
        return [countdown, _draw(self.ioi, self.ioi_rows, generator)]


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
    """Put the weights of a stage's checkpoint into `model`."""
    weights = load_file(folder / "checkpoint.safetensors")
    model.load_state_dict({k.removeprefix("model."): v for k, v in weights.items() if k.startswith("model.")})


def export(work: Path, out: Path) -> None:
    """Write the pair: a whole checkpoint folder per role, and the tokenizer they share."""
    tokenizer = make_tokenizer(Countdown().limit)
    end, mask = tokenizer.eos_token_id, tokenizer.mask_token_id
    assert isinstance(end, int) and isinstance(mask, int)
    tail = (end,)
    for role in ("arm", "mdm", "control"):
        model = make_model(len(tokenizer))
        load_stage(model, work / role)
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
    tokenizer = make_tokenizer(Countdown().limit)
    model = make_model(len(tokenizer))
    if stage.starts_from:
        load_stage(model, args.work / stage.starts_from)
    model.config.is_causal = stage.recipe.objective == "next_token"
    rows = TaskRows(tokenizer, stage.largest, stage.ioi_rows)
    mask = tokenizer.mask_token_id
    assert isinstance(mask, int)
    train(model, rows, stage.recipe, folder=args.work / args.stage, mask_token_id=mask, log=lambda line: print(line, flush=True))


if __name__ == "__main__":
    main()
