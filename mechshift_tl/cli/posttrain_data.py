"""What `mechshift posttrain` trains on and measures: tasks, files and the ARM's own samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.checkpoints.loading import LoadedCheckpoint
from hooked_diffusion.posttrain import Mixture, Rows, Source, Text, pack
from hooked_diffusion.posttrain.mask_token import end_of_text, tokenizer_of
from hooked_diffusion.posttrain.sampling import own_samples
from hooked_diffusion.posttrain.texts import answered, read_texts
from mechshift_tl.tasks import Examples, Task
from mechshift_tl.tasks.training import training_texts

#: Texts that a task makes at most, and held-out prompts of each that loss and accuracy are measured on.
N_TEXTS, N_PROMPTS = 20_000, 100
#: Of so many texts of files or samples, one is held out, but no more than `N_PROMPTS`.
ONE_IN = 10


@dataclass(frozen=True)
class TrainingData:
    """`rows` to train on, batches that are `held_out`, and held-out `prompts` of each task."""

    rows: Mixture
    held_out: tuple[Rows, ...]
    prompts: Mapping[str, tuple[Task, Examples]]

    @classmethod
    def of(
        cls, loaded: LoadedCheckpoint, tasks: Sequence[Task], files: Sequence[Path], n_own: int, length: int, per_step: int, seed: int
    ) -> TrainingData:
        """Read and make the data. Raises ValueError where there is none, where a text is longer than a row, and on a damaged file."""
        if not tasks and not files and not n_own:
            raise ValueError("there is nothing to train on; give --task, --data or --self-generated")
        tokenizer = tokenizer_of(loaded)
        end = end_of_text(tokenizer)
        kept: dict[str, Sequence[Text]] = {}
        apart: dict[str, Sequence[Text]] = {}
        prompts: dict[str, tuple[Task, Examples]] = {}
        for task in tasks:
            examples = task.examples(tokenizer, N_PROMPTS, seed)
            prompts[task.name] = (task, examples)
            kept[task.name] = answered(tokenizer, training_texts(task, N_TEXTS, seed), end)
            apart[task.name] = answered(tokenizer, [(e.pair.prompt, e.pair.answer, e.pair.suffix) for e in examples], end)
        if files:
            kept["data"], apart["data"] = _split(read_texts(files, tokenizer, length, end))
        if n_own:
            begin = tokenizer.bos_token_id
            own = own_samples(loaded.hf_model, n_own, length, begin if isinstance(begin, int) else end, seed=seed)
            kept["own samples"], apart["own samples"] = _split(own)
        _check_lengths(kept, length)
        rows = Mixture({name: Source(texts, per_step) for name, texts in kept.items()}, length, end)
        return cls(rows, tuple(pack(texts, length, end) for texts in apart.values() if texts), prompts)

    def accuracy(self, model: PreTrainedModel, spec: DiffusionSpec) -> dict[str, float]:
        """Task → the share of held-out prompts that are answered right."""
        if not self.prompts:
            return {}
        hooked = HookedDiffusionTransformer.from_hf(model, None, spec)
        return {f"accuracy_{name}": task.accuracy(hooked, examples) for name, (task, examples) in self.prompts.items()}


def _split(texts: Sequence[Text]) -> tuple[Sequence[Text], Sequence[Text]]:
    """Texts to train on, and texts kept apart: one of ten, the first few of them."""
    apart = texts[::ONE_IN][:N_PROMPTS] if len(texts) > 1 else []
    left_out = {id(text) for text in apart}
    return [text for text in texts if id(text) not in left_out], apart


def _check_lengths(texts: Mapping[str, Sequence[Text]], length: int) -> None:
    for name, some in texts.items():
        longest = max((len(text.tokens) for text in some), default=0)
        if longest > length:
            raise ValueError(f"{name}: a text has {longest} tokens, a row {length}; give --length {longest} or more")
