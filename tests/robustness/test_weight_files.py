"""Weight files that cannot be: GGUF bytes, the index of shards, safetensors and `.bin`. Each opens, or is refused in one line."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from hooked_diffusion import DiffusionSpec
from hooked_diffusion.checkpoints import load_checkpoint, save_checkpoint

SEEDED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
PLACES = st.floats(0, 1, exclude_max=True)
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "model.layers.": "blk.",
}  # fmt: skip


@pytest.fixture(scope="module")
def gguf_bytes(native: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole GGUF file of a tiny Llama, with a list of tokens and quantised matrices."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    model, writer = native("llama"), gguf.GGUFWriter(path, "llama")
    sizes = {"embedding_length": 32, "feed_forward_length": 64, "block_count": 2, "attention.head_count": 4, "context_length": 64}
    for name, value in (sizes | {"attention.head_count_kv": 2}).items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 5e5)
    writer.add_array("general.languages", [f"t{i}" for i in range(48)])
    for key, tensor in model.state_dict().items():
        for old, new in NAMES.items():
            key = key.replace(old, new)
        kind = gguf.GGMLQuantizationType.Q8_0 if tensor.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(key, gguf.quantize(tensor.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    load_checkpoint(path, tokenizer=None)
    return path.read_bytes()


#: Numbers that a header's counts, lengths, kinds and offsets are replaced by.
NUMBERS = st.sampled_from([0, 1, 2, 7, 255, 2**16, 2**31, 2**32 - 1, 2**32, 2**40, 2**60, 2**63, 2**64 - 1])


def with_bytes(data: bytes, place: float, how: str, number: int, header: int) -> bytes:
    """A file with a number written over its header, a byte flipped, or its end cut off."""
    at = int(place * header)
    if how == "cut":
        return data[: int(place * len(data))]
    if how == "flipped":
        return data[:at] + bytes([data[at] ^ (1 + number % 255)]) + data[at + 1 :]
    if how == "counts":
        at = 8 + 8 * (number % 2)  # how many tensors, or fields
    new = struct.pack("<Q" if how != "short" else "<I", number if how != "short" else number % 2**32)
    return data[:at] + new + data[at + len(new) :]


HOWS = st.sampled_from("cut flipped flipped number number number short short counts".split())


@pytest.mark.parametrize("n", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_gguf_files_that_cannot_be(n: int, gguf_bytes: bytes, tmp_path: Path, outcome_of: Any, tally: Any) -> None:
    (tmp_path / "whole.gguf").write_bytes(gguf_bytes)
    header = int(gguf.GGUFReader(tmp_path / "whole.gguf").data_offset)

    @settings(SEEDED, max_examples=n)
    @given(place=PLACES, how=HOWS, number=NUMBERS)
    def check(place: float, how: str, number: int) -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(with_bytes(gguf_bytes, place, how, number, header))
        tally.check(outcome_of(lambda: load_checkpoint(path, tokenizer=None)), (place, how, number))

    check()


@pytest.fixture(scope="module")
def shards(native: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in shards."""
    folder = tmp_path_factory.mktemp("shards")
    native("llama").save_pretrained(folder, max_shard_size="20KB")
    return folder


WHERE = st.one_of(
    st.sampled_from([
        "/etc/passwd", "../model.safetensors", "a/../../x.safetensors", "..\\x.safetensors", "C:\\x.safetensors", "sub/x.safetensors", ".",
        "", "model.safetensors", "model.bin", "model-00001-of-00009.safetensors", "\n.safetensors", "\ud800.safetensors",
        "x" * 300 + ".safetensors", None, 5, True, [], {}, ["model.safetensors"],
    ]),
    st.text(max_size=10),
)  # fmt: skip
INDEXES = st.one_of(
    st.dictionaries(st.text(max_size=8), WHERE, max_size=3),
    st.sampled_from([None, [], "x", 5, {}, {"a": {"b": "model.safetensors"}}]),
)


