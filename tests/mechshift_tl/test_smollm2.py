"""A real language model from its GGUF: IOI rows of another project, scored by the command."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl import cli
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.circuits.circuit import Circuit
from mechshift_tl.tasks import IOI

pytestmark = [pytest.mark.slow, pytest.mark.shared]


def test_266_of_499_rows_fit_its_tokenizer(smollm2: Path, shared: Path):
    model = HookedDiffusionTransformer.from_pretrained(smollm2)
    examples = IOI.from_csv(shared / "data" / "ioi_llama.csv").examples(model.tokenizer, None)
    assert len(examples) == 266 and len(examples) + sum(examples.dropped.values()) == 499
    assert IOI().accuracy(model, examples[:40]) > 0.6


def test_the_command_scores_it(smollm2: Path, shared: Path, tmp_path: Path):
    data = shared / "data" / "ioi_llama.csv"
    arguments = ["attribute", "--model", smollm2, "--task", "ioi", "--data", data, "--n", 24, "--ig-steps", 3, "--out", tmp_path / "out"]
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    assert "dequantised from Q4_1" in " ".join(result.output.split()) and "Accuracy, decoded freely" in result.output
    scores = EdgeScores.load(tmp_path / "out" / "scores.safetensors")
    assert scores.effect > 2 and abs(scores.completeness_gap) < 0.3
    assert "Q4_1" in str(scores.provenance["model"])
    assert 0 < Circuit.load(tmp_path / "out" / "circuit.safetensors").kept <= 1000
