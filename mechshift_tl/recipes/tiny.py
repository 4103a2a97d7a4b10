"""The bundled pair's recipe: an ARM, the MDM post-trained from it, and a control that continues the ARM without diffusion.

1. `start`, `arm`: an ARM of two tasks, from random weights; the first with smaller numbers.
2. `five`: the same ARM, with rows for the words of three more tasks, on all five. It is the pair's ARM.
3. `mdm_start`, `mdm` and `control_start`, `control`: from these weights by masked diffusion, and without it, on rows of the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from hooked_diffusion import DiffusionSpec
from hooked_diffusion.checkpoints.saving import save_checkpoint
from hooked_diffusion.posttrain import Recipe, Step, preset, train
from hooked_diffusion.posttrain.state import FILE
from mechshift_tl.recipes.pair_recipe import PairRecipe, Say
from mechshift_tl.recipes.tiny_data import TaskRows, id_of, make_tokenizer

#: Rows per step; "middle" is infilling without the restated sentence, which asks for the text on both sides of the mask.
TWO = {"countdown": 208, "ioi": 48}
FIRST = {"countdown": 40, "ioi": 6, "greater_than": 16, "infilling": 20, "middle": 6, "arithmetic": 40}
FIVE = {"countdown": 72, "ioi": 4, "greater_than": 5, "infilling": 7, "middle": 4, "arithmetic": 24}
LAST = {"countdown": 72, "ioi": 3, "greater_than": 3, "infilling": 5, "middle": 3, "arithmetic": 32}


@dataclass(frozen=True)
class Stage:
    """One training: its recipe, the stage whose weights it starts from, the rows of each task per step, Countdown's largest number."""

    recipe: Recipe
    starts_from: str | None
    rows: dict[str, int]
    largest: int = 60


def _recipe(name: str, steps: int, seed: int, learning_rate: float, **changes: object) -> Recipe:
    """What all stages share: Muon, every row alike, masks on the answer alone in nine rows of ten."""
    shared = {"optimizer": "muon", "weight_decay": 0.3, "clip": None, "warmup": 100, "average": "rows", "answer_only": 0.9}
    return preset(name, steps, **{**shared, "prompt_weight": 0.1, "seed": seed, "learning_rate": learning_rate, **changes})


STAGES = {
    "start": Stage(_recipe("ar", 2800, 1, 2e-3, stop=2200), None, TWO, largest=50),
    "arm": Stage(_recipe("ar", 1300, 4, 1.2e-3), "start", TWO),
    "five": Stage(_recipe("ar", 1000, 5, 1.5e-3), "arm", FIRST),
    "mdm_start": Stage(_recipe("diffullama", 1800, 2, 8e-4, stop=1200, anneal_steps=200, t_min=0.1), "five", FIVE),
    "control_start": Stage(_recipe("ar", 1800, 3, 8e-4, stop=1200), "five", FIVE),
    "mdm": Stage(_recipe("diffullama", 2600, 7, 8e-4, anneal_steps=0, t_min=0.1), "mdm_start", LAST),
    "control": Stage(_recipe("ar", 2600, 8, 8e-4), "control_start", LAST),
}
#: The stage that each role of the pair ends with.
ROLES = {"arm": "five", "mdm": "mdm", "control": "control"}


class Tiny(PairRecipe):
    """The bundled pair, from nothing. Its weights were made by these stages, at rates within 0.1 % of transformers' schedule."""

    name: ClassVar[str] = "tiny"
    stages: ClassVar[tuple[str, ...]] = tuple(STAGES)

    def run(self, stage: str, work: Path, say: Say = print) -> None:
        """Train a stage in `work`/stage."""
        self.check(stage)
        one = STAGES[stage]
        tokenizer = make_tokenizer(2 if one.rows is TWO else 5)
        model = make_model(len(tokenizer))
        if one.starts_from:
            load_stage(model, work / one.starts_from)

        def on_step(step: Step) -> None:
            if step.step % 100 == 0:
                say(f"step {step.step}/{one.recipe.last_step}  loss {step.loss:.4f} nats  lr {step.rate:.2e}")

        rows = TaskRows(tokenizer, one.rows, one.largest)
        train(model, rows, one.recipe, folder=work / stage, mask_token_id=id_of(tokenizer, "<mask>"), on_step=on_step)

    def export(self, work: Path, out: Path) -> None:
        """Write a whole checkpoint folder per role, and the tokenizer they share."""
        tokenizer = make_tokenizer()
        mask, tail = id_of(tokenizer, "<mask>"), (id_of(tokenizer, "</s>"),)
        for role, stage in ROLES.items():
            model = make_model(len(tokenizer))
            load_stage(model, work / stage)
            spec = DiffusionSpec("full", mask_token_id=mask, tail=tail) if role == "mdm" else DiffusionSpec("causal", tail=tail)
            save_checkpoint(model, out / role, spec, tokenizer, overwrite=True)
        tokenizer.save_pretrained(out / "tokenizer")


def make_model(vocabulary: int) -> LlamaForCausalLM:
    """A Llama of 6 layers, 4 heads and 128 dimensions, untied, from a fixed seed."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=384, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4,
        max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def load_stage(model: LlamaForCausalLM, folder: Path) -> None:
    """Put the weights of a stage's state into `model`; words that the stage did not know keep their random rows.

    Raises ValueError where the stage has left no state.
    """
    if not (folder / FILE).is_file():
        raise ValueError(f"{folder} holds no state of stage {folder.name!r}; run that stage first")
    own = model.state_dict()
    for name, weight in load_file(folder / FILE).items():
        if name.startswith("model."):
            own[name.removeprefix("model.")][: len(weight)] = weight
