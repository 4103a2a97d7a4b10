"""Do the tensors of readouts fit each other, and the model that is to run them? Every error names the tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hooked_diffusion.artefact import shown
from mechshift_tl.bridge.protocol import HookedModel

#: What fills up rows that are shorter than others.
ABSENT = -1
MASKS = ("clean_mask", "corrupt_mask")
#: What each tensor must be shaped like.
LIKE = {"clean": ("corrupt", *MASKS, "span"), "target_pos": ("answer_ids", "foil_ids")}


def check_parts(tensors: Mapping[str, Tensor], n_examples: int, n_spans: int) -> None:
    """Raise ValueError, naming the tensor, unless these are the parts of one `Readouts`."""
    for name, tensor in tensors.items():
        dimensions = 1 if name in ("step", "example") else 2
        if not isinstance(tensor, Tensor) or tensor.ndim != dimensions:
            raise ValueError(f"Readouts: {name} is {shown(tensor)}; give a tensor with {dimensions} dimension{'s'[: dimensions - 1]}")
    rows = len(tensors["clean"])
    for model, others in LIKE.items():
        for name in others:
            if name in tensors and tensors[name].shape != tensors[model].shape:
                raise ValueError(f"Readouts: {name} is {tuple(tensors[name].shape)}, but {model} {tuple(tensors[model].shape)}")
        absent = tensors[model] == ABSENT
        if (absent[:, :-1] & ~absent[:, 1:]).any():
            raise ValueError(
                f"Readouts: {model} holds {ABSENT} amid a row; it only fills rows up at their end, and masks hide what is within"
            )
        for name in set(others) - {*MASKS, "span"}:
            if ((tensors[name] == ABSENT) != absent).any():
                raise ValueError(f"Readouts: {name} and {model} are not filled up with {ABSENT} alike")
    if (unread := (tensors["target_pos"] == ABSENT).all(1)).any():
        raise ValueError(f"Readouts: row {int(unread.nonzero()[0])} reads no position; leave it out")
    for name in ("target_pos", "step", "example"):
        if len(tensors[name]) != rows:
            raise ValueError(f"Readouts: {name} has {len(tensors[name])} rows, but clean {rows}")
    if len(set(MASKS) & set(tensors)) == 1:
        raise ValueError("Readouts: one mask was given; give clean_mask and corrupt_mask, or neither")
    if rows and not 0 <= int(tensors["example"].min()) <= int(tensors["example"].max()) < n_examples:
        raise ValueError(f"Readouts: example {int(tensors['example'].max())} has no group; groups names {n_examples} examples")
    lengths = (tensors["clean"] != ABSENT).sum(1, keepdim=True)
    if (outside := (tensors["target_pos"] >= lengths) | (tensors["target_pos"] < ABSENT)).any():
        row, slot = outside.nonzero()[0].tolist()
        raise ValueError(
            f"Readouts: target_pos of row {row} is {int(tensors['target_pos'][row, slot])}; the row has {int(lengths[row])} tokens"
        )
    if "span" in tensors and tensors["span"].numel() and not ABSENT <= int(tensors["span"].min()) <= int(tensors["span"].max()) < n_spans:
        raise ValueError(f"Readouts: span holds {int(tensors['span'].max())}; spans names {n_spans} of them, and {ABSENT} is for none")
    for name, tensor in tensors.items():
        wanted = torch.bool if name in MASKS else torch.int64
        if tensor.dtype != wanted:
            raise ValueError(f"Readouts: {name} is {shown(tensor)}; give a tensor of {wanted}")


def check_ids(model: HookedModel, name: str, ids: Tensor, *, predicted: bool = False) -> None:
    """Raise ValueError on an id that is neither in the model's vocabulary nor `ABSENT`; `predicted` ids are those of its logits."""
    # A model may predict other ids than it reads: those of classes, say.
    vocabulary = model.cfg.d_vocab_out if predicted and model.cfg.d_vocab_out > 0 else model.cfg.d_vocab
    bad = ids[(ids >= vocabulary) | (ids < ABSENT)]
    if bad.numel():
        raise ValueError(f"{name} holds id {int(bad[0])}, outside the vocabulary of {vocabulary}; use this model's tokenizer")
