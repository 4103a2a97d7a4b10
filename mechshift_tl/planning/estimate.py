"""The cost of an attribution, before any weights are fetched: parameters, edges, operations, time, memory and disk.

1. The shape comes from a native config (`mechshift_tl.planning.shapes`).
2. The work is counted in rows, one forward's worth each: an example gives as many as it has answer positions to read, one per step. With
   a tokenizer at hand they are counted on the task's own examples (`workload_of`).
3. `attribute` itself is run on tensors without data (`dry_run`), once per dtype and batch; operations grow linearly with rows.

Time is operations over a stated rate. It leaves out what no formula knows: loading, hooks, and a device that waits for its memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import torch
from torch import Tensor
from transformers import PretrainedConfig

from hooked_diffusion.html import card
from mechshift_tl.attribution.attribute import attribute
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.graph import KV, Graph
from mechshift_tl.planning.dry_run import Usage, dry_run, weightless
from mechshift_tl.plotting import COLOURS, plain, style
from mechshift_tl.readouts import Readouts, aligned_logits

DTYPES = ("float32", "bfloat16")
#: Of an integer in saved readouts; beside its two rows of ids a row holds position, answer, foil, step and example.
ID_BYTES, ID_COLUMNS = 8, 5


@dataclass(frozen=True)
class Workload:
    """`rows` forwards' worth of `tokens` tokens each, from `examples` prompts; a row reads one position. Raises ValueError on none."""

    examples: int
    rows: int
    tokens: int

    def __post_init__(self) -> None:
        for name, least in (("examples", 1), ("rows", 1), ("tokens", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"plan: {name} is {getattr(self, name)}; give at least {least}")


@dataclass(frozen=True)
class Memory:
    """Bytes of the weights in `dtype`, and of all other tensors at their peak with `batch` rows at a time."""

    dtype: str
    batch: int
    weights: int
    peak: int


@dataclass(frozen=True)
class Plan:
    """The cost of attributing one model; a pair's MDM takes a plain forward of all rows more, for its commit order.

    `flops` are for all rows, of which a plain forward takes `forward_flops`; `rate` is in operations per second. `edges` counts what can
    exist, per K/V mode. `disk` bytes hold scores and readouts, `per_example_disk` scores per example where they are kept. `notes` say what
    is not confirmed.
    """

    name: str
    workload: Workload
    ig_steps: int
    kv: KV
    parameters: int
    edges: dict[str, int]
    flops: int
    forward_flops: int
    rate: float
    memory: tuple[Memory, ...]
    disk: int
    per_example_disk: int
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Time of the attribution at the stated rate, in seconds."""
        return self.flops / self.rate

    @property
    def order_seconds(self) -> float:
        """Time of the MDM's commit order at the stated rate, in seconds."""
        return self.forward_flops / self.rate

    def to_dataframe(self) -> pd.DataFrame:
        """One row per dtype and batch, memory in GiB."""
        rows = [(m.dtype, m.batch, m.weights / 2**30, m.peak / 2**30, (m.weights + m.peak) / 2**30) for m in self.memory]
        return pd.DataFrame(rows, columns=["dtype", "rows at a time", "weights GiB", "peak beside them GiB", "together GiB"])

    def summary(self) -> pd.DataFrame:
        """Everything but memory: what it is, value, unit."""
        work = self.workload
        rows = [
            ("parameters", f"{self.parameters:,}", ""),
            ("edges, K and V per KV head", f"{self.edges['grouped']:,}", ""),
            ("edges, K and V per query head", f"{self.edges['ungrouped']:,}", ""),
            ("work", f"{work.rows:,} × {work.tokens}", f"rows × tokens, of {work.examples:,} examples"),
            ("one plain forward of all rows", f"{self.forward_flops:.3g}", "FLOP"),
            (f"attribution, {self.ig_steps} steps, {self.kv}", f"{self.flops:.3g}", "FLOP"),
            (f"its time at {self.rate:.3g} FLOP/s", f"{self.seconds:,.1f}", "s"),
            ("commit order of an MDM", f"{self.order_seconds:,.1f}", "s"),
            ("scores and readouts on disk", f"{self.disk / 2**20:,.1f}", "MiB"),
            ("scores per example, if kept", f"{self.per_example_disk / 2**20:,.1f}", "MiB"),
        ]
        return pd.DataFrame(rows, columns=["one model", "value", "unit"])

    def figure(self) -> go.Figure:
        """Memory: weights, and the peak beside them, by dtype and rows at a time."""
        figure, table = go.Figure(), self.to_dataframe()
        labels = [f"{plain(dtype)}, {rows} rows" for dtype, rows in zip(table["dtype"], table["rows at a time"], strict=True)]
        for column, colour in {"weights GiB": COLOURS["control"], "peak beside them GiB": COLOURS["arm"]}.items():
            figure.add_bar(x=table[column].tolist(), y=labels, orientation="h", name=column.removesuffix(" GiB"), marker_color=colour)
        figure.update_xaxes(title_text="memory (GiB)")
        figure.update_yaxes(autorange="reversed", type="category", showgrid=False)
        return style(figure, 110 + 30 * len(labels), barmode="stack")

    def _repr_html_(self) -> str:
        return card("Plan", "; ".join((self.name, *self.notes)), self.summary(), self.to_dataframe(), decimals=2)


def plan(
    config: PretrainedConfig,
    workload: Workload,
    *,
    name: str = "model",
    ig_steps: int = 5,
    kv: KV = "grouped",
    rate: float = 1e14,
    dtypes: Sequence[str] = DTYPES,
    batches: Sequence[int] = (8,),
    notes: Sequence[str] = (),
) -> Plan:
    """The cost of `attribute` on a model of this config.

    `rate` is in FLOP per second, `batches` in rows at a time. Takes some 4 s per dtype and batch for 12 layers, 20 s for 28, whatever
    their width. Raises ValueError on a workload, rate, dtype or batch that cannot be.
    """
    _check(rate, dtypes, batches)
    memory: list[Memory] = []
    usages: list[Usage] = []
    models = [weightless(config, getattr(torch, dtype)) for dtype in dtypes]
    for dtype, model in zip(dtypes, models, strict=True):
        weights = _weight_bytes(model)
        # A batch has no more rows than there are.
        for batch in sorted({min(batch, workload.rows) for batch in batches}):
            usages.append(_attribution(model, batch, workload.tokens, ig_steps, kv))
            memory.append(Memory(dtype, batch, weights, usages[-1].peak_bytes))
    # Shapes and operations are the same in every dtype.
    model = models[-1]
    graph, one = Graph.of(model, kv), _rows(1, workload.tokens).clean
    forward = dry_run(model, lambda: aligned_logits(model, one)).flops
    cells = len(graph.writers) * len(graph.readers)
    return Plan(
        name=name,
        workload=workload,
        ig_steps=ig_steps,
        kv=kv,
        parameters=memory[-1].weights // getattr(torch, dtypes[-1]).itemsize,
        edges={mode: Graph.of(model, mode).n_edges for mode in ("grouped", "ungrouped")},
        # Operations grow linearly with rows, so one batch stands for all.
        flops=usages[-1].flops * workload.rows // memory[-1].batch,
        forward_flops=forward * workload.rows,
        rate=rate,
        memory=tuple(memory),
        # Two matrices of float32: all steps together, and the one step.
        disk=2 * 4 * cells + ID_BYTES * workload.rows * (2 * workload.tokens + ID_COLUMNS),
        per_example_disk=4 * workload.examples * cells,
        notes=tuple(notes),
    )


def workload_of(task: Any, tokenizer: Any, n: int | None, seed: int = 0) -> Workload:
    """Rows and tokens of `n` examples of a task under a tokenizer: a row per readable answer token, each as long as the longest example."""
    examples = task.examples(tokenizer, n, seed)
    rows = sum(sum(example.readable) for example in examples)
    return Workload(len(examples), rows, max(len(example.clean) + len(example.suffix) for example in examples))


def _attribution(model: HookedModel, batch: int, tokens: int, ig_steps: int, kv: KV) -> Usage:
    rows = _rows(batch, tokens)
    return dry_run(model, lambda: attribute(model, rows, ig_steps=ig_steps, kv=kv, batch_tokens=batch * tokens))


def _rows(n: int, tokens: int) -> Readouts:
    """Rows of token 0 beside rows of token 1, which differ from the first on, read at the last position."""
    clean, ids = torch.zeros(n, tokens, dtype=torch.long), torch.zeros(n, dtype=torch.long)
    # The rows differ from the first token on, so that no shared prefix is skipped: prompts cost at most this.
    return Readouts.from_tokens(clean, clean + 1, torch.full((n,), tokens - 1), ids, ids)


def _weight_bytes(model: HookedModel) -> int:
    """Bytes of the parameters' storages, each once: tied weights and the bridge's views of one matrix share theirs."""
    own: list[Tensor] = list(model.parameters())
    return sum({p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in own}.values())


def _check(rate: float, dtypes: Sequence[str], batches: Sequence[int]) -> None:
    if not 0 < rate < math.inf:
        raise ValueError(f"plan: the rate is {rate}; give operations per second, such as 1e14")
    if not dtypes or not batches:
        raise ValueError("plan: name at least one dtype and one batch")
    for dtype in dtypes:
        found = getattr(torch, dtype, None)
        if not (isinstance(found, torch.dtype) and found.is_floating_point):
            raise ValueError(f"plan: {dtype!r} is no floating torch dtype; try float32 or bfloat16")
    for batch in batches:
        if batch < 1:
            raise ValueError(f"plan: a batch of {batch} rows cannot be; give at least 1")
