"""Configs and tokenizer files with values that cannot be: each opens, or is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from hooked_diffusion.checkpoints import families, inspect_checkpoint, load_checkpoint, save_checkpoint

FEW, MANY = 20, 400
#: Without shrinking: an input that fails is shown as it was found, and the limits of time and memory hold for each.
SEEDED = settings(
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
SHAPE = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 5e5,
}  # fmt: skip
NESTED: Any = 0
for _ in range(500):
    NESTED = [NESTED]
VALUES = st.one_of(
    st.sampled_from([
        None, True, False, 0, -1, 1, 2, 3, 7, 48, 10**6, 2**31, 2**63, 10**12, 10**30, 10**4000, 0.0,
        -0.5, 0.5, 1e-300, 1e308, float("nan"),
        float("inf"), "", "x", "silu", "1", "\n", "\ud800", "a" * 5000, "../..", "/etc/passwd", [], {}, [1], ["x"], [None], [[]], {"a": 1},
        {"rope_type": "yarn"}, {"rope_type": "linear", "factor": 0}, {"rope_type": "nosuch"}, {"type": "dynamic", "factor": "x"},
        {"rope_theta": -1}, {"rope_theta": float("nan")}, {"attention": "full"}, {"attention": "block", "block_length": 10**12},
        {"attention": [], "logit_shift": "x"}, {"attention": "full", "tail": 5}, {"attention": "full", "mask_token_id": True}, NESTED,
    ]),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
)  # fmt: skip
FIELDS = st.sampled_from([
    *SHAPE, "model_type", "architectures", "head_dim", "mask_token_id", "diffusion_spec", "is_causal", "rope_parameters", "rope_scaling",
    "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id", "layer_types", "quantization_config", "use_sliding_window",
    "attention_bias", "attention_dropout", "initializer_range", "block_size", "bd_size", "n_embd", "n_head", "n_layer", "n_positions",
    "activation_function", "layer_norm_epsilon", "embedding_size", "d_model", "n_heads", "_name_or_path", "dtype", "transformers_version",
])  # fmt: skip
CHANGES = st.dictionaries(st.one_of(FIELDS, FIELDS, FIELDS, st.text(max_size=8)), VALUES, min_size=1, max_size=3)
LEFT_OUT = st.sets(FIELDS, max_size=1)


def changed(config: dict[str, Any], changes: dict[str, Any], left_out: set[str]) -> str:
    """The text of a config with some of its values changed and left out."""
    return json.dumps({key: value for key, value in (config | changes).items() if key not in left_out})


def damaged(text: str, place: float, how: str) -> bytes:
    """The bytes of a JSON text, damaged."""
    at, data = int(place * len(text)), text.encode("utf-8")
    return {
        "cut": data[:at],
        "flipped": data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :],
        "marked": b"\xef\xbb\xbf" + data,
        "latin": text.replace("{", '{"é": 0, ', 1).encode("latin-1"),
        "utf-16": text.encode("utf-16"),
        "deep": b'{"a":' * 100_000 + data,
        "list": b"[" + data + b"]",
        "long": data[:-1] + b', "x": ' + b"9" * 10_000 + b"}",
        "repeated": data[:-1] + b', "vocab_size": 7, "vocab_size": 8}',
        "large": data + b" " * (5 * 2**20),
    }[how]


DAMAGES = st.sampled_from("cut flipped marked latin utf-16 deep list long repeated large".split())
PLACES = st.floats(0, 1, exclude_max=True)


@pytest.fixture(scope="module")
def folders(native: Callable[..., Any], word_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny checkpoint of every native class, with a tokenizer."""
    root = tmp_path_factory.mktemp("whole")
    return {
        family: save_checkpoint(native(family), root / family, DiffusionSpec(), word_tokenizer)
        for family in ("llama", "qwen2", "qwen3", "gpt2")
    }


def linked(whole: Path, folder: Path, **files: bytes) -> Path:
    """A folder with the files of `whole`, but for those given."""
    for old in folder.glob("*"):
        old.unlink()
    folder.mkdir(exist_ok=True)
    for path in whole.iterdir():
        if path.name not in files:
            (folder / path.name).symlink_to(path)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def opens_with_config(folders: dict[str, Path], tmp_path: Path, outcome_of: Any, tally: Any) -> Callable[[str, bytes], None]:
    """Open a tiny checkpoint with another config; weights and all."""

    def check(family: str, config: bytes) -> None:
        folder = linked(folders[family], tmp_path / "model", **{"config.json": config})
        tally.check(outcome_of(lambda: HookedDiffusionTransformer.from_pretrained(folder, tokenizer=None)), config[:600])

    return check


FAMILIES = st.sampled_from(["llama", "qwen2", "qwen3", "gpt2"])


def _values(family: str, folders: dict[str, Path]) -> dict[str, Any]:
    values = json.loads((folders[family] / "config.json").read_text())
    del values["diffusion_spec"]
    return values


