"""Component lenses of shared, ARM-only and MDM-only components, over steps, by depth, and with single denoising steps ablated.

1. The top components of the ARM's and the MDM's circuit form three sets. A statistic of a set is its mean over components and reads.
2. It is taken at all steps together, at each step, and as the least-squares slope over steps: does the lens sharpen?
3. The lens of the residual stream at every depth is the check: its last depth is the prediction.
4. Every step of the MDM is ablated in turn: what it revealed is masked again on later canvases (`readouts.masked_again`), and the lens is
   read there once more. The change is paired: same prompts, same positions, same step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.bridge.alignment import mask_token
from mechshift_tl.bridge.protocol import HookedModel
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.compare.lens_result import SLOPE, TOGETHER, WHOLE, LensComparison
from mechshift_tl.compare.overlap import top_components
from mechshift_tl.compare.paired import bounds, mean_over_reads, paired, prompt_weights, slope_over_reads
from mechshift_tl.plotting import ROLE_NAMES
from mechshift_tl.readouts import Readouts
from mechshift_tl.readouts.masked_again import masked_again, rows_after
from mechshift_tl.views.lens import component_lens
from mechshift_tl.views.lens_table import ComponentLens
from mechshift_tl.views.stream import stream_lens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STATISTICS = ("entropy", "answer_rank", "answer_logit", "effect")


def component_sets(arm: Circuit, mdm: Circuit, k: int) -> dict[str, list[str]]:
    """The top `k` components of two circuits: "shared", "ARM only", "MDM only"; a set without components is left out."""
    tops = [top_components(one, min(k, len(one.graph.components))).tolist() for one in (arm, mdm)]
    kinds = {"shared": (True, True), "ARM only": (True, False), "MDM only": (False, True)}
    places = list(zip(arm.graph.components, *tops, strict=True))
    sets = {name: [one for one, a, b in places if (a, b) == kind] for name, kind in kinds.items()}
    return {name: members for name, members in sets.items() if members}


def compare_lenses(
    models: Mapping[str, HookedModel],
    readouts: Mapping[str, Readouts],
    lenses: Mapping[str, ComponentLens],
    sets: Mapping[str, Sequence[str]],
    *,
    ablated: int = 30,
    n_boot: int = 200,
    seed: int = 0,
    batch_tokens: int | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> LensComparison:
    """The lenses of several models, by role, over `sets` of components; steps of the role "mdm" are ablated on the first `ablated` prompts.

    Costs one forward per row and model, and two per later row for every step ablated. Raises ValueError without an "mdm", on empty sets,
    and where `stream_lens` or `component_lens` does.
    """
    if "mdm" not in models or not sets or not all(sets.values()):
        raise ValueError(f"compare_lenses: models are {sorted(models)}, sets {dict(sets)}; give 'mdm' and sets that hold components")
    weights = prompt_weights(readouts["mdm"].n_examples, n_boot, seed)
    streams = {role: stream_lens(model, readouts[role], batch_tokens=batch_tokens, tokenizer=tokenizer) for role, model in models.items()}
    few = readouts["mdm"].select(range(min(ablated, weights.shape[1])))
    ablation, largest = _ablation(models["mdm"], few, sets, n_boot, seed, batch_tokens)
    return LensComparison(
        {name: list(members) for name, members in sets.items()}, _table(lenses, sets, weights), _depth(streams, weights), ablation, largest,
        _components(lenses, sets), models["mdm"].cfg.d_vocab, weights.shape[1], few.n_examples, n_boot, seed,
    )  # fmt: skip


def _readings(lens: ComponentLens, members: Sequence[str]) -> dict[str, Float[Tensor, " reads"]]:
    """Each statistic, as its mean over the set's components, `(reads,)`."""
    rows = [lens.components.index(one) for one in members]
    found = {"entropy": lens.entropy, "answer_rank": lens.answer_rank, "answer_logit": lens.answer, "effect": lens.answer - lens.foil}
    return {name: found[name][rows].mean(0) for name in STATISTICS}


