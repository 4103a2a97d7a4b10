"""`posttrain` from end to end on a tiny checkpoint: what it leaves opens, a killed run goes on, bad input is refused before step 1."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.checkpoints import load_checkpoint
from hooked_diffusion.checkpoints.saving import save_checkpoint
from hooked_diffusion.posttrain import Mixture, Recipe, Source, Text, Watch, posttrain, preset
from hooked_diffusion.posttrain.metrics import read_metrics

TEXTS = [Text(tuple((i + j) % 40 + 4 for j in range(6 + i % 3)), tuple(j > 2 for j in range(6 + i % 3))) for i in range(30)]
ROWS = Mixture({"numbers": Source(TEXTS, 6)}, 20, 1)


@pytest.fixture(scope="module")
def arm(tmp_path_factory, native: Callable[..., PreTrainedModel], word_tokenizer: PreTrainedTokenizerFast) -> Path:
    return save_checkpoint(native("llama"), tmp_path_factory.mktemp("arm"), DiffusionSpec(), word_tokenizer)


def recipe(name: str = "diffullama", steps: int = 6, **changes: object) -> Recipe:
    return preset(name, steps, **{"learning_rate": 1e-2, "warmup": 1, "answer_only": 0.8, **changes})


@pytest.mark.parametrize("lora", [0, 4])
@pytest.mark.parametrize("name", ["diffullama", "block", "ar"])
def test_what_it_leaves_opens(arm: Path, tmp_path: Path, name: str, lora: int) -> None:
    seen: list[int] = []

    def evaluate(model: PreTrainedModel, spec: DiffusionSpec) -> dict[str, float]:
        HookedDiffusionTransformer.from_hf(model, None, spec)
        return {"answer": 42.0}

    watch = Watch(
        checkpoints=(0, 3), held_out=ROWS(torch.Generator().manual_seed(5)), evaluate=evaluate, on_step=lambda s: seen.append(s.step)
    )
    settings = recipe(name, **({"block_length": 4} if name == "block" else {}))
    out = posttrain(arm, ROWS, settings, out=tmp_path / "out", lora=lora, watch=watch)
    tokens = torch.tensor([[0, 5, 6, 7, 8, 9]])
    logits = {place: HookedDiffusionTransformer.from_pretrained(out / place)(tokens) for place in (".", "checkpoints/0", "checkpoints/6")}
    assert torch.equal(logits["."], logits["checkpoints/6"]) and (logits["."] - logits["checkpoints/0"]).abs().max() > 0.01
    opened = HookedDiffusionTransformer.from_pretrained(out)
    assert opened.spec.attention == settings.attention and opened.spec.mask_token_id == (None if name == "ar" else 2)
    assert opened.spec.tail == (1,) and opened.tokenizer.mask_token == "<mask>"
    assert (out / "checkpoints/3").is_dir() and (out / "adapter_model.safetensors").is_file() == bool(lora)
    if name == "ar":
        start = HookedDiffusionTransformer.from_pretrained(arm)(tokens)
        assert torch.allclose(logits["checkpoints/0"], start, atol=1e-5)
    assert seen == list(range(1, 7))
    lines = read_metrics(out)
    assert [line["step"] for line in lines if "loss" in line] == seen
    assert [line["step"] for line in lines if line.get("answer") == 42 and "held_out_accuracy" in line] == [0, 3, 6]
    assert "base_model" in (out / "README.md").read_text() and json.loads((out / "posttrain.json").read_text())["lora"] == lora


def test_an_adapter_s_folder_has_the_weights_that_were_trained(arm: Path, tmp_path: Path) -> None:
    base = load_checkpoint(arm)
    out = posttrain(base, ROWS, recipe(), out=tmp_path / "out", lora=4)
    from peft import PeftModel

    theirs = PeftModel.from_pretrained(load_checkpoint(arm).hf_model, str(out)).merge_and_unload().state_dict()
    mine = load_checkpoint(out).hf_model.state_dict()
    assert all(torch.allclose(mine[name], tensor, atol=1e-6) for name, tensor in theirs.items())


SCRIPT = """
import sys
from tests_of_run import ROWS, recipe
from hooked_diffusion.posttrain import Watch, posttrain
posttrain(sys.argv[1], ROWS, recipe(steps=40), out=sys.argv[2], save_every=4, watch=Watch(checkpoints=(0, 10)))
"""


def test_sigkill_at_any_moment_changes_no_bit(arm: Path, tmp_path: Path) -> None:
    """Processes are killed at growing delays until one ends by itself; the folder is that of a run in one go."""
    (tmp_path / "tests_of_run.py").write_text(Path(__file__).read_text())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "OMP_NUM_THREADS": "1"}

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SCRIPT, str(arm), str(tmp_path / "cut")], env=environment)

    state, kills = tmp_path / "cut" / "metrics.jsonl", 0
    for least in (3, 21):
        process = start()
        while process.poll() is None and len(read_metrics(state.parent)) < least:
            time.sleep(0.01)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert start().wait() == 0 and kills == 2
    whole = posttrain(arm, ROWS, recipe(steps=40), out=tmp_path / "whole", save_every=4, watch=Watch(checkpoints=(0, 10)))
    for name in ("model.safetensors", "checkpoints/10/model.safetensors"):
        cut, one = (load_file(folder / name) for folder in (tmp_path / "cut", whole))
        assert cut.keys() == one.keys() and all(torch.equal(cut[key], one[key]) for key in one)
    assert read_metrics(tmp_path / "cut") == read_metrics(whole)


def test_bad_input_is_refused_before_the_first_step(arm: Path, tmp_path: Path, native, word_tokenizer) -> None:
    def refuses(message: str, model=arm, rows=ROWS, settings=recipe(), **given: Any) -> None:  # noqa: B008
        with pytest.raises(ValueError, match=message):
            posttrain(model, rows, settings, out=tmp_path / "out", **given)
        assert not (tmp_path / "out" / "metrics.jsonl").exists()

    refuses("the mask 'w7' .* is taken: texts of 'numbers' hold it", mask="w7")
    refuses("has no token 'nothing' to use as the mask", mask="nothing")
    refuses("LlamaForCausalLM has no module x_proj; its linear modules are down_proj", lora=2, lora_modules=("x_proj",))
    refuses("LoRA's rank is -1", lora=-1)
    word_tokenizer = load_checkpoint(arm).tokenizer
    assert word_tokenizer is not None
    word_tokenizer.mask_token = None
    without = save_checkpoint(native("llama"), tmp_path / "without", DiffusionSpec(), word_tokenizer)
    refuses("no room for one; name a token that the data never hold", model=without)
    posttrain(arm, ROWS, recipe(steps=1), out=tmp_path / "done")
    with pytest.raises(ValueError, match="holds another run: it differs in recipe"):
        posttrain(arm, ROWS, recipe(steps=2), out=tmp_path / "done")


def test_a_free_row_becomes_the_mask(tmp_path: Path, native, word_tokenizer) -> None:
    import copy

    tokenizer = copy.deepcopy(word_tokenizer)
    tokenizer.mask_token = None
    roomy = save_checkpoint(native("llama", vocab_size=60), tmp_path / "roomy", DiffusionSpec(), tokenizer)
    out = posttrain(roomy, ROWS, recipe(steps=1), out=tmp_path / "out", lora=2)
    opened = HookedDiffusionTransformer.from_pretrained(out)
    assert opened.spec.mask_token_id == 48 and opened.tokenizer.mask_token == "<|mask|>" and not opened.spec.mask_is_reused
