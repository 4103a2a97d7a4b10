"""Every public entry, given an argument of another kind, says in one sentence what was given and what to give instead."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import mechshift_tl
from hooked_diffusion import HookedDiffusionTransformer, Pair, load_pair
from mechshift_tl import (
    Circuit,
    attribute,
    component_lens,
    evaluate_circuit,
    faithfulness_curve,
    neuron_activations,
    run_circuit,
    run_study,
)
from mechshift_tl.compare import compare
from mechshift_tl.evaluation.validity import validity
from mechshift_tl.readouts import Readouts, readouts
from mechshift_tl.tasks import IOI, Examples

WRONG: tuple[Any, ...] = (None, 5, "text", ["text"], {"a": 1}, torch.zeros(2))
NO_TASKS: tuple[Any, ...] = (IOI(), "ioi", ["ioi"], [IOI])
MADE = r"readouts is a .*; give what `readouts\(model, examples\)` of mechshift_tl.readouts makes"


def wrong_or(*others: Any) -> tuple[Any, ...]:
    """What no entry takes, and `others`."""
    return (*WRONG, *others)


@pytest.fixture(scope="module")
def pair() -> Pair:
    return load_pair("tiny")


@pytest.fixture(scope="module")
def examples(pair: Pair) -> Examples:
    assert pair.tokenizer is not None
    return IOI().examples(pair.tokenizer, 2)


@pytest.fixture(scope="module")
def rows(pair: Pair, examples: Examples) -> Readouts:
    return readouts(pair.mdm, examples)


@pytest.fixture(scope="module")
def circuit(pair: Pair, rows: Readouts) -> Circuit:
    return Circuit.from_scores(attribute(pair.mdm, rows, method="EAP"), 20)


RUNS: dict[str, Callable[..., object]] = {
    "attribute": lambda model, rows, circuit: attribute(model, rows),
    "run_circuit": run_circuit,
    "evaluate_circuit": evaluate_circuit,
    "component_lens": lambda model, rows, circuit: component_lens(model, rows),
    "neuron_activations": lambda model, rows, circuit: neuron_activations(model, rows, 0),
    "validity": lambda model, rows, circuit: validity(model, rows),
}


@pytest.mark.parametrize("name", RUNS)
def test_what_runs_a_model_asks_for_a_model_and_readouts(name: str, pair: Pair, examples, rows: Readouts, circuit: Circuit) -> None:
    for wrong in wrong_or(examples, pair, circuit):
        with pytest.raises(TypeError, match=f"^{name}: {MADE}"):
            RUNS[name](pair.mdm, wrong, circuit)
    for wrong in wrong_or(pair, rows, "tiny"):
        with pytest.raises(TypeError, match=f"^{name}: model is a .*such as load_pair"):
            RUNS[name](wrong, rows, circuit)


@pytest.mark.parametrize("name", ["run_circuit", "evaluate_circuit"])
def test_what_runs_a_circuit_asks_for_one(name: str, pair: Pair, rows: Readouts) -> None:
    for wrong in wrong_or(rows):
        with pytest.raises(TypeError, match=f"^{name}: circuit is a .*; give a Circuit, such as Circuit.from_scores"):
            RUNS[name](pair.mdm, rows, wrong)


def test_scores_are_asked_for(pair: Pair, rows: Readouts, circuit: Circuit) -> None:
    for wrong in wrong_or(circuit, rows):
        with pytest.raises(TypeError, match="Circuit.from_scores: scores is a .*; give the EdgeScores that attribute"):
            Circuit.from_scores(wrong)
        with pytest.raises(TypeError, match="faithfulness_curve: scores is a .*; give the EdgeScores of all edges"):
            faithfulness_curve(pair.mdm, rows, wrong)
    for wrong in wrong_or(rows):
        with pytest.raises((TypeError, ValueError), match="compare: "):
            compare(wrong, wrong)


def test_readouts_ask_for_examples(pair: Pair, rows: Readouts) -> None:
    for wrong in wrong_or(rows, pair):
        with pytest.raises(TypeError, match=r"readouts: examples is a .*; give what a task makes, .* Prompts\(rows\)"):
            readouts(pair.mdm, wrong)


def test_a_study_asks_for_a_pair_tasks_and_settings(pair: Pair) -> None:
    for wrong in wrong_or(pair.mdm):
        with pytest.raises(TypeError, match="run_study: pair is a .*; give what load_pair"):
            run_study(wrong, [IOI()])
    for wrong in NO_TASKS:
        with pytest.raises(TypeError, match=r"run_study: tasks is .*; give a list of tasks, such as \[IOI"):
            run_study(pair, wrong)
    with pytest.raises(TypeError, match="run_study: config is a dict; give a StudyConfig"):
        run_study(pair, [IOI()], {"n": 2})  # pyright: ignore[reportArgumentType]


def test_tasks_ask_for_a_tokenizer(pair: Pair) -> None:
    anything: Any = pair.mdm
    with pytest.raises(ValueError, match="got HookedDiffusionTransformer; give model.tokenizer"):
        IOI().examples(anything, 2)


def test_components_are_a_list(pair: Pair, rows: Readouts) -> None:
    with pytest.raises(TypeError, match=r"components is the text 'a3.h1'; give a list, \['a3.h1'\]"):
        component_lens(pair.mdm, rows, components="a3.h1")


def test_an_mdm_does_not_write_from_left_to_right(pair: Pair) -> None:
    for name in ("generate", "generate_stream", "hf_generate"):
        with pytest.raises(NotImplementedError, match=f"{name} writes from left to right, .*; use model.denoise"):
            getattr(pair.mdm, name)("Then, Emma")


def test_readouts_are_of_one_kind_of_model(pair: Pair, examples: Examples, rows: Readouts) -> None:
    of_arm = readouts(pair.arm, examples)
    for model, other, held in ((pair.mdm, of_arm, "hold the answer itself, but .* reads masks"), (pair.arm, rows, "hold masks of id")):
        with pytest.raises(ValueError, match=f"readouts were made for .* and {held}.*make its own: readouts"):
            attribute(model, other, method="EAP")
    assert attribute(pair.control or pair.mdm, readouts(pair.control or pair.mdm, examples), method="EAP").n_examples == 2


def test_the_names_of_peers(pair: Pair, rows: Readouts) -> None:
    scores = attribute(pair.mdm, rows, method="EAP")
    assert torch.equal(Circuit.from_scores(scores, topn=20).edges, Circuit.from_scores(scores, 20).edges)
    assert torch.equal(Circuit.from_scores(scores, topn=20, absolute=False).edges, Circuit.from_scores(scores, 20, by="signed").edges)
    with pytest.raises(ValueError, match="n=5 and topn=6 are two sizes"):
        Circuit.from_scores(scores, 5, topn=6)


def test_the_root_has_the_names_of_the_main_job_without_torch() -> None:
    assert set(mechshift_tl.__all__) <= set(dir(mechshift_tl)) and all(hasattr(mechshift_tl, name) for name in mechshift_tl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'attribut'"):
        mechshift_tl.attribut  # pyright: ignore[reportAttributeAccessIssue] # noqa: B018
    asked = "import sys, mechshift_tl, mechshift_tl.tasks; dir(mechshift_tl); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked]).returncode == 0


def test_results_are_one_line(pair: Pair, rows: Readouts, circuit: Circuit, examples: Examples) -> None:
    scores = attribute(pair.mdm, rows, method="EAP", keep_per_example=True)
    trajectory = pair.mdm.denoise("Then, Emma and John went to the store. John gave a drink to", masks=1)
    for one in (scores, circuit, rows, compare(scores, scores, n=20, n_boot=4, n_random=4), component_lens(pair.mdm, rows), trajectory,
                trajectory.statistics(), run_circuit(pair.mdm, rows, circuit), pair, examples):  # fmt: skip
        assert "\n" not in repr(one) and len(repr(one)) <= 300, repr(one)


def test_a_model_is_opened_from_a_name() -> None:
    for wrong in (5, None, ["x"]):
        with pytest.raises(TypeError, match="from_pretrained: the name is a .*; give a folder"):
            HookedDiffusionTransformer.from_pretrained(wrong)  # pyright: ignore[reportArgumentType]
