"""Component lens: what each component alone says about the target token, at the position that predicts it.

At that position the residual stream is a sum of terms: the input, z·W_O of every head, the output of every MLP, and the biases that belong
to no component (b_O, the final norm's bias, b_U). The lens reads each term by itself (logit lens; direct logit attribution, Elhage et al.
2021):

1. Run the clean canvas once. Keep z, the MLPs' outputs and the scale of the final norm at the positions that are read.
2. Layer by layer, expand the heads to the width of the residual stream, and divide every term by the scale of the run.
3. Project a chunk of terms through W_U. Keep the logits and ranks of answer and foil, the entropy and the top token; drop the chunk.

Every term is divided by the same scale, so the terms' logits sum to the model's logits. `norm="own"` divides each term by its own scale
instead: then small terms look as loud as large ones, and the sum means nothing. Positive = the term speaks for the token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from hooked_diffusion.progress import progress_bar
from hooked_diffusion.tokenizers import spelled
from mechshift_tl.bridge.batching import batch_tokens_for
from mechshift_tl.bridge.hooks import EMBED, Kept
from mechshift_tl.bridge.norms import is_identity
from mechshift_tl.bridge.protocol import HookedModel, components_of, mlp_outputs
from mechshift_tl.bridge.weights import bias_of, weight_of
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Batch, Readouts
from mechshift_tl.readouts.rows import check_given
from mechshift_tl.runs.provenance import provenance
from mechshift_tl.views.lens_table import READINGS, ComponentLens, LensSettings, Norm
from mechshift_tl.views.positions import read_numbers, run_at
from mechshift_tl.views.projection import Projection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCALE = "ln_final.hook_scale"
BIAS = "bias"
#: Largest tolerable |Σ terms − logits|, as a share of the largest logit; rounding in bfloat16 stays below.
MAX_GAP = 0.1


@torch.no_grad()
def component_lens(
    model: HookedModel,
    readouts: Readouts,
    components: Sequence[str] | None = None,
    *,
    norm: Norm = "run",
    top: int = 5,
    batch_tokens: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> ComponentLens:
    """`(components, reads)`: what each component's own output says, on the clean canvases of `readouts`, where the targets are predicted.

    - `components`: ids such as `a3.h1`, `m3`, `input`, `bias`; by default all of them.
    - `norm`, `top`: as `LensSettings` says. Norm "own" is TransformerLens' reading of a single vector.
    - `batch_tokens`: tokens per forward, at least one row; by default 8192, or fewer where the logits would exceed 512 MiB.
    - `tokenizer`: spells the tokens; by default the model's. Without any, tokens are written `#id`.

    `model` is a `HookedDiffusionTransformer` or any TransformerLens bridge with the usual hooks. Costs one forward per row, and one
    unembedding per component and read; memory holds one chunk of logits at a time. Raises ValueError, before any forward, on unknown
    settings or ids and on readouts that do not fit the model; and when the terms do not sum to the model's logits.
    """
    check_given("component_lens", model, readouts)
    graph = Graph.of(model)
    wanted = _wanted(graph, components)
    settings = LensSettings(norm, top)
    reads, gap = readouts.to_dataframe(), 0.0
    table = _Table(wanted, len(reads))
    with progress_bar(len(readouts), f"lens of {len(wanted)} components", "row") as bar:
        for batch in readouts.batches(batch_tokens_for(model, "logits", batch_tokens)):
            numbers = read_numbers(readouts, batch)
            gap = max(gap, _read_batch(model, graph, norm, batch.to(model.cfg.device), table, numbers))
            bar.update(len(batch.index))
    return ComponentLens(
        list(wanted), graph, **table.values, step=torch.tensor(reads["step"].tolist()), example=torch.tensor(reads["example"].tolist()),
        words=spelled(tokenizer or model.tokenizer, table.values["top_id"]), gap=gap,
        settings=settings, provenance=provenance(model, readouts.info),
    )  # fmt: skip


def _wanted(graph: Graph, components: Sequence[str] | None) -> dict[str, int]:
    """The row of each component in the result; components keep the graph's order."""
    if isinstance(components, str):
        raise TypeError(f"component_lens: components is the text {components!r}; give a list, [{components!r}]")
    known = [*(name for name in graph.writers if graph.mlps or name[0] != "m"), BIAS]
    unknown = set(components or ()) - set(known)
    if unknown or (components is not None and not components):
        given = ", ".join(sorted(unknown)) or "an empty list"
        raise ValueError(f"component_lens: {given} names no component of this model; name some of {known[0]}, {known[1]} … {BIAS}")
    return {name: i for i, name in enumerate(name for name in known if components is None or name in components)}