@pytest.mark.parametrize("n", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])
def test_configs_with_values_that_cannot_be(n: int, folders: dict[str, Path], opens_with_config: Callable[[str, bytes], None]) -> None:
    @settings(SEEDED, max_examples=n)
    @given(family=FAMILIES, changes=CHANGES, left_out=LEFT_OUT)
    def check(family: str, changes: dict[str, Any], left_out: set[str]) -> None:
        opens_with_config(family, changed(_values(family, folders), changes, left_out).encode())

    check()


@pytest.mark.parametrize("n", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_configs_that_are_no_json(n: int, folders: dict[str, Path], opens_with_config: Callable[[str, bytes], None]) -> None:
    @settings(SEEDED, max_examples=n)
    @given(family=FAMILIES, place=PLACES, how=DAMAGES)
    def check(family: str, place: float, how: str) -> None:
        opens_with_config(family, damaged((folders[family] / "config.json").read_text(), place, how))

    check()


@pytest.mark.shared
@pytest.mark.parametrize("n", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_real_configs_with_values_that_cannot_be(n: int, shared: Path, tmp_path: Path, outcome_of: Any, tally: Any) -> None:
    """Every real config, changed, is read from its file alone, with and without a family of the caller's."""
    texts = {path.name: json.loads(path.read_text()) for path in sorted((shared / "configs").glob("*.json"))}

    @settings(SEEDED, max_examples=n)
    @given(
        name=st.sampled_from(sorted(texts)),
        changes=CHANGES,
        left_out=LEFT_OUT,
        family=st.one_of(st.none(), st.none(), st.sampled_from([*families(), "nosuch"])),
        own=st.data(),
    )
    def check(name: str, changes: dict[str, Any], left_out: set[str], family: str | None, own: st.DataObject) -> None:
        field = own.draw(st.sampled_from(sorted(texts[name])))
        text = changed(texts[name], changes | {field: own.draw(VALUES)}, left_out)
        (tmp_path / name).write_text(text)
        tally.check(outcome_of(lambda: inspect_checkpoint(tmp_path / name, family=family)), (name, family, text[:600]))

    check()


TOKENIZER = (
    st.sampled_from(["tokenizer_config.json", "tokenizer.json"]),
    st.lists(st.one_of(st.integers(0, 30), st.sampled_from(["model", "vocab", "added_tokens", "pre_tokenizer", "type"])), max_size=4),
    st.one_of(
        VALUES,
        st.sampled_from([
            {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
            {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"String": "w"}, "content": "w" * 99}] * 20},
            {"type": "WordLevel", "vocab": {"a": 10**9}, "unk_token": "a"},
            {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]},
        ]),
    ),
)  # fmt: skip


def put(whole: Any, path: list[Any], value: Any) -> Any:
    """`whole` with a value at the end of a path through it, as far as the path leads."""
    if not path or not isinstance(whole, (dict, list)) or not whole:
        return value
    keys = sorted(whole) if isinstance(whole, dict) else list(range(len(whole)))
    key = path[0] if path[0] in keys else keys[(path[0] if isinstance(path[0], int) else 0) % len(keys)]
    changed = whole.copy()
    changed[key] = put(whole[key], path[1:], value)
    return changed


@pytest.mark.parametrize("n", [12, pytest.param(200, marks=pytest.mark.slow)])
def test_tokenizers_that_cannot_be(n: int, folders: dict[str, Path], tmp_path: Path, outcome_of: Any, tally: Any) -> None:
    """They load and belong to the model, or are refused; one that loads can tokenise a text that takes a bad pattern for ever."""

    @settings(SEEDED, max_examples=n)
    @given(family=st.sampled_from(["llama", "qwen2"]), file=TOKENIZER[0], path=TOKENIZER[1], value=TOKENIZER[2])
    def check(family: str, file: str, path: list[Any], value: Any) -> None:
        content = json.dumps(put(json.loads((folders[family] / file).read_text()), path, value))
        folder = linked(folders[family], tmp_path / "model", **{file: content.encode()})

        def opened() -> None:
            model = HookedDiffusionTransformer.from_pretrained(folder)
            model.to_tokens("w5 w6 " + "a" * 40 + "!", prepend_bos=False)

        tally.check(outcome_of(opened), (file, path, str(value)[:200]))

    check()


def test_a_bug_of_our_own_shows_itself(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What another library raises on a file is said in a sentence; what this package raises itself is not hidden."""

    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    with monkeypatch.context() as patch:
        patch.setattr("hooked_diffusion.checkpoints.loading.check", broken)
        with pytest.raises(KeyError, match="a bug"):
            load_checkpoint(folders["llama"], tokenizer=None)
    with monkeypatch.context() as patch:
        patch.setattr("hooked_diffusion.checkpoints.files.json.loads", broken)
        with pytest.raises(ValueError, match="config.json is not valid JSON .KeyError: 'a bug'.; fetch it again"):
            load_checkpoint(folders["llama"], tokenizer=None)
    for lack in (MemoryError, KeyboardInterrupt):

        def lacking(*_: object, lack: type[BaseException] = lack, **__: object) -> None:
            raise lack

        with monkeypatch.context() as patch:
            patch.setattr("hooked_diffusion.checkpoints.files.json.loads", lacking)
            with pytest.raises(lack):
                load_checkpoint(folders["llama"], tokenizer=None)
