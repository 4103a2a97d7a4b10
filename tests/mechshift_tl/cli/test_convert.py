"""`mechshift convert`: a native folder, whole or not at all."""

from __future__ import annotations

import pytest


def test_convert_writes_a_native_folder(invoke, refused, model, tmp_path) -> None:
    result = invoke("convert", model, tmp_path / "out", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "LlamaForCausalLM, full attention, logit shift 1, mask 2" in result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names and "run.json" not in names
    refused("is not empty", "convert", model, tmp_path / "out")
    refused("none", "convert", tmp_path / "none", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_conversion_that_is_stopped_leaves_nothing(invoke, model, tmp_path, monkeypatch) -> None:
    def stopped(source: str, folder, **_: object) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("hooked_diffusion.checkpoints.convert", stopped)
    assert invoke("convert", model, tmp_path / "out").exit_code != 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [("--dtype", "int8"), ("--family", "nosuch")])
def test_bad_input_is_refused(refused, model, tmp_path, option) -> None:
    refused(option[1], "convert", model, tmp_path / "out", *option)
    assert not list(tmp_path.iterdir())
