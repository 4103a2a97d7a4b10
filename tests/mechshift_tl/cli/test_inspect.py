"""`mechshift inspect`, and --family and --config on every verb that opens a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mechshift_tl import cli
from mechshift_tl.cli.options import read_as

KEYS = ["family", "attention", "block_length", "logit_shift", "mask_token_id", "bos", "notes"]


@pytest.fixture
def sdar(tmp_path: Path, native) -> Path:
    """A folder that holds nothing but the config of a block model whose block only its name tells."""
    folder = tmp_path / "JetLM__SDAR-4B-Chat-b64"
    folder.mkdir()
    config = native("qwen3").config.to_dict() | {"model_type": "sdar", "architectures": ["SDARForCausalLM"], "use_sliding_window": False}
    (folder / "config.json").write_text(json.dumps(config | {"mask_token_id": 40}, default=str))
    return folder


def test_a_folder_with_a_config_alone(invoke, sdar) -> None:
    for path in (sdar, sdar / "config.json"):
        result = invoke("inspect", path, "--json")
        assert result.exit_code == 0, result.output
        found = json.loads(result.output)
        assert list(found) == KEYS
        note = "block_size = 64, which the config leaves out: told by the name SDAR-4B-Chat-b64"
        assert found == dict(zip(KEYS, ["sdar", "block", 64, 0, 40, "none", [note]], strict=True))
    output = " ".join(invoke("inspect", sdar).output.split())
    for said in ("Family sdar", "Class Qwen3ForCausalLM", "Attention block(64)", "Logit shift 0", "Mask token 40", "BOS none", note):
        assert said in output
    assert "Base ARM Qwen/Qwen3 of the same size" in output and "Evidence [P]" in output and "Head untied" in output


def test_family_and_config_change_what_is_read(invoke, refused, sdar) -> None:
    result = invoke("inspect", sdar, "--family", "a2d-qwen3", "--config", "mask_token_id=7", "--json")
    found = json.loads(result.output)
    assert (found["family"], found["attention"], found["mask_token_id"]) == ("a2d-qwen3", "full", 7)
    assert "config overridden by the caller: mask_token_id = 7" in found["notes"]
    found = json.loads(invoke("inspect", sdar, "--config", "block_size=8", "--json").output)
    assert found["block_length"] == 8
    refused("--config 'rope_theta' is no FIELD=VALUE", "inspect", sdar, "--config", "rope_theta")
    refused("--config gives bd_size twice", "inspect", sdar, "--config", "bd_size=1", "--config", "bd_size=2")
    refused("unknown checkpoint family 'nosuch'", "inspect", sdar, "--family", "nosuch")


def test_what_is_refused_is_one_object_too(invoke, refused, sdar, tmp_path) -> None:
    for arguments in ((tmp_path,), (tmp_path / "none",), (sdar, "--config", "mystery=true"), (sdar, "--family", "nosuch")):
        result = invoke("inspect", *arguments, "--json")
        assert result.exit_code == 2 and list(json.loads(result.output)) == ["error"], result.output
    refused("says mystery = True, which nothing here knows for sdar", "inspect", sdar, "--config", "mystery=true")


def test_a_bug_is_no_refusal(sdar, monkeypatch) -> None:
    """Only what comes from the checkpoint is said in a sentence; an error of the program's own shows itself."""

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("hooked_diffusion.checkpoints.reading.native_config", broken)
    for arguments in (["inspect", str(sdar)], ["inspect", str(sdar), "--json"]):
        result = CliRunner().invoke(cli.app, arguments)
        assert isinstance(result.exception, KeyError)


def test_values_are_json_or_text() -> None:
    assert read_as(None, None) == {}
    assert read_as("dream", ["a=1", "b=null", "c=[1, 2]", "d=silu", "e=", "f=x=y"]) == {
        "family": "dream",
        "config": {"a": 1, "b": None, "c": [1, 2], "d": "silu", "e": "", "f": "x=y"},
    }
    assert read_as(None, ["arm.a=1", "b=2"], of_pair=True) == {"config": {"b": 2}, "arm_config": {"a": 1}}


@pytest.mark.parametrize(
    "verb",
    [
        ("attribute", "--model", "{model}", "--task", "ioi"),
        ("evaluate", "--model", "{model}", "--task", "ioi", "--circuit", "{circuit}"),
        ("validity", "--model", "{model}", "--task", "ioi"),
        ("validity", "--pair", "tiny", "--task", "ioi"),
        ("accuracy", "--pair", "tiny"),
        ("run", "--pair", "tiny", "--out", "{out}"),
        ("convert", "{model}", "{out}"),
        ("plan", "--pair", "tiny"),
        ("inspect", "{model}"),
    ],
    ids=lambda verb: " ".join(verb[:2]),
)
def test_every_verb_that_opens_a_model_takes_both(refused, model, attributed, tmp_path, verb) -> None:
    circuit = attributed / "circuit.safetensors"
    arguments = [part.format(model=model, circuit=circuit, out=tmp_path / "out") for part in verb]
    refused("says mystery = True, which nothing here knows for", *arguments, "--config", "mystery=true")
    refused("unknown checkpoint family 'nosuch'", *arguments, "--family", "nosuch")
