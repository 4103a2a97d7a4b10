"""(d) TransformerLens' own edge attribution (`transformer_lens.tools.analysis.attribution_patching`): EAP at the corrupt end.

It takes one gradient per prompt, scores every position by itself, and runs on models without KV groups whose parameters take gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.tools.analysis.attribution_patching import EdgeAttributionConfig, attribution_patch

from hooked_diffusion.gradients import frozen
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts

LETTERS = {"q_input": "q", "k_input": "k", "v_input": "v"}


def edge_scores(model: Any, readouts: Readouts) -> Float[Tensor, "n_writers n_readers"]:
    """Its scores summed over positions and averaged over prompts, in our ids; what `attribute` gives with one step of the left rule."""
    graph = Graph.of(model)
    scores = torch.zeros(len(graph.writers), len(graph.readers))
    place = ({name: i for i, name in enumerate(graph.writers)}, {name: i for i, name in enumerate(graph.readers)})
    with frozen(model):
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        for row in range(len(readouts)):
            at, answer, foil = (int(tensor[row, 0]) for tensor in (readouts.target_pos, readouts.answer_ids, readouts.foil_ids))

            def metric(logits: Tensor, at: int = at - 1, answer: int = answer, foil: int = foil) -> Tensor:
                return logits[0, at, answer] - logits[0, at, foil]

            clean, corrupt = readouts.clean[row : row + 1], readouts.corrupt[row : row + 1]
            result = attribution_patch(model, clean, corrupt, metric, EdgeAttributionConfig(granularity="edge"))
            for (writer, reader), score in result.edge_scores.items():
                scores[place[0][name_of(writer)], place[1][name_of(reader)]] += score / len(readouts)
        for parameter in model.parameters():
            parameter.grad = None
    return scores


def name_of(node: Any) -> str:
    """Our id of one of its nodes."""
    if node.kind in LETTERS:
        return f"a{node.layer}.h{node.head}<{LETTERS[node.kind]}>"
    heads = f"a{node.layer}.h{node.head}"
    return {"embed": "input", "attn_head_out": heads, "mlp_out": f"m{node.layer}", "mlp_in": f"m{node.layer}"}.get(node.kind, "logits")