@pytest.mark.parametrize("n", [15, pytest.param(150, marks=pytest.mark.slow)])
def test_indexes_that_cannot_be(n: int, shards: Path, tmp_path: Path, outcome_of: Any, tally: Any) -> None:
    """Among them ones that name files outside the folder: those are refused, whatever they hold."""
    whole = json.loads((shards / "model.safetensors.index.json").read_text())

    @settings(SEEDED, max_examples=n)
    @given(added=INDEXES, replace=st.booleans(), left_out=st.sets(st.sampled_from(["weight_map", "metadata"]), max_size=1))
    def check(added: Any, replace: bool, left_out: set[str]) -> None:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        for path in shards.iterdir():
            if not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
        listed = added if replace or not isinstance(added, dict) else whole["weight_map"] | added
        index = {key: value for key, value in (whole | {"weight_map": listed}).items() if key not in left_out}
        (folder / "model.safetensors.index.json").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        outcome = outcome_of(lambda: load_checkpoint(folder, tokenizer=None))
        tally.check(outcome, index)
        named = index["weight_map"].values() if isinstance(index.get("weight_map"), dict) else []
        if any(isinstance(name, str) and ("/" in name or "\\" in name) for name in named):
            assert outcome.kind == "refused" and "in the same folder" in outcome.said

    check()


