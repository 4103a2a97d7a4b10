"""The two losses, on logits that are computed only where a loss reads them.

- Next token: cross-entropy of every token of a text but its first, those of the prompt weighted by `Recipe.prompt_weight`.
- Masked diffusion: Σ weight · cross-entropy over the masked tokens (`noise.py`), under the attention of `visibility.py`.

Both are averaged as `Recipe.average` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from transformers import PreTrainedModel

from hooked_diffusion.posttrain.noise import add_noise
from hooked_diffusion.posttrain.recipe import Recipe
from hooked_diffusion.posttrain.rows import Rows
from hooked_diffusion.posttrain.visibility import visibility


@dataclass(frozen=True)
class Question:
    """What a step asks of the model on one batch of rows.

    - `inputs`, `position_ids`: `(batch, pos)`, or twice as long where rows stand twice; `sees`: `(batch, 1, query, key)` or None.
    - `row`, `column`: `(asked,)`, where the logits are read; `target`: `(asked,)`, the tokens that they should name.
    - `weight`: `(asked,)`, averaged: the loss is the sum of weight · cross-entropy.
    """

    inputs: Int[Tensor, "batch pos"]
    position_ids: Int[Tensor, "batch pos"] | None
    sees: Bool[Tensor, "batch 1 query key"] | None
    row: Int[Tensor, " asked"]
    column: Int[Tensor, " asked"]
    target: Int[Tensor, " asked"]
    weight: Float[Tensor, " asked"]

    def to(self, device: torch.device) -> Question:
        """The same question on a device."""
        return Question(*(None if value is None else value.to(device) for value in vars(self).values()))  # type: ignore[arg-type]

    def share(self, process: int, count: int) -> Question:
        """The part of `process`, one of `count` whose gradients are averaged: every `count`-th row, with `count` times the weight."""
        mine = self.row % count == process
        cut = lambda value: None if value is None else value[process::count]  # noqa: E731
        row, column, target, weight = (value[mine] for value in (self.row // count, self.column, self.target, self.weight))
        return Question(self.inputs[process::count], cut(self.position_ids), cut(self.sees), row, column, target, weight * count)


def question(rows: Rows, recipe: Recipe, step: int, mask_token_id: int | None, generator: Generator) -> Question:
    """What `recipe` asks on these rows at this step. Raises ValueError when masks are wanted without a mask id."""
    if recipe.diffuses:
        if mask_token_id is None:
            raise ValueError("the objective masked_diffusion writes masks; pass mask_token_id")
        noised = add_noise(rows, mask_token_id, recipe, generator)
        inputs, asked, counted, weight = noised.inputs, noised.masked, noised.candidates, noised.weight
    else:
        asked = rows.visible & (rows.place > 0)
        inputs, counted, weight = rows.tokens, rows.is_answer & rows.visible, torch.where(rows.is_answer, 1.0, recipe.prompt_weight)
        asked = asked & (weight > 0)
    weight = averaged(weight * asked, counted, asked, rows, recipe)
    row, place = asked.nonzero(as_tuple=True)
    column, position_ids = place - recipe.logit_shift, None if rows.segment is None else rows.place
    if recipe.attention == "block":
        # The first token of a block is read from the end of the block before, which is clean by then.
        before = rows.place[row, place] % (recipe.block_length or 1) < recipe.logit_shift
        column = torch.where(before, column + rows.tokens.shape[1], column)
        inputs, position_ids = torch.cat([inputs, rows.tokens], 1), torch.cat([rows.place, rows.place], 1)
    sees = visibility(rows, recipe, step, generator)
    return Question(inputs, position_ids, sees, row, column, rows.tokens[row, place], weight[row, place])


def averaged(
    weight: Float[Tensor, "batch pos"],
    counted: Bool[Tensor, "batch pos"],
    asked: Bool[Tensor, "batch pos"],
    rows: Rows,
    recipe: Recipe,
) -> Float[Tensor, "batch pos"]:
    """`(batch, pos)`: weights that sum the batch's loss to its mean over texts, over candidate tokens, or over asked ones."""
    if recipe.average == "rows":
        per_text = torch.zeros(rows.n_texts).index_add_(0, rows.text.flatten(), counted.flatten().float())
        return weight / per_text.clamp(min=1)[rows.text] / rows.n_texts
    total = counted.sum() if recipe.average == "tokens" and recipe.diffuses else asked.sum()
    return weight / total.clamp(min=1)


def cross_entropies(model: nn.Module, native: PreTrainedModel, asked: Question) -> Float[Tensor, " asked"]:
    """`(asked,)` in nats: of each token that is asked for. `model` runs; `native`, the Hugging Face model in it, has the head."""
    return F.cross_entropy(asked_logits(model, native, asked).float(), asked.target, reduction="none")


def asked_logits(model: nn.Module, native: PreTrainedModel, asked: Question) -> Float[Tensor, "asked d_vocab"]:
    """`(asked, d_vocab)`: the raw logits at the positions that a question reads."""
    with head_reads(native, asked.row, asked.column):
        return model(input_ids=asked.inputs, attention_mask=asked.sees, position_ids=asked.position_ids, use_cache=False).logits


@contextmanager
def head_reads(native: PreTrainedModel, row: Int[Tensor, " asked"], column: Int[Tensor, " asked"]) -> Iterator[None]:
    """While open, the output head gets the hidden states at these positions alone, so no other logits are computed."""
    head = native.get_output_embeddings()
    assert isinstance(head, nn.Module)
    # A hook, not `logits_to_keep`: that keeps the same positions of every row.
    handle = head.register_forward_pre_hook(lambda _, inputs: (inputs[0][row, column],))
    try:
        yield
    finally:
        handle.remove()
