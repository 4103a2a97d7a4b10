"""The checkpoints of a post-training: models on the way from an ARM to what it became.

A run's folder holds `checkpoints/STEP/`, one folder per checkpoint, which `from_pretrained` opens. How far the training was, and which ARM
it started from, is told in one of two ways:

- by `trained.json` in each of these folders: `{"step": 200, "tokens": 533449, "arm": "tiny"}`;
- by what `mechshift posttrain` writes into the run's folder: `posttrain.json` (the base) and `metrics.jsonl` (the tokens of each step).

"arm" is a checkpoint, or the name of a bundled pair, whose ARM it is. Where no checkpoint is the start (step 0), the ARM's own weights are,
read as the run's models are: before any training, attention alone differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hooked_diffusion.artefact import read_json, write_json
from hooked_diffusion.checkpoints.reading import inspect_checkpoint
from hooked_diffusion.model import HookedDiffusionTransformer
from hooked_diffusion.pairs.pair import arm_of_pair, bundled_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Unpack

    from hooked_diffusion.checkpoints.fields import Config
    from hooked_diffusion.checkpoints.loading import WeightSettings

TRAINED, RUN, METRICS = "trained.json", "posttrain.json", "metrics.jsonl"


@dataclass(frozen=True)
class Checkpoint:
    """A model after `step` steps and `tokens` training tokens, opened from `source`; `config`: fields that the source's own lacks."""

    step: int
    tokens: int
    source: str
    config: Config | None = None

    def open(self, tokenizer: PreTrainedTokenizerBase | None = None, **placed: Unpack[WeightSettings]) -> HookedDiffusionTransformer:
        """The model. Raises what `from_pretrained` raises."""
        return HookedDiffusionTransformer.from_pretrained(self.source, config=self.config, tokenizer=tokenizer, **placed)


@dataclass(frozen=True)
class TrainingRun:
    """A post-training: `role` "mdm" or "control", the ARM it started from (empty where nothing says), its checkpoints, first to last."""

    role: str
    arm: str
    checkpoints: tuple[Checkpoint, ...]

    @classmethod
    def of(cls, folder: str | Path, role: str) -> TrainingRun:
        """The run of a folder. Raises ValueError on a folder without checkpoints, a damaged `trained.json`, and a step given twice."""
        told = list(_told(Path(folder)))
        found = sorted((_checkpoint(place, values) for place, values in told), key=lambda one: one.step)
        if not found:
            raise ValueError(f"{folder} holds no checkpoints/STEP; give the folder of a post-training that kept checkpoints")
        steps = [one.step for one in found]
        if len(set(steps)) < len(steps) or any(a.tokens >= b.tokens for a, b in zip(found, found[1:], strict=False)):
            raise ValueError(f"{folder}: its checkpoints are of steps {steps}; give each once, with more tokens than the one before")
        arms = {arm for _, values in told if isinstance(arm := values.get("arm"), str)}
        if len(arms) > 1:
            raise ValueError(f"{folder}: its checkpoints started from {' and from '.join(sorted(arms))}; give those of one run")
        return cls(role, next(iter(arms), ""), tuple(found))

    def started_from(self, arm: str) -> TrainingRun:
        """The same run with a start: where it has none, the ARM, read as its models are. Raises ValueError where that cannot be."""
        if self.checkpoints[0].step == 0:
            return replace(self, arm=arm)
        spec = inspect_checkpoint(self.checkpoints[0].source).spec
        config = {"is_causal": spec.attention == "causal", "diffusion_spec": spec.to_dict()}
        return replace(self, arm=arm, checkpoints=(Checkpoint(0, 0, arm_source(arm), config), *self.checkpoints))

    def only(self, steps: Iterable[int]) -> TrainingRun:
        """The run at some of its steps. Raises ValueError on one that it has not."""
        wanted, there = set(steps), {one.step for one in self.checkpoints}
        if unknown := sorted(wanted - there):
            raise ValueError(f"the {self.role} has no checkpoint at step {unknown[0]}; there are: {', '.join(map(str, sorted(there)))}")
        return replace(self, checkpoints=tuple(one for one in self.checkpoints if one.step in wanted))

    @property
    def last(self) -> Checkpoint:
        """The model that the training ended with."""
        return self.checkpoints[-1]


def arm_source(arm: str) -> str:
    """What `from_pretrained` opens as the ARM `arm`: the ARM of the bundled pair of that name, or the checkpoint itself."""
    return str(arm_of_pair(arm)) if arm in bundled_pairs() else arm


def write_trained(folder: Path, step: int, tokens: int, arm: str) -> None:
    """Write `trained.json` beside a checkpoint."""
    write_json(folder / TRAINED, {"step": step, "tokens": tokens, "arm": arm})


def _told(folder: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """Every checkpoint's folder, with what is told of it."""
    run = read_json(folder / RUN, "mechshift posttrain", "base") if (folder / RUN).is_file() else None
    tokens = _tokens_by_step(folder / METRICS) if run else {}
    for place in sorted((folder / "checkpoints").glob("*")):
        if (place / TRAINED).is_file():
            yield place, read_json(place / TRAINED, "mechshift posttrain", "step", "tokens")
        elif run and place.name.isdigit():
            step, base = int(place.name), run["base"]
            if step not in tokens:
                raise ValueError(f"{folder / METRICS} does not tell the tokens up to step {step}; add a {TRAINED} to {place}")
            yield place, {"step": step, "tokens": tokens[step], "arm": base.get("name") if isinstance(base, dict) else None}


def _tokens_by_step(path: Path) -> dict[int, int]:
    """Tokens trained on up to each step; as far as the lines of the steps tell theirs, none missing."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
    of_step = {line["step"]: line["tokens"] for line in lines if "tokens" in line}
    found = {0: 0}
    while (step := len(found)) in of_step:
        found[step] = found[step - 1] + of_step[step]
    return found


def _checkpoint(place: Path, values: dict[str, object]) -> Checkpoint:
    step, tokens = values["step"], values["tokens"]
    if not (isinstance(step, int) and isinstance(tokens, int) and step >= 0 and tokens >= 0 and (step == 0) == (tokens == 0)):
        raise ValueError(f"{place / TRAINED}: step is {step!r}, tokens {tokens!r}; give whole numbers, both 0 at the start alone")
    return Checkpoint(step, tokens, str(place))
