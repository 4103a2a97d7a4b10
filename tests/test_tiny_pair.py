"""The bundled pair: its shape and size, what was held out from it, and that it does its tasks."""

from __future__ import annotations

import re
from importlib.resources import as_file, files
from itertools import islice
from random import Random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from hooked_diffusion import load_pair
from mechshift_tl.tasks import IOI, TASKS, Countdown
from mechshift_tl.tasks.ioi import NAMES


@pytest.fixture(scope="module")
def pair():
    return load_pair("tiny")


def test_shape_size_and_specs(pair):
    assert pair.arm.cfg.n_layers >= 6 and pair.arm.cfg.n_heads >= 4
    assert isinstance(pair.tokenizer, PreTrainedTokenizerFast)
    assert (pair.arm.spec.attention, pair.mdm.spec.attention, pair.control.spec.attention) == ("causal", "full", "causal")
    assert pair.mdm.spec.logit_shift == 1 and pair.mdm.spec.mask_token_id == pair.tokenizer.mask_token_id
    with as_file(files("hooked_diffusion") / "pretrained" / "tiny") as folder:
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 25e6
        assert (folder / "CARD.md").is_file()


def test_the_three_models_differ(pair):
    embeddings = [model.W_E for model in pair.models.values()]
    assert not torch.equal(embeddings[0], embeddings[1]) and not torch.equal(embeddings[0], embeddings[2])


@pytest.mark.parametrize("name", TASKS)
def test_it_does_its_tasks_on_held_out_examples(pair, name):
    task, least, n = TASKS[name](), *((0.8, 200) if name == "countdown" else (0.95, 100))
    examples = task.examples(pair.tokenizer, n, seed=11)
    assert {role: task.accuracy(model, examples) >= least for role, model in pair.models.items()} == dict.fromkeys(pair.models, True)


def test_held_out_name_pairs_never_train():
    task = IOI()
    train, held_out = set(task.name_pairs("train")), set(task.name_pairs("held_out"))
    assert not train & held_out and held_out
    assert {name for names in train for name in names} == set(NAMES)
    drawn = {frozenset(re.findall(r"\w+", p.answer + p.foil)) for p in islice(task.draw(Random(0), "train"), 500)}
    assert drawn <= {frozenset(names) for names in train}


def test_held_out_problems_never_train():
    task = Countdown(unique=False)
    train = {problem.key for problem in task.problems("train")}
    assert not train & {problem.key for problem in task.problems("held_out")}
    texts = " ".join(prompt.split("\n")[0] + " " + answer for prompt, answer in task.training_texts())
    assert set(map(int, re.findall(r"\d+", texts))) == set(range(1, 100))
