"""Where a neuron is most active: the tokens of largest |activation|, each in its context.

Every visible position of every clean canvas counts. A position that stands on several canvases of one example (the steps of a denoising
run) counts once, on the canvas where the neuron is most active.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechshift_tl.bridge.batching import batch_tokens_for
from mechshift_tl.bridge.hooks import Kept, capture
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.readouts import Batch, Readouts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def top_activations(
    model: HookedModel,
    readouts: Readouts,
    neurons: Sequence[str],
    *,
    n: int = 3,
    context: int = 3,
    batch_tokens: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> pd.DataFrame:
    """`n` rows per neuron, most active first: neuron, rank, activation (signed), token, context, example, position.

    - `neurons`: ids such as `m1.n17`. `context`: tokens on either side; the token itself stands in ⟦ ⟧.
    - `tokenizer`: spells the tokens; by default the model's. Without any, tokens are written `#id`.

    Costs one forward per row; memory: examples × positions × neurons numbers. Raises ValueError, before any forward, on ids that are no
    neurons of the model and on readouts that do not fit it.
    """
    places = [_place(model, name) for name in neurons]
    readouts.check(model)
    shape = (readouts.n_examples, readouts.clean.shape[1], len(neurons))
    best, row_of = torch.zeros(shape), torch.zeros(shape, dtype=torch.long)
    for batch in readouts.batches(batch_tokens_for(model, "logits", batch_tokens)):
        _keep_best(model, batch.to(model.cfg.device), readouts.example[batch.index], places, best, row_of)
    spell = tokenizer or model.tokenizer
    lines = []
    for i, name in enumerate(neurons):
        order = best[..., i].abs().flatten().argsort(descending=True, stable=True)[:n].tolist()
        for rank, flat in enumerate(order):
            example, position = divmod(flat, shape[1])
            words = _words(spell, readouts.clean[row_of[example, position, i]], position, context)
            value = best[example, position, i].item()
            line = {"neuron": name, "rank": rank, "activation": value, "token": words[0], "context": words[1]}
            lines.append(line | {"example": example, "position": position})
    return pd.DataFrame(lines)


def _place(model: HookedModel, name: str) -> tuple[int, int]:
    """Layer and number of a neuron."""
    layer, _, number = name.removeprefix("m").partition(".n")
    width = model.cfg.d_mlp
    if not (layer.isdigit() and number.isdigit() and int(layer) < model.cfg.n_layers and (width is None or int(number) < width)):
        raise ValueError(f"top_activations: {name!r} is no neuron of this model; name some such as m0.n0 … m{model.cfg.n_layers - 1}.n0")
    return int(layer), int(number)


@torch.no_grad()
def _keep_best(
    model: HookedModel,
    batch: Batch,
    example: Int[Tensor, " rows"],
    places: Sequence[tuple[int, int]],
    best: Float[Tensor, "examples pos neurons"],
    row_of: Int[Tensor, "examples pos neurons"],
) -> None:
    """Put the batch's activations where they exceed, in size, what their example had at that position."""
    seen: Kept = {}

    def taken(tensor: Tensor) -> Tensor:
        return tensor.detach().reshape(*batch.clean.shape, -1).float().cpu()

    name_of = "blocks.{}.mlp.hook_post".format
    with model.hooks(fwd_hooks=capture([name_of(layer) for layer in sorted({layer for layer, _ in places})], seen, take=taken)):
        batch.logits(model)
    values = torch.stack([seen[name_of(layer)][..., number] for layer, number in places], -1)
    values = values * batch.visible("clean").cpu()[..., None]
    length = values.shape[1]
    for i, (row, at) in enumerate(zip(batch.index.tolist(), example.tolist(), strict=True)):  # an example may have several rows here
        larger = values[i].abs() > best[at, :length].abs()
        best[at, :length][larger] = values[i][larger]
        row_of[at, :length][larger] = row


def _words(spell: PreTrainedTokenizerBase | None, row: Int[Tensor, " pos"], position: int, context: int) -> tuple[str, str]:
    """The token, and the token in its context."""
    first = max(0, position - context)
    ids = [token for token in row[first : position + context + 1].tolist() if token >= 0]
    words = [f"#{token}" if spell is None else str(spell.decode([token])) for token in ids]
    here = position - first
    return words[here], " ".join(f"⟦{word.strip()}⟧" if i == here else word.strip() for i, word in enumerate(words))
