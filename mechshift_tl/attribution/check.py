"""Is the model one that edges describe?

Edges are known where two sums hold: the writers' outputs add up to the residual stream, and the readers' gradients add up to the gradient
of the stream. A model that norms, scales or attends in a way unknown here misses one of them, and is refused.

1. Each sum is taken on one row.
2. It depends on the architecture alone, so a model that passed is not checked again.
3. But a hook of the user's may change what passes, or its gradient. While there is one, the sums are taken every time, and nothing is
   remembered.
"""

from __future__ import annotations

from contextlib import closing
from weakref import WeakKeyDictionary, WeakSet

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked_diffusion.gradients import frozen
from mechshift_tl.attribution.gradients import sources, walk
from mechshift_tl.attribution.metrics import Metric
from mechshift_tl.attribution.readers import AttentionReaders, ReaderPath
from mechshift_tl.attribution.rules import BackwardRule, rule_hooks
from mechshift_tl.attribution.scoring import TokenGroups, edge_scores
from mechshift_tl.bridge.hooks import EMBED, Kept, capture, has_hooks
from mechshift_tl.bridge.protocol import HookedModel, components_of
from mechshift_tl.bridge.weights import bias_of, gathered, weight_of, weightless
from mechshift_tl.graph import KV, Graph
from mechshift_tl.interventions.outputs import WriterOutputs, run_writers
from mechshift_tl.readouts import Batch

#: Models whose writers, and readers by K/V kind and backward rules, have been summed. Weak: to remember a model must not keep it in memory.
SUMMED: WeakSet[HookedModel] = WeakSet()
READ: WeakKeyDictionary[HookedModel, set[tuple[KV, tuple[BackwardRule, ...]]]] = WeakKeyDictionary()
#: Share of what a block adds, and of the gradient's square, that may be missed.
TOLERANCE = 2e-2
#: Share of the gradient that may be missed under somebody's hooks. In float32, rounding alone misses some 2e-7, in bfloat16 4e-3.
HOOKED_TOLERANCE = 1e-3


@torch.no_grad()
def check_writers_sum(model: HookedModel, batch: Batch) -> None:
    """Raise ValueError unless every block adds its heads and MLP to the residual: blocks with norms behind attention or MLP do not.

    A run that is not finite is left for the attribution to refuse, which says where.
    """
    hooked = has_hooks(model)
    if (model in SUMMED and not hooked) or weightless(model):
        return  # without data there is nothing to sum
    row = batch.rows(slice(0, 1))
    stream = [f"blocks.{i}.{name}" for i in range(model.cfg.n_layers) for name in ("hook_resid_pre", "hook_resid_post")]
    seen: Kept = {}
    with model.hooks(fwd_hooks=capture(stream, seen)):
        outputs, _ = run_writers(model, row, "clean")
    seen = gathered(seen, row.clean.device)
    shares = [_missed(model, layer, outputs, seen, row.visible("clean")) for layer in range(model.cfg.n_layers)]
    if max(shares) > TOLERANCE:
        raise ValueError(
            f"{model.cfg.model_name}: heads and MLP miss {max(shares):.0%} of what block {shares.index(max(shares))} adds to the residual "
            f"({_guess('post-norms, parallel or scaled blocks?', hooked)}); edges of such a model are not known here"
        )
    # A sum of NaN proves nothing, and hooks may be gone the next time.
    if torch.tensor(shares).isfinite().all() and not hooked:
        SUMMED.add(model)


def _missed(model: HookedModel, layer: int, outputs: WriterOutputs, seen: Kept, shown: Bool[Tensor, "1 pos"]) -> float:
    """The share of a block's output that its writers do not account for. Rounding in the model's precision is not counted."""
    block, mlp = components_of(model).blocks[layer], outputs.mlp[layer]
    before, after = (seen[f"blocks.{layer}.{name}"] for name in ("hook_resid_pre", "hook_resid_post"))
    written = torch.einsum("bphe,hed->bpd", outputs.z[layer], weight_of(block.attn, "W_O", mlp.device).float()) + mlp
    bias = bias_of(block.attn.o, mlp.device)
    written = written if bias is None else written + bias.float()
    # Two additions round their results, and the MLP its own output.
    rounding = torch.finfo(after.dtype).eps * (2 * after.float().abs() + mlp.abs())
    beyond = ((after.float() - before.float() - written).abs() - rounding).clamp_min(0)
    # `tiny`: a block that writes nothing would divide by 0.
    return float(beyond[shown].norm() / written[shown].norm().clamp_min(torch.finfo().tiny))


