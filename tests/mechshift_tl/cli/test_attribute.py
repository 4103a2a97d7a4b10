"""`mechshift attribute` against the same by Python; its files; and what it refuses before it works."""

from __future__ import annotations

import json
import re

import pytest
import torch

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.circuits import Circuit, read_graph, read_graph_scores
from mechshift_tl.interventions.replaced import WriterMeans, writer_means
from mechshift_tl.readouts import readouts
from mechshift_tl.tasks import IOI

N = 2
ASKED = ("attribute", "--task", "ioi", "--n", N)


@pytest.fixture(scope="module")
def opened(model) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_pretrained(model)


def test_a_circuit_is_written_in_every_form(attributed) -> None:
    names = {path.name for path in attributed.iterdir()}
    circuit_files = {f"circuit.{kind}" for kind in ("safetensors", "csv", "json", "html")}
    assert names == {"scores.safetensors", "prompts.csv", "run.json", *circuit_files}
    circuit, scores = Circuit.load(attributed / "circuit.safetensors"), EdgeScores.load(attributed / "scores.safetensors")
    assert torch.equal(circuit.edges, Circuit.from_scores(scores, fraction=0.2).edges) and scores.per_example is not None
    travelled, every = read_graph(attributed / "circuit.json"), read_graph_scores(attributed / "circuit.json")
    assert travelled.scores.sum().item() == pytest.approx(circuit.scores.sum().item(), abs=1e-4)
    assert every.matrix.sum().item() == pytest.approx(scores.matrix.sum().item(), abs=1e-4)
    assert json.loads((attributed / "circuit.json").read_text())["cfg"]["d_model"] == 128


