"""What is refused at the entry of attribute, run_circuit, readouts and their siblings: in one sentence, before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked_diffusion import HookedDiffusionTransformer
from hooked_diffusion.threads import ModelInUse
from mechshift_tl import attribute
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.attribution.metrics import logit_diff
from mechshift_tl.circuits import Circuit
from mechshift_tl.evaluation import run_circuit
from mechshift_tl.interventions import writer_means
from mechshift_tl.readouts import Readouts, readouts
from mechshift_tl.views import component_lens

IDS = torch.tensor([[5, 6, 7]])
ONE = torch.tensor([1])


@pytest.fixture
def few(rows) -> Readouts:
    return rows.select([0, 1])


@pytest.fixture
def model(native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native())


@pytest.mark.parametrize("call", [attribute, writer_means, component_lens], ids=lambda call: call.__name__)
def test_something_else_than_a_model_or_readouts_is_named(model, few, call: Any) -> None:
    for given in (None, few, model.original_model, "gpt2"):
        with pytest.raises(TypeError, match=f"model is a {type(given).__name__}; give a HookedDiffusionTransformer"):
            call(given, few)
    for given in (IDS, ["text"], next(few.batches(100))):
        with pytest.raises(TypeError, match=f"readouts is a {type(given).__name__}; give what .readouts"):
            call(model, given)


def test_readouts_take_a_model_and_examples(model) -> None:
    wrong: Any = ["text"]
    with pytest.raises(TypeError, match=r"examples is a list; give what a task makes, .* or use Readouts.from_tokens"):
        readouts(model, wrong)
    with pytest.raises(TypeError, match="readouts: model is a list"):
        readouts(wrong, wrong)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metric": {"logit_diff"}}, ValueError, "unknown metric {'logit_diff'}"),
        ({"metric": 3}, ValueError, "unknown metric 3"),
        ({"intervention": "mean", "means": {}}, TypeError, "means is a dict; give what writer_means"),
        ({"method": ["EAP"]}, ValueError, r"method is \['EAP'\]"),
    ],
)
def test_options_of_another_kind_are_named(model, few, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        attribute(model, few, **options)


def test_means_that_are_not_finite_are_refused(model, few) -> None:
    means = writer_means(model, few)
    broken = dataclasses.replace(means, mlp=means.mlp * torch.nan)
    with pytest.raises(ValueError, match="the means hold values of 'mlp' that are not finite"):
        attribute(model, few, intervention="mean", means=broken)


def test_rows_longer_than_the_model_s_positions_are_refused_before_any_run(model) -> None:
    assert model.max_positions is not None
    long = torch.full((1, model.max_positions + 1), 5)
    rows = Readouts.from_tokens(long, long + 1, torch.tensor([len(long[0]) - 1]), ONE, ONE + 1)
    ran: list[Tensor] = []
    said = f"a row has {model.max_positions + 1} tokens, the model {model.max_positions} positions"
    looking = model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda tensor, hook: ran.append(tensor))])
    with looking, pytest.raises(ValueError, match=said):
        attribute(model, rows)
    assert not ran
    mask = torch.ones_like(long)
    mask[:, 0] = 0  # a hidden token takes up no position
    hidden = Readouts.from_tokens(long, long + 1, torch.tensor([len(long[0]) - 1]), ONE, ONE + 1, attention_mask=mask)
    assert attribute(model, hidden, method="EAP").matrix.isfinite().all()


def test_weights_of_eight_bits_are_refused(model, few) -> None:
    model.original_model.to(torch.float8_e4m3fn)
    with pytest.raises(ValueError, match="is torch.float8_e4m3fn; load the model in float32, bfloat16 or float16"):
        attribute(model, few)


@pytest.mark.parametrize("ask", ["attribute", "run_circuit"])
def test_a_second_thread_on_one_model_is_refused_and_changes_nothing(native, model, few, ask: str) -> None:
    expected = attribute(model, few, ig_steps=1)
    circuit = Circuit.from_scores(expected, 20)
    inside, finished = Event(), Event()
    refused: list[BaseException] = []

    def waiting(logits: Tensor, answers: Tensor, foils: Tensor) -> Tensor:
        inside.set()
        finished.wait(60)
        return logit_diff(logits, answers, foils)

    def second() -> None:
        inside.wait(60)
        asked: dict[str, Callable[[], object]] = {
            "attribute": lambda: attribute(model, few),
            "run_circuit": lambda: run_circuit(model, few, circuit),
        }
        try:
            asked[ask]()
        except BaseException as error:
            refused.append(error)
        finally:
            finished.set()

    thread = Thread(target=second)
    thread.start()
    found = attribute(model, few, ig_steps=1, metric=waiting)
    thread.join(60)
    assert [type(error) for error in refused] == [ModelInUse] and "another thread is running this" in str(refused[0])
    assert torch.equal(found.matrix, expected.matrix)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values())


def test_two_models_in_two_threads_score_as_they_do_alone(native, few) -> None:
    models = [HookedDiffusionTransformer.from_hf(native(seed=seed)) for seed in (0, 1)]
    expected = [attribute(model, few, ig_steps=1).matrix for model in models]
    found: dict[int, Tensor] = {}
    threads = [Thread(target=lambda i=i: found.update({i: attribute(models[i], few, ig_steps=1).matrix})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all((found[i] - expected[i]).abs().max() < 1e-6 * expected[i].abs().max() for i in range(2))


def test_numbers_asked_of_scores_are_whole(model, few) -> None:
    scores: EdgeScores = attribute(model, few, method="EAP", keep_per_example=True)
    wrong: Any
    for wrong in (-5, 2.5, True):
        with pytest.raises(ValueError, match=f"top: n is {wrong}; give a whole number of at least 0"):
            scores.top(wrong)
    for wrong in ("ab", [0.5], [2**70], 3, [[0]]):
        with pytest.raises(ValueError, match="resample: the list of examples is"):
            scores.resample(wrong)
        with pytest.raises(ValueError, match="select: the list of examples is"):
            few.select(wrong)