def check_readers_sum(model: HookedModel, batch: Batch, graph: Graph, rules: tuple[BackwardRule, ...] = ()) -> None:
    """Raise ValueError unless the readers' gradients sum to that of the residual stream: every reader is known, and known rightly.

    The gradient g of the answers' logits at the embedding stands for the input's Δ: row `input` of the scores must then sum to ‖g‖².
    A hook may act at one place alone, which that one number hardly shows. So under hooks the sum is also compared with g number by number,
    where the precision allows. Backward `rules` change both sides alike, so each set of them is summed by itself. As in
    `check_writers_sum`, a run that is not finite is left.
    """
    hooked = has_hooks(model)
    if ((graph.kv, rules) in READ.setdefault(model, set()) and not hooked) or weightless(model):
        return
    row = batch.rows(slice(0, 1))
    outputs, logits = run_writers(model, row)
    if not logits.isfinite().all():
        return
    with frozen(model):
        gradient, path = _at_the_clean_end(model, row, graph, outputs, logits, rules)
    # Only the input is scored, so heads and MLPs may hold anything.
    deltas = WriterOutputs(gradient, outputs.z, outputs.mlp)
    total = edge_scores(model, graph, deltas, path, TokenGroups(row, False, None), slice(0, 1)).sum()
    wanted = gradient.square().sum()
    spoilt = hooked and not _is_sum_of_readers(gradient, path, graph, next(model.parameters()).dtype)
    if spoilt or (total - wanted).abs() > TOLERANCE * wanted:
        raise ValueError(
            f"{model.cfg.model_name}: the gradients of all readers sum to {float(total / wanted):.3f} of the residual stream's "
            f"({_guess('norms or attention of another kind?', hooked)}); edges of such a model are not known here"
        )
    if total.isfinite() and not hooked:
        READ[model].add((graph.kv, rules))


def _is_sum_of_readers(gradient: Float[Tensor, "1 pos d"], path: ReaderPath, graph: Graph, dtype: torch.dtype) -> bool:
    """Whether the gradients of all readers sum to `gradient` at every position. Half precision is too coarse to tell: then True."""
    if torch.finfo(dtype).eps > HOOKED_TOLERANCE:
        return True
    total = torch.zeros_like(gradient[0])
    for readers in path.all:
        out = total.new_empty(graph.readers_per_layer - 1 if isinstance(readers, AttentionReaders) else 1, *total.shape)
        readers.block_of(slice(None), out)
        total += out.sum(0)
    return bool((total - gradient[0]).norm() <= HOOKED_TOLERANCE * gradient.norm())


def _guess(architecture: str, hooked: bool) -> str:
    """A possible reason why a sum does not hold."""
    return "the hooks on it change what passes, or its gradient? take them off" if hooked else architecture


@torch.no_grad()
def check_neurons(model: HookedModel, batch: Batch) -> None:
    """Raise ValueError unless the MLPs hold `d_mlp` activations per token at `mlp.hook_post`; those of a mixture of experts do not."""
    name, row = "blocks.0.mlp.hook_post", batch.rows(slice(0, 1))
    seen: Kept = {}
    if name in model.hook_dict:
        with model.hooks(fwd_hooks=capture([name], seen)):
            row.logits(model)
    found = seen[name].numel() // row.clean.numel() if seen else 0
    if found != model.cfg.d_mlp:
        raise ValueError(
            f"{model.cfg.model_name}: {name} holds {found} activations per token, not d_mlp = {model.cfg.d_mlp} neurons (mixture of "
            "experts?); attribute its nodes instead"
        )


def _at_the_clean_end(
    model: HookedModel, row: Batch, graph: Graph, outputs: WriterOutputs, logits: Float[Tensor, "1 k d_vocab"],
    rules: tuple[BackwardRule, ...],
) -> tuple[Float[Tensor, "1 pos d"], ReaderPath]:  # fmt: skip
    """Gradient of the answers' mean logit at the embedding, and the readers' gradients."""
    # Both ends are the clean run: only its last point, α = 1, is visited.
    path, source = ReaderPath(model, graph, frozen="norms" in rules), sources(outputs, outputs, graph, activations=False)[0]
    answers = Metric("answer", lambda logits, answers, foils: logits.gather(2, answers[..., None]).mean((1, 2)))
    hooks = [EMBED, *path.wanted], path.watched, path.splits
    with closing(walk(model, row, [answers], logits, source, [(1.0, 1.0)], *hooks, rule_hooks(model, rules))) as points:
        weight, seen, (gradients,) = next(points)
        path.add(seen, gradients, weight)
    return gradients[EMBED], path