class _Table:
    """The readings `(components, reads)` while they are being filled, on the CPU. `rows` gives the row of each component."""

    def __init__(self, rows: dict[str, int], reads: int) -> None:
        shape = (len(rows), reads)
        self.rows = rows
        self.values = {name: torch.empty(shape, dtype=torch.int32 if name == "top_id" else torch.float32) for name in READINGS}

    def put(self, ids: Sequence[str], numbers: Int[Tensor, " reads"], readings: dict[str, Tensor]) -> None:
        """Put readings `(ids, reads)` into the rows of `ids` and the columns `numbers`."""
        place = torch.tensor([self.rows[name] for name in ids])[:, None]
        for name, values in readings.items():
            self.values[name][place, numbers] = values.cpu()


def _read_batch(model: HookedModel, graph: Graph, norm: Norm, batch: Batch, table: _Table, numbers: Int[Tensor, " reads"]) -> float:
    """Fill the batch's columns of `table`. Returns the largest |sum of the terms − logits|, as a share of the largest |logit|.

    Raises ValueError where that share shows that the terms are not all there is.
    """
    seen, logits = run_at(model, batch, batch.predicting(model), [*written_at(model), *scale_at(model)])
    seen.setdefault(SCALE, torch.ones_like(seen[EMBED][:, :1]))
    projection, residual = Projection.of(model), torch.zeros_like(seen[EMBED])
    scale = None if norm == "own" else seen[SCALE]
    for ids, vectors in terms(model, graph, seen):
        residual += vectors.sum(0)
        chosen = [i for i, name in enumerate(ids) if name in table.rows]
        if chosen:
            answers, foils = batch.answer_ids.flatten(), batch.foil_ids.flatten()
            readings = projection.read(vectors[chosen], scale, answers, foils, constant=ids == [BIAS])
            table.put([ids[i] for i in chosen], numbers, readings)
    total = projection.logits(projection.normalize(residual[None], seen[SCALE], constant=True), constant=True)[0]
    gap = ((total - logits).abs().max() / logits.abs().max()).item()
    if gap > MAX_GAP:
        raise ValueError(
            f"{model.cfg.model_name}: input, heads, MLPs and biases miss the model's logits by {gap:.0%} of the largest; this architecture "
            "writes to its residual stream in another way, and a component lens of it would mislead"
        )
    return gap


def written_at(model: HookedModel) -> list[str]:
    """Names of the hooks at which writers stand: what `terms` needs."""
    return [EMBED, *(f"blocks.{i}.attn.hook_z" for i in range(model.cfg.n_layers)), *mlp_outputs(model)]


def scale_at(model: HookedModel) -> list[str]:
    """The hook of the final norm's scale; none where there is no norm, which divides by 1."""
    return [] if is_identity(components_of(model).ln_final) else [SCALE]


def terms(model: HookedModel, graph: Graph, seen: Kept) -> Iterator[tuple[list[str], Float[Tensor, "terms reads d"]]]:
    """The terms of the residual stream at the reads, a few at a time: the input, each layer's heads and MLP, then the `bias` term."""
    yield ["input"], seen[EMBED][None]
    bias = torch.zeros_like(seen[EMBED])
    for layer in range(graph.n_layers):
        attn = components_of(model).blocks[layer].attn
        z = seen[f"blocks.{layer}.attn.hook_z"].reshape(len(bias), graph.n_heads, -1)
        W_O = weight_of(attn, "W_O", z.device).float()
        yield [f"a{layer}.h{h}" for h in range(graph.n_heads)], einsum(z, W_O, "read h e, h e d -> h read d")
        if graph.mlps:
            yield [f"m{layer}"], seen[f"blocks.{layer}.hook_mlp_out"][None]
        if (own := bias_of(attn.o, bias.device)) is not None:
            bias += own.float()
    yield [BIAS], bias[None]
