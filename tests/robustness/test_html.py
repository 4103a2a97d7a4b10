"""No string of any result runs in a notebook: each field in turn is filled with markup, and shown."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pandas as pd
import plotly.express as px
import plotly.graph_objects as go
import pytest
import torch

import hooked_diffusion
import mechshift_tl
from hooked_diffusion import load_pair
from hooked_diffusion.artefact import Artefact, JsonArtefact
from hooked_diffusion.pairs.known import KNOWN_PAIRS
from hooked_diffusion.pairs.pair import Pair
from mechshift_tl.attribution import EdgeScores, attribute
from mechshift_tl.circuits.matching import Matching
from mechshift_tl.circuits.neurons import NeuronMatching
from mechshift_tl.circuits.permuted import overlap_null
from mechshift_tl.compare.attention import compare_attention
from mechshift_tl.compare.depth_shares import depth_shares
from mechshift_tl.compare.lens_sets import compare_lenses
from mechshift_tl.compare.masses import component_masses
from mechshift_tl.compare.neuron_result import NeuronComparisonSettings
from mechshift_tl.compare.neurons import compare_neurons
from mechshift_tl.compare.result import Statistic
from mechshift_tl.compare.specialisation import compare_specialisation
from mechshift_tl.compare.step_result import GroupOverlaps, StepCircuits
from mechshift_tl.compare.weights_by_masks import weights_by_masks
from mechshift_tl.compare.weights_by_masks_result import ARM, MDM, MDM_CAUSAL, Key
from mechshift_tl.evaluation import evaluate_circuit, faithfulness
from mechshift_tl.evaluation.ablation import ablate
from mechshift_tl.evaluation.ablation_result import Ablations
from mechshift_tl.evaluation.carried import Carried
from mechshift_tl.evaluation.component_sets import named_sets
from mechshift_tl.evaluation.run import run_circuit
from mechshift_tl.evaluation.size import FaithfulSize, SizeTried
from mechshift_tl.evaluation.smallest import SmallestCircuit
from mechshift_tl.evaluation.transfer import circuits_in_model
from mechshift_tl.intervals import Interval
from mechshift_tl.interventions.replaced import writer_means
from mechshift_tl.planning import plan
from mechshift_tl.planning.estimate import Workload
from mechshift_tl.study import Study, StudyConfig, run_study
from mechshift_tl.study.difference import difference
from mechshift_tl.study.gains import Gain
from mechshift_tl.study.likeness import Likeness
from mechshift_tl.study.robustness_result import Baseline, Change, Robustness
from mechshift_tl.study.trajectory import Trajectory
from mechshift_tl.study.trajectory.point import LABELS, TrajectoryPoint
from mechshift_tl.study.unscreened import ScreenRow, Unscreened
from mechshift_tl.study.verdict_check import TruthChecked, VerdictCheck
from mechshift_tl.tasks import IOI
from mechshift_tl.truth import TruthTable, load_truth, measure_truth
from mechshift_tl.views import neuron_activations
from mechshift_tl.views.attention import attention_patterns
from mechshift_tl.views.playback import play
from mechshift_tl.views.specialisation import specialisation

MARKUP = "<img src=x onerror=alert(1)>"


def classes() -> set[str]:
    """The names of all classes of both packages that show themselves in a notebook, and that have instances of their own."""
    found = set()
    for package in (hooked_diffusion, mechshift_tl):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.endswith("__main__"):
                continue
            module = importlib.import_module(info.name)
            own = [one for one in vars(module).values() if isinstance(one, type) and one.__module__ == info.name]
            found |= {one.__name__ for one in own if hasattr(one, "_repr_html_") and not one.__subclasses__()}
    return found


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """One result of every class, by its name."""
    pair = load_pair("tiny")
    assert pair.tokenizer is not None
    config = StudyConfig(
        n=4, ig_steps=1, n_boot=4, n_random=4, held_out=4, validity_n=2, validity_edges=4, null_circuits=1, measurements="none"
    )
    study = run_study(pair, [IOI()], config)
    (task,) = study.tasks.values()
    assert task.evidence is not None
    rows, circuit = task.pool.readouts["arm"], task.circuits["arm"]
    grouped = {role: replace(task.pool.readouts[role], groups=("x", "y", "x", "y")) for role in ("arm", "mdm")}
    few_neurons = NeuronComparisonSettings((0,), attributed=2, ig_steps=1, shuffles=20, shown=2, n_boot=4)
    config = KNOWN_PAIRS["diffullama-7b"].config()
    config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads = 1, 64, 64, 2
    config.num_key_value_heads, config.head_dim, config.vocab_size = 2, 32, 64
    square = [[1.0, 0.5], [0.5, 1.0]]
    statistics = {name: Statistic(0.5) for name in ("edge overlap", "components shared")}
    overlaps = GroupOverlaps("arm", "step", ["0", "2"], [4, 4], [9, 9], square, square, square, statistics, [1.0, 1.0], 4)
    step_circuits = StepCircuits("made", (overlaps,))
    keyed: dict[Key, EdgeScores] = {ARM: task.scores["arm"], MDM: task.scores["mdm"], MDM_CAUSAL: task.scores["mdm"]}
    masked = weights_by_masks(keyed, dict.fromkeys(keyed, 1.0), n_boot=2, n_random=2)
    made = [
        study, task.pool.examples, rows, task.scores["arm"], circuit, task.comparisons["mdm"], task.lenses["mdm"],
        neuron_activations(pair.arm, grouped["arm"], 0, shuffles=20), task.evidence.curves["arm"], task.evidence.validity["arm"],
        specialisation(task.lenses["arm"]), compare_specialisation(task.lenses, d_vocab=pair.arm.cfg.d_vocab, n_boot=4),
        attention_patterns(pair.arm, rows), compare_attention({"arm": pair.arm}, {"arm": rows}, {"arm": ["a0.h0"]}, n_boot=4),
        compare_neurons({"arm": pair.arm, "mdm": pair.mdm}, grouped, few_neurons),
        compare_lenses({"mdm": pair.mdm}, {"mdm": task.pool.readouts["mdm"]}, {"mdm": task.lenses["mdm"]}, {"shared": ["m0"]}, n_boot=4),
        evaluate_circuit(pair.arm, rows, circuit, parts="tenths", n_random=1), (whole := faithfulness(pair.arm, rows, circuit)),
        SmallestCircuit(5, 0.8, (5,), (whole,)),
        attribute(pair.arm, rows, level="nodes", method="EAP"), plan(config, Workload(1, 1, 4), dtypes=["float32"]),
        difference(study, study), play(pair.mdm, task.pool.examples[0], pair.tokenizer, ["a0.h0"]),
        study.conditions, *denoising_results(pair), *verdict_results(study), *trajectory_results(),
        writer_means(pair.arm, rows), run_circuit(pair.arm, rows, circuit),
        circuits_in_model("arm", pair.arm, {"arm": circuit}, rows, 0), Gain(4, ("arm",), 0.5, torch.tensor([0.1, 0.4, 0.6]), {"arm": 0.5}),
        Likeness(4, {"arm": 1.0, "mdm": 0.5}, 0.9, 0.8, (0, None, 2)),
        depth_shares(task.scores, task.circuits, n_boot=2),
        component_masses(task.scores, n_boot=2), step_circuits, masked,
        Ablations(tuple(ablate(pair.arm, rows, circuit.graph, named_sets(circuit, 3, 2)[3:5], "zero", role="arm", n_random=2, n_boot=9))),
        Robustness(
            (Baseline("mdm", 0.3, Interval(0.3, 0.2, 0.4, 9), 0.1, Interval(0.1, 0.0, 0.2, 9)),),
            (Change("seed", "1", "mdm", 0.5, 0.4),), {"foil": "the task has one"}, 9,
        ),
        TruthTable(tuple(measure_truth(load_truth("and-full"), {"EAP": {"method": "EAP"}}, n_boot=2)), 2, 0),
        Unscreened((ScreenRow("mdm", "jaccard", 0.5, 0.4, -0.1, Interval(-0.1, -0.2, 0.1, 9)),), 10, 1),
    ]  # fmt: skip
    return {type(one).__name__: one for one in made}


def denoising_results(pair: Pair) -> list[Any]:
    """One of every class that a denoising run is made of."""
    mask = pair.mdm.spec.mask_token_id
    assert mask is not None and pair.tokenizer is not None
    canvas = torch.tensor([[*pair.tokenizer("Input : 5")["input_ids"], mask, mask, mask]])
    trajectory, cache = pair.mdm.run_with_denoising_cache(canvas, 2, names_filter=lambda name: name.endswith("hook_resid_post"))
    return [trajectory, cache, cache.logit_lens(trajectory), trajectory.statistics(pair.mdm)]


def trajectory_results() -> list[Any]:
    """One of every class that a trajectory is made of: overlap that falls at once, from drawn numbers."""
    names, generator = tuple(LABELS), torch.Generator().manual_seed(0)

    def point(role: str, step: int) -> TrajectoryPoint:
        values = torch.full((len(names),), 0.9 if step < 100 else 0.4, dtype=torch.float64)
        draws = values + 0.01 * torch.randn(20, len(names), generator=generator, dtype=torch.float64)
        return TrajectoryPoint("ioi", role, step, 100 * step, 0.1, 9, 9, 9, names, values, draws)

    trained = [point(role, step) for role in ("mdm", "control") for step in (10, 20, 50, 100, 200)]
    found = Trajectory("made", StudyConfig(n=4), (point("arm", 0), *trained))
    return [found, found.points[1], found.changes["ioi", "mdm"][0], found.order["ioi", "mdm"]]


def verdict_results(study: Study) -> list[Any]:
    """One of every class that a verdict is made of or shows itself by."""
    circuit = study.tasks["ioi"].circuits["arm"]
    by_id = Matching.by_id(circuit.graph)
    numbers = torch.ones(2, dtype=torch.float64)
    carried = Carried(4, ("arm", "mdm"), ("id",), numbers, numbers, numbers[None], numbers[None], numbers.expand(3, 1, 2))
    tried = SizeTried("arm", 0.1, 5, 0.8, 0.7, 0.9, 0.1, 1.0)
    checked = TruthChecked("identical", "ioi", 0, "kept", "no", "no", True, False, 0.01, "why", 1.0)
    neurons = NeuronMatching(torch.arange(4)[None], torch.ones(1, 4), torch.ones(1, 4))
    return [
        by_id, neurons, overlap_null(circuit, circuit, n=5), carried, FaithfulSize(None, "reason", (tried,)), study.verdicts,
        VerdictCheck((checked,)),
    ]  # fmt: skip


def spoiled(value: Any) -> Iterator[Any]:
    """`value` with one string after another replaced by markup; of a table or a long list, those of the first row."""
    if isinstance(value, str):
        yield MARKUP
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            for part in spoiled(getattr(value, one.name)):
                changed = copy(value)
                object.__setattr__(changed, one.name, part)  # a forged file need not pass by the checks
                changed.__dict__.pop("table", None)
                yield changed
    elif isinstance(value, pd.DataFrame):
        for name in value.columns:
            yield value.rename(columns={name: MARKUP})
            if len(value) and isinstance(value[name].iloc[0], str):
                yield value.assign(**{name: MARKUP})
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield {MARKUP: one, **value}
            yield from ({**value, key: part} for part in spoiled(one))
    elif isinstance(value, (list, tuple)) and value:
        yield from (type(value)([part, *value[1:]]) for part in spoiled(value[0]))
        if isinstance(value[-1], str):
            yield type(value)([MARKUP] * len(value))


def results_of_both() -> set[str]:
    """The names of all classes that save themselves, and that have instances of their own."""
    todo, found = [Artefact, JsonArtefact], set()
    while todo:
        one = todo.pop()
        todo += one.__subclasses__()
        if not one.__subclasses__() and one.__module__.partition(".")[0] in ("hooked_diffusion", "mechshift_tl"):
            found.add(one.__name__)
    return found


def test_every_class_that_shows_itself_is_tried(results: dict[str, Any]) -> None:
    assert set(results) == classes()


def test_no_string_of_a_result_is_markup(results: dict[str, Any]) -> None:
    shown = 0
    for name, result in results.items():
        page: Callable[[Any], str] = type(result)._repr_html_
        assert MARKUP not in page(result)
        for changed in spoiled(result):
            try:
                html = page(changed)
            except (ValueError, KeyError, TypeError, IndexError, AttributeError):
                continue  # a value that cannot be there shows nothing
            shown += 1
            assert "<img" not in html, name
    assert shown > 100


def test_every_result_shows_itself_and_draws_itself(results: dict[str, Any]) -> None:
    assert results_of_both() - classes() == set()
    assert {name for name, one in results.items() if not hasattr(one, "figure")} == set()


def test_figures_have_something_to_show_in_colours_of_the_house(results: dict[str, Any]) -> None:
    foreign = set(px.colors.qualitative.Plotly)
    for name, result in results.items():
        figure = result.figure()
        assert isinstance(figure, go.Figure) and figure.to_dict()["data"], name
        drawn = figure.to_json()
        assert drawn is not None and not foreign & set(re.findall(r"#[0-9A-Fa-f]{6}", drawn.replace("colorway", ""))), name
