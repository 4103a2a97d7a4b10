"""The lens of the residual stream at every depth: what the model would say if it stopped there (logit lens, nostalgebraist 2020).

Each vector is normalised at its own scale, as the final norm would. So the last depth is the model's own prediction, and the check of every
lens: entropy must fall and the answer's rank with it towards that depth. A lens that is flat at all depths is a mistake in probing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from mechshift_tl.bridge.batching import batch_tokens_for
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts
from mechshift_tl.runs.provenance import provenance
from mechshift_tl.views.lens_table import READINGS, ComponentLens, LensSettings
from mechshift_tl.views.positions import read_numbers, run_at
from mechshift_tl.views.projection import Projection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@torch.no_grad()
def stream_lens(
    model: HookedModel, readouts: Readouts, *, batch_tokens: int | None = None, tokenizer: PreTrainedTokenizerBase | None = None
) -> ComponentLens:
    """A `ComponentLens` whose lines are depths: "embeddings", "layer 0" … the stream behind each layer; the last is the model's prediction.

    Norm is "own"; `gap` is the largest |last depth − model's logit of the answer| as a share of the largest |logit|. Costs one forward per
    row, and an unembedding per depth and read. Raises ValueError, before any forward, on readouts that do not fit the model.
    """
    readouts.check(model)
    layers = model.cfg.n_layers
    names = [*(f"blocks.{i}.hook_resid_pre" for i in range(layers)), f"blocks.{layers - 1}.hook_resid_post"]
    reads, gap = readouts.to_dataframe(), 0.0
    shape = (len(names), len(reads))
    table = {name: torch.empty(shape, dtype=torch.int32 if name == "top_id" else torch.float32) for name in READINGS}
    for batch in readouts.batches(batch_tokens_for(model, "logits", batch_tokens)):
        numbers, batch = read_numbers(readouts, batch), batch.to(model.cfg.device)
        seen, logits = run_at(model, batch, batch.predicting(model), names)
        vectors, answers = torch.stack([seen[name] for name in names]), batch.answer_ids.flatten()
        found = Projection.of(model).read(vectors, None, answers, batch.foil_ids.flatten(), constant=True)
        for name, values in found.items():
            table[name][:, numbers] = values.cpu()
        last = found["answer"][-1] - logits.gather(1, answers[:, None])[:, 0]
        gap = max(gap, (last.abs().max() / logits.abs().max()).item())
    spell = tokenizer or model.tokenizer
    words = {token: f"#{token}" if spell is None else str(spell.decode([token])) for token in table["top_id"].unique().tolist()}
    depths = ["embeddings", *(f"layer {i}" for i in range(layers))]
    return ComponentLens(
        depths, Graph.of(model), **table, step=torch.tensor(reads["step"].tolist()), example=torch.tensor(reads["example"].tolist()),
        words=words, gap=gap, settings=LensSettings("own"), provenance=provenance(model, readouts.info),
    )  # fmt: skip
