"""The command: a whole small run, and one clear line for every kind of bad input, with nothing written."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hooked_diffusion.pairs import bundled_pairs
from mechshift_tl import cli

runner = CliRunner()


def invoke(*arguments: object):
    return runner.invoke(cli.app, [str(a) for a in arguments])


def test_run_writes_a_report_and_artefacts(tmp_path):
    result = invoke("run", "--pair", "tiny", "--tasks", "ioi", "--n", 6, "--held-out", 4, "--ig-steps", 1, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "ARM → MDM" in result.output and "ARM → control" in result.output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "study.json", "table.csv", "ioi"} <= names
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_attribute_runs_one_model_alone(tmp_path, monkeypatch):
    pair = tmp_path / "model"
    from importlib.resources import as_file
    from shutil import copytree

    with as_file(files("hooked_diffusion") / "pretrained" / "tiny") as root:
        copytree(root / "arm", pair)
        copytree(root / "tokenizer", pair, dirs_exist_ok=True)
    result = invoke("attribute", "--model", pair, "--task", "ioi", "--n", 6, "--ig-steps", 1, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "Accuracy, decoded freely: 1.000" in result.output and "edges kept" in result.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "run.json", "scores.safetensors", "circuit.safetensors", "circuit.csv", "prompts.csv"
    }  # fmt: skip
    placed = ("--device-map", '{"": "disk"}', "--out", tmp_path / "from disk")
    again = invoke("attribute", "--model", pair, "--task", "ioi", "--n", 6, "--ig-steps", 1, *placed)
    assert again.exit_code == 0, again.output
    assert (tmp_path / "from disk" / "circuit.csv").read_text() == (tmp_path / "out" / "circuit.csv").read_text()


def test_accuracy_prints_every_model():
    result = invoke("accuracy", "--pair", "tiny", "--tasks", "ioi", "--n", 20)
    assert result.exit_code == 0, result.output
    assert all(role in result.output for role in ("arm", "mdm", "control"))


def test_bad_input_is_one_clear_error(tmp_path):
    full, empty = tmp_path / "full", tmp_path / "empty"
    full.mkdir(), empty.mkdir()
    (full / "kept.txt").write_text("mine")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text(json.dumps({"model_type": "llama"}))
    out = tmp_path / "out"
    cases = {
        "unknown task 'chess'": ("run", "--pair", "tiny", "--tasks", "chess", "--out", out),
        "is not empty": ("run", "--pair", "tiny", "--out", full),
        "unknown rule 'middle'": ("run", "--pair", "tiny", "--rule", "middle", "--out", out),
        "nosuchpair": ("run", "--pair", "nosuchpair", "--out", out),
        "can make": ("run", "--pair", "tiny", "--tasks", "countdown", "--n", 10**6, "--out", out),
        "config.json": ("attribute", "--model", empty, "--task", "ioi", "--out", out),
        "broken": ("attribute", "--model", broken, "--task", "ioi", "--out", out),
        "not valid JSON": ("attribute", "--model", broken, "--task", "ioi", "--device-map", "{'': 'disk'}", "--out", out),
        "does not exist": ("attribute", "--model", "tiny", "--task", "ioi", "--data", tmp_path / "none.csv", "--out", out),
    }
    for named, arguments in cases.items():
        result = invoke(*arguments)
        assert result.exit_code == 2 and named in " ".join(result.output.split()), (named, result.output)
        assert "Traceback" not in result.output
        assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "empty", "full"], named
    assert (full / "kept.txt").read_text() == "mine"
    assert "tiny" in bundled_pairs()


def test_an_interrupted_run_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), cli.whole_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_what_the_attribution_cannot_use_is_refused_before_it_starts(monkeypatch, tmp_path):
    monkeypatch.setattr("mechshift_tl.tasks.ioi.IOI.accuracy", lambda *_, **__: pytest.fail("work was started"))
    model = files("hooked_diffusion") / "pretrained" / "tiny" / "arm"
    for named, arguments in {"1 to 1108 edges": ("--edges", 5000), "n must be at least 1": ("--n", 0)}.items():
        result = invoke("attribute", "--model", model, "--task", "ioi", *arguments)
        assert result.exit_code == 2 and named in " ".join(result.output.split()), result.output


def test_brackets_in_an_error_are_printed(tmp_path):
    folder = tmp_path / "a[b]c"
    folder.mkdir()
    (folder / "kept.txt").write_text("mine")
    assert "a[b]c is not empty" in invoke("run", "--pair", "tiny", "--out", folder).output


def test_models_lists_every_natural_pair_with_licence_and_memory(monkeypatch):
    from hooked_diffusion.known import KNOWN_PAIRS, models

    frame = models()
    assert list(frame["name"]) == sorted(KNOWN_PAIRS, key=lambda name: KNOWN_PAIRS[name].parameters)
    assert frame.set_index("name")["GiB (bf16)"]["dream-7b"] == 28.4
    monkeypatch.setattr(cli, "console", Console(markup=False, width=250))
    result = runner.invoke(cli.app, ["models"])
    assert result.exit_code == 0, result.output
    assert "dream-7b" in result.output and "Apache-2.0" in result.output and "tiny" in result.output


def test_convert_writes_a_native_folder(tmp_path):
    source = files("hooked_diffusion") / "pretrained" / "tiny" / "mdm"
    result = invoke("convert", source, tmp_path / "out", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "LlamaForCausalLM, full attention, logit shift 1, mask 2" in result.output
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    again = invoke("convert", source, tmp_path / "out")
    assert again.exit_code == 2 and "is not empty" in " ".join(again.output.split())
    assert invoke("convert", tmp_path / "none", tmp_path / "new").exit_code == 2 and not (tmp_path / "new").exists()
