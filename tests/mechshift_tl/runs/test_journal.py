"""The journal of an attribution: replayed to the bit, refused to other work, redone where a file is broken, whatever moment the kill."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl import attribute
from mechshift_tl.attribution import EdgeScores
from mechshift_tl.attribution.engine import Engine
from mechshift_tl.readouts import Readouts
from mechshift_tl.runs.journal import Journal
from mechshift_tl.runs.same_work import differences


@pytest.fixture(scope="module")
def model(native) -> HookedDiffusionTransformer:
    return HookedDiffusionTransformer.from_hf(native())


def saved(scores: EdgeScores, path: Path) -> bytes:
    scores.save(path)
    return path.read_bytes()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.safetensors"))


@pytest.mark.parametrize("keep", [False, True])
def test_a_finished_journal_is_replayed_to_the_bit(model, rows, tmp_path, keep, monkeypatch) -> None:
    settings: dict[str, Any] = {"batch_tokens": 8, "keep_per_example": keep, "metric": ["logit_diff", "log_prob"]}
    plain = attribute(model, rows, **settings)
    first = attribute(model, rows, **settings, journal=tmp_path / "journal")
    assert files(tmp_path / "journal") == [f"0-of-1/{i:06d}.safetensors" for i in range(8)]
    monkeypatch.setattr(Engine, "parts", lambda *_: pytest.fail("a finished batch was run again"))
    again = attribute(model, rows, **settings, journal=tmp_path / "journal")
    for name in plain:
        assert len({saved(found[name], tmp_path / "scores") for found in (plain, first, again)}) == 1


def test_other_work_is_refused_in_one_sentence(model, native, rows, tmp_path) -> None:
    attribute(model, rows, journal=tmp_path / "journal")
    other = HookedDiffusionTransformer.from_hf(native(seed=1))
    cases: list[tuple[str, Any, Readouts, dict[str, Any]]] = [
        ("ig_steps is 5 there, 3 here", model, rows, {"ig_steps": 3}),
        ("rows is ", model, rows.select([0, 1, 3]), {}),
        ("weights is ", other, rows, {}),
    ]
    for named, judged, read, settings in cases:
        with pytest.raises(ValueError, match=named) as error:
            attribute(judged, read, **settings, journal=tmp_path / "journal")
        assert "is the journal of other work" in str(error.value) and "\n" not in str(error.value)
    (tmp_path / "journal" / "0-of-1").rename(tmp_path / "journal" / "0-of-2")
    with pytest.raises(ValueError, match="begun by 2 processes, not 1"):
        attribute(model, rows, journal=tmp_path / "journal")
    (tmp_path / "mine" / "0-of-1").mkdir(parents=True)
    (tmp_path / "mine" / "0-of-1" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="no journal: it holds thesis.txt"):
        attribute(model, rows, journal=tmp_path / "mine")


@pytest.mark.parametrize("kept", [0, 7, 200, -1])
def test_a_file_cut_short_is_done_again(model, rows, tmp_path, kept) -> None:
    first = attribute(model, rows, batch_tokens=8, journal=tmp_path / "journal")
    for number in (2, 7):
        path = tmp_path / "journal" / "0-of-1" / f"{number:06d}.safetensors"
        path.write_bytes(path.read_bytes()[:kept])
    assert torch.equal(attribute(model, rows, batch_tokens=8, journal=tmp_path / "journal").matrix, first.matrix)
    folder = tmp_path / "journal" / "0-of-1"
    whole = Journal(folder, json.loads((folder / "journal.json").read_text()))
    assert all(whole.read(number) is not None for number in range(8)) and whole.read(8) is None


def test_a_flipped_bit_is_done_again(model, rows, tmp_path) -> None:
    first = attribute(model, rows, batch_tokens=8, journal=tmp_path / "journal")
    path = tmp_path / "journal" / "0-of-1" / "000003.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x40  # amid the tensors, which lie at the end of the file
    path.write_bytes(content)
    assert torch.equal(attribute(model, rows, batch_tokens=8, journal=tmp_path / "journal").matrix, first.matrix)


def test_differences_name_every_entry() -> None:
    there, here = {"n": 200, "seed": 0}, {"n": 100, "seed": 0, "kv": "grouped"}
    assert differences(there, here) == 'n is 200 there, 100 here, kv is null there, "grouped" here'
    assert differences(here, dict(here)) == ""


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(model, rows, tmp_path, forked) -> None:
    """A real process, killed again and again after every other batch or so, until one ends by itself."""

    def work() -> None:
        attribute(model, rows, batch_tokens=8, keep_per_example=True, journal=tmp_path / "journal").save(tmp_path / "killed")

    kills = 0
    while not (tmp_path / "killed").is_file():
        process, finished = forked(work), len(files(tmp_path / "journal"))
        while process.is_alive() and len(files(tmp_path / "journal")) < finished + 2:
            time.sleep(0.001)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 2
    assert saved(attribute(model, rows, batch_tokens=8, keep_per_example=True), tmp_path / "plain") == (tmp_path / "killed").read_bytes()


def scaled(by: float) -> Any:
    """Metrics of one name that differ in a number they close over."""

    def scaled(logits: torch.Tensor, answers: torch.Tensor, foils: torch.Tensor) -> torch.Tensor:
        return by * logits.gather(2, answers[..., None])[..., 0].mean(1)

    return scaled


def test_another_metric_of_the_same_name_and_another_attention_are_other_work(model, rows, tmp_path) -> None:
    attribute(model, rows, method="EAP", metric=scaled(1.0), journal=tmp_path / "journal")
    attribute(model, rows, method="EAP", metric=scaled(1.0), journal=tmp_path / "journal")
    with pytest.raises(ValueError, match="journal of other work .metrics is .*scaled "):
        attribute(model, rows, method="EAP", metric=scaled(2.0), journal=tmp_path / "journal")
    with model.attention("full"), pytest.raises(ValueError, match='attention is "causal" there, "full" here'):
        attribute(model, rows, method="EAP", metric=scaled(1.0), journal=tmp_path / "journal")