@pytest.mark.parametrize("n", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_safetensors_that_cannot_be(n: int, shards: Path, tmp_path: Path, outcome_of: Any, tally: Any) -> None:
    """Bytes of a header changed; a header of another size."""
    names = sorted(path.name for path in shards.glob("*.safetensors"))

    @settings(SEEDED, max_examples=n)
    @given(place=PLACES, how=st.sampled_from("cut flipped number short".split()), number=NUMBERS, which=st.sampled_from(names))
    def check(place: float, how: str, number: int, which: str) -> None:
        folder = tmp_path / "model"
        folder.mkdir(exist_ok=True)
        for path in shards.iterdir():
            (folder / path.name).unlink(missing_ok=True)
            (folder / path.name).symlink_to(path)
        content = (shards / which).read_bytes()
        (folder / which).unlink()
        (folder / which).write_bytes(with_bytes(content, place, how, number, 8 + int.from_bytes(content[:8], "little")))
        tally.check(outcome_of(lambda: load_checkpoint(folder, tokenizer=None)), (which, place, how, number))

    check()


@pytest.fixture
def bin_folder(native: Callable[..., Any], tmp_path: Path) -> Path:
    """A tiny Llama in one `.bin` file."""
    folder = save_checkpoint(native("llama"), tmp_path / "model", DiffusionSpec())
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def refused(folder: Path, outcome_of: Any, said: str) -> None:
    outcome = outcome_of(lambda: load_checkpoint(folder, tokenizer=None))
    assert outcome.kind == "refused" and said in outcome.said, outcome


def test_a_compressed_pickle_is_refused_unread(bin_folder: Path, outcome_of: Any) -> None:
    """Some kilobytes that would unpack to a thousand times as much."""
    with zipfile.ZipFile(bin_folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", b"\x80\x02}q\x00.")
        with archive.open("model/data/0", "w", force_zip64=True) as entry:
            for _ in range(64):
                entry.write(bytes(2**20))
    assert (bin_folder / "pytorch_model.bin").stat().st_size < 2**17
    refused(bin_folder, outcome_of, "pytorch_model.bin holds compressed entries, which torch does not write")


@pytest.mark.parametrize("made", ["repeated", "meta", "sparse", "keys", "object", "text", "legacy"])
def test_bins_whose_tensors_are_not_there(bin_folder: Path, outcome_of: Any, made: str) -> None:
    norm: dict[Any, Any] = {
        "repeated": {"model.norm.weight": torch.ones(1).expand(2**34)},
        "meta": {"model.norm.weight": torch.ones(32, device="meta")},
        "sparse": {"model.norm.weight": torch.ones(32).to_sparse()},
        "keys": {7: torch.ones(32)},
        "object": {"model.norm.weight": Path("x")},
        "text": {"model.norm.weight": "x"},
        "legacy": {"model.norm.weight": torch.ones(32)},
    }[made]
    torch.save(norm, bin_folder / "pytorch_model.bin", _use_new_zipfile_serialization=made != "legacy")
    said = {"object": "holds more than tensors", "keys": "is no dictionary of tensors", "text": "is no dictionary of tensors"}
    refused(bin_folder, outcome_of, said.get(made, "does not fit LlamaForCausalLM" if made == "legacy" else "no plain tensor"))


def test_bins_that_are_no_archive(bin_folder: Path, outcome_of: Any) -> None:
    content = (bin_folder / "pytorch_model.bin").read_bytes()
    for other in (b"", b"PK", content[: len(content) // 2], pickle.dumps({"a": 1}), b"\x80\x04" + b"(" * 10**5, content[:200] + bytes(400)):
        (bin_folder / "pytorch_model.bin").write_bytes(other)
        refused(bin_folder, outcome_of, "pytorch_model.bin ")


def test_a_tensor_in_two_shards(shards: Path, tmp_path: Path, outcome_of: Any) -> None:
    for path in shards.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    first, second = sorted(tmp_path.glob("*.safetensors"))[:2]
    save_file(load_file(first) | load_file(second), second)
    refused(tmp_path, outcome_of, f"{second.name} and {first.name} both hold")


def test_counts_that_no_model_has(native: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing is made of them: each is refused at once, and named."""
    folder = save_checkpoint(native("llama"), tmp_path / "model", DiffusionSpec())
    whole = json.loads((folder / "config.json").read_text())
    for field in ("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size", "hidden_size", "intermediate_size"):
        for count in (0, -1, 10**9, 10**30, True, "2", 2.0, float("nan")):
            (folder / "config.json").write_text(json.dumps(whole | {field: count}))
            with pytest.raises(ValueError, match=f"says {field} = "):
                load_checkpoint(folder, tokenizer=None)


def test_a_header_of_lists_without_end(gguf_bytes: bytes, tmp_path: Path, outcome_of: Any) -> None:
    """A list of 2^60 numbers takes no byte of a file that ends, and would be collected for ever."""
    place = gguf_bytes.index(b"general.languages") + len("general.languages")
    for kind in (0, 4, 8, 9, 12, 13):
        content = bytearray(gguf_bytes)
        content[place : place + 16] = struct.pack("<IIQ", 9, kind, 2**60)
        (tmp_path / "model.gguf").write_bytes(content)
        outcome = outcome_of(lambda: load_checkpoint(tmp_path / "model.gguf", tokenizer=None), seconds=5)
        assert outcome.kind == "refused" and "is not a whole GGUF file" in outcome.said, outcome
    assert np.frombuffer(gguf_bytes[place : place + 4], "<u4")[0] == 9


def test_devices_that_are_not_here(native: Callable[..., Any], tmp_path: Path, outcome_of: Any) -> None:
    folder = save_checkpoint(native("llama"), tmp_path / "model", DiffusionSpec())
    absent = f"cuda:{torch.cuda.device_count() + 7}"
    for settings_, said in (
        ({"device": absent}, f"device is '{absent}'; say"),
        ({"device": "meta"}, "device is 'meta', which holds no numbers"),
        ({"device": "nosuch"}, "device is 'nosuch'; say"),
        ({"device_map": absent}, f"device_map is '{absent}'; say auto"),
        ({"device_map": {"": absent}}, f"device_map[''] is '{absent}'; say"),
        ({"device_map": {"": []}}, "device_map[''] is []; say"),
        ({"device_map": {}}, "device_map does not fit the model"),
        ({"dtype": "float8_e4m3fn"}, "dtype 'float8_e4m3fn' is no floating torch dtype of weights"),
        ({"dtype": 5}, "dtype 5 is no floating torch dtype"),
    ):
        how: dict[str, Any] = settings_
        outcome = outcome_of(partial(load_checkpoint, folder, tokenizer=None, **how))
        assert outcome.kind == "refused" and said in outcome.said, (settings_, outcome)
