"""`mechshift validity` against the same by Python, for a pair and for one model."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from hooked_diffusion import load_pair
from mechshift_tl.attribution.settings import PathSettings
from mechshift_tl.evaluation.validity import Validity, validity, validity_note
from mechshift_tl.readouts.pool import common_correct
from mechshift_tl.tasks import IOI

FEW = ("--task", "ioi", "--n", 3, "--top", 6, "--random", 6, "--ig-steps", 1)


def test_a_pair_is_measured_as_python_does(invoke, tmp_path) -> None:
    out = tmp_path / "out"
    result = invoke("validity", "--pair", "tiny", *FEW, "--methods", "EAP,eap-ig midpoint", "--out", out)
    assert result.exit_code == 0, result.output
    pair = load_pair("tiny")
    models = {"arm": pair.arm, "mdm": pair.mdm}
    pool = common_correct(models, IOI(), 3, tokenizer=pair.tokenizer)
    methods: dict[str, PathSettings] = {"EAP": {"method": "EAP"}, "EAP-IG midpoint": {"method": "EAP-IG-inputs", "rule": "midpoint"}}
    found = {}
    for role, model in models.items():
        found[role] = validity(model, pool.readouts[role], methods=methods, n_top=6, n_random=6, ig_steps=1)
        written = Validity.load(out / f"{role}.validity.safetensors")
        assert torch.equal(written.exact, found[role].exact) and torch.equal(written.approximate, found[role].approximate)
        assert "Plotly.newPlot" in (out / f"{role}.validity.html").read_text()
    table = pd.read_csv(out / "validity.csv")
    assert len(table) == 12 and list(table["model"]) == ["arm"] * 6 + ["mdm"] * 6
    note = validity_note(found["arm"], found["mdm"]) or "The method that ranked the edges is no less valid on the MDM."
    assert note in " ".join(result.output.split())
    assert {path.name for path in out.iterdir()} >= {"prompts.csv", "run.json"}


def test_one_model_and_every_method(invoke, model) -> None:
    result = invoke("validity", "--model", model, *FEW)
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    assert "Gauss–Legendre" in output and "clean-corrupted" in output and "12 all" in output and "MDM" not in output


REFUSED = {
    "give one of --model and --pair": (),
    "give one of --model and --pair ": ("--model", "x", "--pair", "y"),
    "unknown method 'EAPP'": ("--model", "x", "--methods", "EAP,EAPP"),
    "unknown method ''": ("--model", "x", "--methods", ","),
    "--n must be at least 2": ("--model", "x", "--n", 1),
    "needs three edges": ("--model", "x", "--top", 1, "--random", 1),
    "n_top is -1": ("--model", "x", "--top", -1),
    "'kl' has no gradient": ("--model", "x", "--metric", "kl"),
    "unknown metric 'loss'": ("--model", "x", "--metric", "loss"),
    "at least 1, got 0": ("--model", "x", "--ig-steps", 0),
    "--kv is 'both'": ("--model", "x", "--kv", "both"),
    "unknown task 'chess'": ("--model", "x", "--task", "chess"),
    "not valid JSON": ("--model", "x", "--device-map", "{cpu}"),
    "does not exist": ("--model", "x", "--data", "none.csv"),
    "unknown pair 'nosuchpair'": ("--pair", "nosuchpair"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_is_refused(refused, tmp_path, said) -> None:
    refused(said.strip(), "validity", *FEW, "--out", tmp_path / "out", *REFUSED[said])
    assert not list(tmp_path.iterdir())
