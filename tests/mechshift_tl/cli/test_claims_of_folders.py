"""An output folder belongs to one model and its prompts, and a circuit says on which prompts it was found."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from mechshift_tl.circuits import Circuit

ASKED = ("--task", "ioi", "--n", 4, "--ig-steps", 1)


def test_changed_weights_are_another_run(invoke, refused, model, tmp_path) -> None:
    """Under the same path, with the same settings: neither finished already, nor gone on with."""
    shutil.copytree(model, tmp_path / "model")
    asked = ("attribute", "--model", tmp_path / "model", *ASKED, "--out", tmp_path / "out")
    assert invoke(*asked).exit_code == 0
    again = invoke(*asked)
    assert again.exit_code == 0 and "holds this run already" in " ".join(again.output.split())
    before = (tmp_path / "out" / "scores.safetensors").read_bytes()
    (weights,) = (tmp_path / "model").glob("*.safetensors")
    changed = {name: tensor * 1.01 for name, tensor in load_file(weights).items()}
    save_file(changed, weights, metadata={"format": "pt"})
    refused("holds the results of other work (model source is", *asked)
    assert (tmp_path / "out" / "scores.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "out"]


def test_the_prompts_of_a_circuit_are_its_own_to_tell(attributed) -> None:
    told = Circuit.load(attributed / "circuit.safetensors").provenance["prompts"]
    assert told == sorted(pd.read_csv(attributed / "prompts.csv")["prompt"])


@pytest.mark.parametrize("kind", ["safetensors", "json"])
def test_a_table_that_a_spreadsheet_has_changed_is_not_needed(invoke, model, attributed, tmp_path, kind) -> None:
    for name in ("circuit.safetensors", f"circuit.{kind}"):
        shutil.copy(attributed / name, tmp_path)
    (tmp_path / "prompts.csv").write_text("Prompt;Answer\n", encoding="utf-8")
    circuit, out = tmp_path / f"circuit.{kind}", tmp_path / "out"
    asked = ("--n", 4, "--n-random", 1, "--parts", "tenths", "--others", "none", "--out", out)
    done = invoke("evaluate", "--model", model, "--task", "ioi", "--circuit", circuit, *asked)
    assert done.exit_code == 0, done.output
    told = Circuit.load(attributed / "circuit.safetensors").provenance["prompts"]
    assert isinstance(told, list)
    assert not set(told) & set(pd.read_csv(out / "prompts.csv")["prompt"]) and "note" not in pd.read_csv(out / "evaluation.csv")


def test_where_nothing_tells_the_prompts_every_table_says_so(invoke, model, attributed, tmp_path) -> None:
    shutil.copy(attributed / "circuit.json", tmp_path)
    out = tmp_path / "out"
    asked = ("--n", 4, "--n-random", 1, "--parts", "tenths", "--others", "none", "--out", out)
    done = invoke("evaluate", "--model", model, "--task", "ioi", "--circuit", tmp_path / "circuit.json", *asked)
    assert done.exit_code == 0 and "on which prompts the circuit was found" in " ".join(done.output.split()), done.output
    for name in ("evaluation.csv", "parts.csv"):
        assert pd.read_csv(out / name)["note"].str.contains("not known on which prompts").all()
    assert "not known on which prompts" in (out / "evaluation.html").read_text(encoding="utf-8")
