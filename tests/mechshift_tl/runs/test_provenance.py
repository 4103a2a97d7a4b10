"""Results of different models or tasks are not used together; what a result does not say is not held against it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl.runs.provenance import OtherOrigin, check_same_origin, provenance


def made(**changed: Any) -> dict[str, Any]:
    known = {"model": {"name": "m", "sha256": "a" * 64}, "spec": {"logit_shift": 1}, "attention": "causal", "readouts": {"task": "ioi"}}
    return known | changed


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": {"name": "m", "sha256": "b" * 64}}, r"weights: m \(sha256 bbbbbbbbbbbb…\) and m \(sha256 aaaaaaaaaaaa…\)"),
        ({"spec": {"logit_shift": 0}}, "spec: {'logit_shift': 0} and {'logit_shift': 1}"),
        ({"attention": "full"}, "attention: full and causal"),
        ({"readouts": {"task": "countdown"}}, "task: countdown and ioi"),
    ],
)
def test_what_differs_is_named(changed, message) -> None:
    with pytest.raises(OtherOrigin, match=f"the scores and the circuit differ in {message}; give results of one model and one task"):
        check_same_origin({"the circuit": made(), "the scores": made(**changed)})


def test_the_same_origin_and_what_is_not_said_pass() -> None:
    check_same_origin({"the circuit": made(), "the scores": made(versions={"torch": "9"}), "the readouts": {"readouts": {"task": "ioi"}}})
    check_same_origin({"a file of another program": {"file": "x.json"}, "the scores": made(), "nothing": {}})
    check_same_origin({"the circuit": made(), "the scores": made(model="text", readouts=None)})


def test_names_are_held_against_each_other_only_without_checksums() -> None:
    with pytest.raises(OtherOrigin, match="differ in weights: gpt2-medium and gpt2"):
        check_same_origin({"a": made(model={"name": "gpt2"}), "b": made(model={"name": "gpt2-medium"})})
    check_same_origin({"a": made(model={"name": "gpt2"}), "b": made()})
    check_same_origin({"a": made(), "b": made(model={"name": "runs/m", "sha256": "a" * 64})})


def test_a_caller_chooses_what_must_agree() -> None:
    check_same_origin({"a": made(), "b": made(readouts={"task": "countdown"})}, same=("weights", "spec"))
    with pytest.raises(OtherOrigin, match="c and a differ in weights"):
        check_same_origin({"a": made(), "b": made(), "c": made(model={"name": "n", "sha256": "c"})}, same=("weights",))


def test_two_models_of_one_name_in_memory_are_told_apart() -> None:
    first, second, again = (tiny_model(seed) for seed in (0, 1, 0))
    provenance_of = partial(provenance, readouts={"task": "ioi"})
    check_same_origin({"the circuit": provenance_of(first), "the scores": provenance_of(again)})
    with pytest.raises(OtherOrigin, match=r"weights: m \(digest [0-9a-f]{12}…\) and m \(digest"):
        check_same_origin({"the circuit": provenance_of(first), "the scores": provenance_of(second)})


def tiny_model(seed: int) -> HookedDiffusionTransformer:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1
    )
    return HookedDiffusionTransformer.from_hf(LlamaForCausalLM(config).eval(), name="m")
