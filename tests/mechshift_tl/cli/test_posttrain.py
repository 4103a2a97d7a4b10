"""`mechshift posttrain`: from the bundled ARM to folders that open, on tasks, files and samples; and what it refuses."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl.cli import posttrain_data

ARM = str(files("hooked_diffusion") / "pretrained" / "tiny" / "arm")


@pytest.fixture(autouse=True)
def few(monkeypatch) -> None:
    monkeypatch.setattr(posttrain_data, "N_TEXTS", 60)
    monkeypatch.setattr(posttrain_data, "N_PROMPTS", 8)


def test_tasks_files_and_samples(invoke, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("Mary and John went to the store . " * 60)
    result = invoke(
        "posttrain", "--arm", ARM, "--recipe", "diffullama", "--task", "ioi,arithmetic", "--data", tmp_path / "text.txt",
        "--self-generated", 12, "--steps", 4, "--length", 40, "--texts-per-step", 2, "--checkpoints", "0,2", "--out", tmp_path / "out",
        "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0 and "Written" in result.output, result.output
    model = HookedDiffusionTransformer.from_pretrained(tmp_path / "out")
    assert model.spec.attention == "full" and model.spec.mask_token_id == 2
    assert sorted(path.name for path in (tmp_path / "out" / "checkpoints").iterdir()) == ["0", "2", "4"]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    measured = [line for line in lines if "held_out_loss" in line]
    assert [line["step"] for line in measured] == [0, 2, 4] and {"accuracy_ioi", "accuracy_arithmetic"} <= measured[0].keys()
    data = json.loads((tmp_path / "out" / "posttrain.json").read_text())["data"]["sources"]
    assert list(data) == ["ioi", "arithmetic", "data", "own samples"] and all(one["per_step"] == 2 for one in data.values())


def test_what_cannot_be_is_said_in_one_line(refused, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out", "--device", "cpu")
    refused("--arm is left out", "posttrain", *out)
    refused("unknown recipe 'x'; choose diffullama", "posttrain", "--arm", ARM, "--recipe", "x", "--task", "ioi", *out)
    refused("there is nothing to train on", "posttrain", "--arm", ARM, *out)
    refused("unknown task 'x'", "posttrain", "--arm", ARM, "--task", "x", *out)
    refused("a row 8; give --length", "posttrain", "--arm", ARM, "--task", "ioi", "--length", 8, *out)
    refused("the mask 'Mary'", "posttrain", "--arm", ARM, "--task", "ioi", "--mask", "Mary", *out)
    refused("--checkpoints holds 'a'", "posttrain", "--arm", ARM, "--task", "ioi", "--checkpoints", "a", *out)
    refused("unknown pair recipe 'x'; choose tiny, smollm2", "posttrain", "--pair-recipe", "x", *out)