def test_the_picture_opens_offline(attributed) -> None:
    page = (attributed / "circuit.html").read_text()
    assert "Plotly.newPlot" in page and "<title>Circuit of" in page and "default-src 'none'" in page
    assert not re.search(r"""<(script|link|img|iframe)[^>]*(src|href)=["']?(http|//)""", page)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (("--method", "EAP", "--metric", "prob_diff"), {"method": "EAP", "metric": "prob_diff"}),
        (("--method", "EAP-IG-activations", "--ig-steps", 1), {"method": "EAP-IG-activations", "ig_steps": 1}),
        (("--method", "clean-corrupted", "--kv", "ungrouped"), {"method": "clean-corrupted", "kv": "ungrouped"}),
        (("--intervention", "zero", "--rule", "right"), {"intervention": "zero", "rule": "right"}),
        (("--metric", "kl", "--ig-steps", 2), {"metric": "kl", "ig_steps": 2}),
        (("--method", "gim"), {"method": "gim"}),
        (("--backward", "norms,patterns", "--ig-steps", 1), {"backward": ("norms", "patterns"), "ig_steps": 1}),
        (("--gap", 0.5, "--rule", "gauss-legendre"), {"gap": 0.5, "rule": "gauss-legendre"}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_it_scores_as_python_does(invoke, model, opened, tmp_path, options, settings) -> None:
    result = invoke(*ASKED, "--model", model, *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    by_python = attribute(opened, readouts(opened, IOI().examples(opened.tokenizer, N, 0)), **settings)
    written = EdgeScores.load(tmp_path / "out" / "scores.safetensors")
    assert torch.equal(written.matrix, by_python.matrix) and written.settings == by_python.settings
    assert written.settings is not None
    assert f"{written.settings.metric}: clean {written.clean:.3f}" in result.output


def test_exact_patching(invoke, model, opened, tmp_path) -> None:
    result = invoke("attribute", "--model", model, "--task", "ioi", "--n", 1, "--method", "exact", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    by_python = attribute(opened, readouts(opened, IOI().examples(opened.tokenizer, 1, 0)), method="exact")
    assert torch.equal(EdgeScores.load(tmp_path / "out" / "scores.safetensors").matrix, by_python.matrix)


def test_means_are_of_further_prompts(invoke, model, opened, tmp_path) -> None:
    asked = (*ASKED, "--model", model, "--ig-steps", 1, "--intervention", "mean", "--means-n", 5, "--out", tmp_path / "out")
    result = invoke(*asked)
    assert result.exit_code == 0 and "Means over 5 further examples of ioi, none of them among these" in result.output
    drawn = IOI().examples(opened.tokenizer, N + 5, 0)
    means = writer_means(opened, readouts(opened, drawn.select(range(N, N + 5))))
    assert torch.equal(WriterMeans.load(tmp_path / "out" / "means.safetensors").mlp, means.mlp)
    made = readouts(opened, drawn.select(range(N)))
    by_python = attribute(opened, made, ig_steps=1, intervention="mean", means=means)
    assert torch.equal(EdgeScores.load(tmp_path / "out" / "scores.safetensors").matrix, by_python.matrix)


@pytest.mark.parametrize(
    ("options", "selection"),
    [
        (("--edges", 60, "--greedy"), {"n": 60, "greedy": True}),
        (("--threshold", 0.2, "--no-prune"), {"threshold": 0.2, "prune": False}),
        (("--fraction", 0.1, "--by", "signed"), {"fraction": 0.1, "by": "signed"}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_it_selects_as_python_does(invoke, model, tmp_path, options, selection) -> None:
    result = invoke(*ASKED, "--model", model, "--method", "EAP", *options, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    expected = Circuit.from_scores(EdgeScores.load(tmp_path / "out" / "scores.safetensors"), **selection)
    circuit = Circuit.load(tmp_path / "out" / "circuit.safetensors")
    assert torch.equal(circuit.edges, expected.edges) and circuit.settings == expected.settings
    assert f"Circuit: {expected.kept} edges kept of {expected.requested} requested, of 1108 possible" in result.output


def test_layers_may_lie_on_disk(invoke, model, tmp_path) -> None:
    for name, options in {"memory": (), "disk": ("--device-map", '{"": "disk"}')}.items():
        result = invoke(*ASKED, "--model", model, "--ig-steps", 1, *options, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
    assert (tmp_path / "disk" / "circuit.csv").read_text() == (tmp_path / "memory" / "circuit.csv").read_text()


def test_an_empty_circuit_has_no_picture(invoke, model, tmp_path) -> None:
    result = invoke(*ASKED, "--model", model, "--method", "EAP", "--threshold", 1e6, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "no picture" in result.output
    assert not (tmp_path / "out" / "circuit.html").exists() and (tmp_path / "out" / "circuit.json").is_file()


REFUSED = {
    "--method is 'APE'": ("--method", "APE"),
    "unknown metric 'loss'": ("--metric", "loss"),
    "--intervention is 'noise'": ("--intervention", "noise"),
    "--kv is 'both'": ("--kv", "both"),
    "gap=0.02 chooses the number of points": ("--gap", 0.02, "--ig-steps", 3),
    "method 'gim' takes one gradient": ("--method", "gim", "--ig-steps", 3),
    "backward names 'lrp'": ("--backward", "lrp"),
    "unknown rule 'middle'": ("--rule", "middle"),
    "at least 1, got 0": ("--ig-steps", 0),
    "method 'EAP' takes no ig_steps (got 3)": ("--method", "EAP", "--ig-steps", 3),
    "method 'exact' takes no rule (got left)": ("--method", "exact", "--rule", "left"),
    "at an embedding of zero": ("--method", "clean-corrupted", "--intervention", "zero"),
    "'kl' has no gradient": ("--method", "EAP", "--metric", "kl"),
    "uses no means": ("--means-n", 20),
    "--means-n must be at least 1": ("--intervention", "mean", "--means-n", 0),
    "n=5 and fraction=0.1": ("--edges", 5, "--fraction", 0.1),
    "fraction is 1.5": ("--fraction", 1.5),
    "threshold is -1.0": ("--threshold", -1),
    "by is 'size'": ("--by", "size"),
    "--n must be at least 1, got 0": ("--n", 0),
    "unknown task 'chess'": ("--task", "chess"),
    "is not valid JSON": ("--device-map", "{'': 'disk'}"),
    "data file none.csv does not exist": ("--data", "none.csv"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_cannot_be_is_refused_before_the_model_is_opened(refused, tmp_path, said) -> None:
    refused(said, *ASKED, "--model", tmp_path / "nosuchmodel", "--out", tmp_path / "out", *REFUSED[said])
    assert not list(tmp_path.iterdir())


def test_what_the_model_cannot_do_is_refused_before_it_works(refused, model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("mechshift_tl.tasks.ioi.IOI.accuracy", lambda *_, **__: pytest.fail("work was started"))
    refused("1 to 1108 edges", *ASKED, "--model", model, "--edges", 5000)
    sentences = tmp_path / "ioi.csv"
    pair = "When Mary and John met at the store, {} offered a drink to"
    rows = ['"{}","{}"\n'.format(pair.format(name), pair.format("Tom")) for name in ("John", "Mary")]
    sentences.write_text("clean,corrupted\n" + "".join(rows))
    refused("ioi has 2 prompts here", "attribute", "--model", model, "--task", "ioi", "--data", sentences, "--intervention", "mean")
