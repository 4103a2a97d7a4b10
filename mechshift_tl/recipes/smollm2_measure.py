"""What the SmolLM2 pair can do: accuracy on real and held-out prompts, and how well it fills in text that it never read.

- Tasks: the share of prompts answered right, decoded freely, with Wilson intervals. IOI and Greater-Than are the real rows of
  `ioi_llama.csv` and `greater_than.csv` where their folder is given, else made ones.
- Text: the share of masked tokens that rank first, and the bound on −log p in nats per token (masks with probability t ~ U(0.1, 1),
  weight 1/t), on held-out documents. "ARM, masked" is the ARM's weights read as the MDM's: where the MDM started.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import binomtest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooked_diffusion import Pair, load_pair
from hooked_diffusion.checkpoints import load_checkpoint
from hooked_diffusion.pairs.pair import find_pair
from hooked_diffusion.posttrain import Recipe, Rows, pack, preset
from hooked_diffusion.posttrain.held_out import held_out
from hooked_diffusion.posttrain.texts import cut
from mechshift_tl.intervals import drawn_examples, interval
from mechshift_tl.recipes.smollm2 import END, LENGTH, MASK, debian_texts, tasks
from mechshift_tl.tasks import IOI, Examples, GreaterThan, Task
from mechshift_tl.tasks.task import ExampleStream

COLUMNS = ["what", "model", "value", "low", "high", "n"]
#: Pieces of text in a batch; noise levels are spread evenly over each.
BATCH = 8


def measure(pair: str | Path, n: int, n_text: int, data: Path | None = None) -> pd.DataFrame:
    """One row per task and model, and per figure of text: value, 95 % interval, and the number of prompts or of masked tokens.

    `n`: prompts of each task at most; `n_text`: pieces of 64 tokens; `data`: the folder of the real rows. Raises ValueError where the pair
    has no tokenizer.
    """
    opened = load_pair(pair)
    tokenizer = opened.tokenizer
    if tokenizer is None:
        raise ValueError(f"the pair {pair} has no tokenizer; add one to its folder")
    rows = [*_accuracies(opened, prompts(tokenizer, n, data)), *_text(find_pair(str(pair)) or Path(pair), tokenizer, n_text)]
    return pd.DataFrame(rows, columns=COLUMNS)


def prompts(tokenizer: PreTrainedTokenizerBase, n: int, data: Path | None) -> dict[str, tuple[Task, Examples]]:
    """What is asked of each model: held-out prompts of the pair's tasks, or the real rows of a folder."""
    asked = tasks()
    if data is not None:
        asked |= {"ioi": IOI.from_csv(data / "ioi_llama.csv"), "greater_than": GreaterThan.from_csv(data / "greater_than.csv")}
    real = ("ioi", "greater_than") if data is not None else ()
    # A file has as many rows as it has; the first `n` that fit the tokenizer are taken.
    return {f"{name}, real rows" if name in real else name: (task, ExampleStream(task, tokenizer).up_to(n)) for name, task in asked.items()}


def _accuracies(pair: Pair, asked: dict[str, tuple[Task, Examples]]) -> Iterator[tuple[object, ...]]:
    for name, (task, examples) in asked.items():
        for role, model in pair.models.items():
            right = round(task.accuracy(model, examples) * len(examples))
            found = binomtest(right, len(examples)).proportion_ci(method="wilson")
            yield name, role, right / len(examples), found.low, found.high, len(examples)


def _text(folder: Path, tokenizer: PreTrainedTokenizerBase, n: int) -> Iterator[tuple[object, ...]]:
    """The bound and the accuracy of the MDM, of the ARM's weights under the MDM's masks, and the ARM's own causal loss beside them."""
    texts = cut(tokenizer, debian_texts("held_out"), LENGTH, END)[:n]
    batches = [pack(texts[at : at + BATCH], LENGTH, END) for at in range(0, len(texts), BATCH)]
    masked = preset("diffullama", 1, average="tokens", t_min=0.1)
    roles = {"ARM, masked": ("arm", masked), "MDM": ("mdm", masked), "ARM, causal": ("arm", preset("ar", 1))}
    for name, (role, recipe) in roles.items():
        yield from _of_text(name, load_checkpoint(folder / role, tokenizer=None).hf_model, batches, recipe)


def _of_text(name: str, model: PreTrainedModel, batches: list[Rows], recipe: Recipe) -> Iterator[tuple[object, ...]]:
    model.config.is_causal = recipe.attention == "causal"
    found = [held_out(model, [batch], recipe, MASK, seed) for seed, batch in enumerate(batches)]
    losses, right, n = (torch.tensor([getattr(one, field) for one in found], dtype=torch.float64) for field in ("loss", "right", "n"))
    drawn = drawn_examples(len(found), 2000)
    total = int(n.sum())
    for what, value, draws in (
        ("text: nats per token", losses.mean(), losses[drawn].mean(1)),
        ("text: share of tokens that rank first", right.sum() / total, right[drawn].sum(1) / n[drawn].sum(1)),
    ):
        over = interval(draws.tolist())
        yield what, name, float(value), over.low, over.high, total
