"""(a) The floor: the passes without which there is no EAP-IG, on the plain Hugging Face model, and nothing else.

Per path point one forward from the interpolated embedding and one backward to it, parameters frozen. No hooks, no scores, and none of the
two runs that give the writers' differences.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.metrics import logit_diff
from mechshift_tl.attribution.path import quadrature
from mechshift_tl.readouts import Readouts


def floor(model: Any, readouts: Readouts, ig_steps: int) -> Float[Tensor, "prompts pos d"]:
    """Gradient of the summed logit difference at the embeddings, averaged over the path from corrupt to clean."""
    (batch,) = readouts.batches(readouts.clean.numel())
    embed = model.get_input_embeddings()
    clean, corrupt = embed(batch.clean), embed(batch.corrupt)
    total = torch.zeros_like(clean)
    for alpha, weight in quadrature("midpoint", ig_steps):
        point = (corrupt + alpha * (clean - corrupt)).requires_grad_(True)
        logits = model(inputs_embeds=point).logits
        aligned = torch.cat([logits[:, :1], logits[:, :-1]], 1)
        value = logit_diff(batch.at_targets(aligned), batch.answer_ids, batch.foil_ids).sum()
        total += weight * torch.autograd.grad(value, point)[0]
    return total
