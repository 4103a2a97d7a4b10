"""GGUF files of Llama and Qwen2 models: their header becomes a native config, their tensors are dequantised one at a time.

For the llama architecture, llama.cpp stores the two halves of a rotary pair side by side, so that the rows of q and k are in another order.
`GgufReader.load` puts them back into the order that Hugging Face's rotate-half RoPE wants.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter
from hooked_diffusion.checkpoints.boundary import MissingExtra, reading
from hooked_diffusion.checkpoints.fields import shown, whole_in
from hooked_diffusion.checkpoints.gguf_header import check_header

if TYPE_CHECKING:
    from gguf import GGUFReader

ARCHITECTURES = ("llama", "qwen2")
UNQUANTISED = ("F32", "F16", "BF16", "F64")
_BLOCK, _LAYER = r"blk\.(\d+)\.", r"model.layers.\1."
KEYS = (
    (r"token_embd\.weight", "model.embed_tokens.weight"),
    (r"output_norm\.weight", "model.norm.weight"),
    (r"output\.weight", "lm_head.weight"),
    (_BLOCK + r"attn_norm\.weight", _LAYER + "input_layernorm.weight"),
    (_BLOCK + r"ffn_norm\.weight", _LAYER + "post_attention_layernorm.weight"),
    (_BLOCK + r"attn_([qkv])\.(weight|bias)", _LAYER + r"self_attn.\2_proj.\3"),
    (_BLOCK + r"attn_output\.weight", _LAYER + "self_attn.o_proj.weight"),
    (_BLOCK + r"ffn_(gate|up|down)\.weight", _LAYER + r"mlp.\2_proj.weight"),
)
#: Native config field → header field, `{arch}` being the architecture.
FIELDS = {
    "hidden_size": "{arch}.embedding_length",
    "intermediate_size": "{arch}.feed_forward_length",
    "num_hidden_layers": "{arch}.block_count",
    "num_attention_heads": "{arch}.attention.head_count",
    "num_key_value_heads": "{arch}.attention.head_count_kv",
    "head_dim": "{arch}.attention.key_length",
    "max_position_embeddings": "{arch}.context_length",
    "rms_norm_eps": "{arch}.attention.layer_norm_rms_epsilon",
    "rope_theta": "{arch}.rope.freq_base",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
    "mask_token_id": "tokenizer.ggml.mask_token_id",
}


class GgufReader:
    """An opened GGUF file: a `readers.CheckpointReader`.

    Raises `MissingExtra` (an ImportError and a ValueError) without the `gguf` package; ValueError on a file that is no whole GGUF, on
    another architecture, or on scaled RoPE.
    """

    def __init__(self, path: Path) -> None:
        self._gguf = _import_gguf()
        with reading(f"{path} is not a whole GGUF file", "fetch it again"):
            check_header(path)
            reader = self._gguf.GGUFReader(path)
            self._tensors = {tensor.name: tensor for tensor in reader.tensors}
            # GGUF lists the innermost dimension first.
            self.shapes = {name: tuple(int(n) for n in reversed(tensor.shape)) for name, tensor in self._tensors.items()}
        self.files: tuple[Path, ...] = (path,)
        self.config = _config(reader, self.shapes, path)
        self.notes = _notes([tensor.tensor_type.name for tensor in reader.tensors])
        has_tokenizer = "tokenizer.ggml.tokens" in reader.fields
        self.tokenizer_at: tuple[Path, str | None] | None = (path.parent, path.name) if has_tokenizer else None

    def dtype(self, key: str) -> torch.dtype:
        """float32, for every kind of quantisation."""
        return torch.float32

    def load(self, key: str, fresh: bool = False) -> Float[Tensor, "*shape"]:
        """One tensor in float32, q and k in Hugging Face's row order; always a copy. Raises ValueError where it cannot be dequantised."""
        tensor = self._tensors[key]
        heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(key.split(".")[-2])
        count = whole_in(self.config, heads, str(self.files[0]), least=1) if heads else None
        with reading(f"{self.files[0]}: {shown(key)} cannot be read", "fetch the file again"):
            values = self._gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False).reshape(self.shapes[key])
            if self.config["model_type"] == "llama" and count:
                # (head, pair, half) → (head, half, pair): rotate-half wants all first halves, then all second ones.
                values = values.reshape(count, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
        # A copy: an unquantised tensor is a view of the mapped file, which cannot be written.
        return torch.from_numpy(np.array(values))

    def file_of(self, key: str) -> None:
        """None: no tensor is stored as it is used."""

    def adapt(self, adapter: CheckpointAdapter) -> CheckpointAdapter:
        """The family's adapter with llama.cpp's names for the keys."""
        return dataclasses.replace(adapter, keys=KEYS, drop=())


def _import_gguf() -> ModuleType:
    try:
        import gguf
    except ImportError as error:
        raise MissingExtra("reading a GGUF file needs the gguf package: pip install 'mechshift-tl[gguf]'") from error
    return gguf


def _config(reader: GGUFReader, shapes: dict[str, tuple[int, ...]], path: Path) -> dict[str, object]:
    """The header in the words of a native config; what the header leaves out stays out."""
    architecture = _contents(reader, "general.architecture", path)
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{path} has the GGUF architecture {shown(architecture)}; {' and '.join(ARCHITECTURES)} are read")
    scaling = _contents(reader, f"{architecture}.rope.scaling.type", path)
    if scaling not in (None, "none"):
        raise ValueError(f"{path} scales its RoPE ({scaling}); convert the checkpoint to safetensors with its rope_parameters instead")
    fields = {native: _contents(reader, name.format(arch=architecture), path) for native, name in FIELDS.items()}
    config = {native: _value(value) for native, value in fields.items() if value is not None}
    return config | {
        "model_type": architecture,
        "vocab_size": shapes.get("token_embd.weight", (None,))[0],
        "hidden_act": "silu",  # what llama.cpp computes for both architectures
        "use_sliding_window": False,
        "tie_word_embeddings": "output.weight" not in shapes,
    }


def _contents(reader: GGUFReader, name: str, path: Path) -> object:
    """What a field of the header holds; None where there is no such field."""
    with reading(f"{path}: its field {name} cannot be read", "fetch the file again"):
        field = reader.get_field(name)
        return field.contents() if field else None


def _value(value: object) -> object:
    """A header's float32 as the shortest decimal that names it: 1e-05, not 9.999999747e-06."""
    return float(str(np.float32(value))) if isinstance(value, float) else value


def _notes(kinds: list[str]) -> tuple[str, ...]:
    counts = Counter(kind for kind in kinds if kind not in UNQUANTISED)
    listed = ", ".join(f"{kind} ({n} of {len(kinds)} tensors)" for kind, n in counts.most_common())
    return (f"weights dequantised from {listed}",) if counts else ()