def _table(lenses: Mapping[str, ComponentLens], sets: Mapping[str, Sequence[str]], weights: Float[Tensor, "draws n"]) -> pd.DataFrame:
    frames = []
    for name, members in sets.items():
        for statistic in STATISTICS:
            scopes: dict[str, dict[str, Tensor]] = {TOGETHER: {}, SLOPE: {}}
            for role, lens in lenses.items():
                values = _readings(lens, members)[statistic]
                scopes[TOGETHER][role] = mean_over_reads(values, lens.example, weights)
                scopes[SLOPE][role] = slope_over_reads(lens.step.float(), values, lens.example, weights)
                for step in lens.steps:
                    here = lens.step == step
                    scopes.setdefault(f"step {step}", {})[role] = mean_over_reads(values[here], lens.example[here], weights)
            frames += [paired(one).assign(set=name, scope=scope, statistic=statistic) for scope, one in scopes.items()]
    return _ordered(frames, ["set", "scope", "statistic", "subject", "value", "low", "high"])


def _depth(streams: Mapping[str, ComponentLens], weights: Float[Tensor, "draws n"]) -> pd.DataFrame:
    frames = []
    for depth in next(iter(streams.values())).components:
        readings = {role: _readings(lens, [depth]) for role, lens in streams.items()}
        for statistic in STATISTICS:
            values = {role: mean_over_reads(readings[role][statistic], lens.example, weights) for role, lens in streams.items()}
            frames.append(paired(values).assign(depth=depth, statistic=statistic))
    return _ordered(frames, ["depth", "statistic", "subject", "value", "low", "high"])


def _ordered(frames: Sequence[pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    return pd.concat(frames, ignore_index=True).reindex(columns=columns)


def _ablation(
    model: HookedModel, rows: Readouts, sets: Mapping[str, Sequence[str]], n_boot: int, seed: int, batch_tokens: int | None
) -> tuple[pd.DataFrame, dict[str, float]]:
    """The rows of `LensComparison.ablation`, and its `largest`."""
    mask, weights = mask_token(model), prompt_weights(rows.n_examples, n_boot, seed)
    lines: list[dict[str, object]] = []
    changes: dict[int, Float[Tensor, " draws"]] = {}
    for step in rows.steps[:-1] if mask is not None else []:
        assert mask is not None
        try:
            before, after = rows_after(rows, step), masked_again(rows, step, mask)
        except ValueError:  # no example that is read at this step is read later
            continue
        named = _changes(model, before, after, sets, batch_tokens)
        example = torch.tensor(before.to_dataframe()["example"].tolist())
        for name, readings in named.items():
            for statistic, values in readings.items():
                draws = mean_over_reads(values, example, weights)
                line = {"step": step, "set": name, "statistic": statistic, **bounds(draws), "reads": len(example)}
                lines.append(line)
        changes[step] = mean_over_reads(named[WHOLE]["effect"], example, weights).abs()
    return pd.DataFrame(lines, columns=["step", "set", "statistic", "value", "low", "high", "reads"]), _largest(changes)


def _changes(
    model: HookedModel, before: Readouts, after: Readouts, sets: Mapping[str, Sequence[str]], batch_tokens: int | None
) -> dict[str, dict[str, Float[Tensor, " reads"]]]:
    """Per set, and for the whole model: each statistic on the ablated canvases less that on the canvases as they are."""
    members = sorted({one for names in sets.values() for one in names})
    lenses = [component_lens(model, rows, members, batch_tokens=batch_tokens) for rows in (before, after)]
    streams = [stream_lens(model, rows, batch_tokens=batch_tokens) for rows in (before, after)]
    pairs = {name: [_readings(lens, names) for lens in lenses] for name, names in sets.items()}
    pairs[WHOLE] = [_readings(lens, lens.components[-1:]) for lens in streams]
    return {name: {one: there[one] - here[one] for one in STATISTICS} for name, (here, there) in pairs.items()}


def _largest(changes: Mapping[int, Float[Tensor, " draws"]]) -> dict[str, float]:
    """The step of largest |change|, and by how much it exceeds the mean of the others; empty with fewer than two steps."""
    if len(changes) < 2:
        return {}
    step = max(changes, key=lambda one: changes[one][0].item())
    others = torch.stack([values for one, values in changes.items() if one != step]).nanmean(0)
    return {"step": float(step), **bounds(changes[step] - others)}


def _components(lenses: Mapping[str, ComponentLens], sets: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One row per component and model, over all steps."""
    lines = {role: lens.to_dataframe().set_index("component") for role, lens in lenses.items()}
    kept = ["answer_rank", "answer_logit", "logit_diff", "entropy", "answer_first", "top_tokens"]
    return pd.DataFrame(
        [
            {"set": name, "component": one, "model": ROLE_NAMES[role]} | lines[role].loc[one, kept].to_dict()
            for name, members in sets.items()
            for one in members
            for role in lenses
        ]
    )
