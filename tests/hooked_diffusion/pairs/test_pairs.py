"""Pairs from folders and from paths, and what makes two models no pair."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hooked_diffusion import DiffusionSpec, Pair, load_pair
from hooked_diffusion.architectures import NATIVE
from hooked_diffusion.checkpoints import families, loading, save_checkpoint
from hooked_diffusion.pairs import pair as pairs
from hooked_diffusion.pairs.known import KNOWN_PAIRS
from hooked_diffusion.pairs.pair import PairMismatch

MDM = DiffusionSpec("full", 1, 2)
Native = Callable[..., Any]


@pytest.fixture
def folder(native: Native, word_tokenizer: Any, tmp_path: Path) -> Path:
    """A folder laid out as the bundled pairs are."""
    for seed, (role, spec) in enumerate({"arm": DiffusionSpec(), "mdm": MDM, "control": DiffusionSpec()}.items()):
        save_checkpoint(native("llama", seed), tmp_path / "pair" / role, spec)
    word_tokenizer.save_pretrained(tmp_path / "pair" / "tokenizer")
    return tmp_path / "pair"


def test_a_folder_gives_three_models_and_one_tokenizer(folder: Path, native: Native) -> None:
    pair = load_pair(folder)
    assert list(pair.models) == ["arm", "mdm", "control"]
    assert (pair.arm.spec, pair.mdm.spec) == (DiffusionSpec(), MDM)
    assert pair.tokenizer is pair.mdm.tokenizer
    assert pair.tokenizer is not None and pair.tokenizer.get_vocab() == pair.arm.tokenizer.get_vocab()
    assert pair.tokenizer.mask_token_id == 2
    tokens = torch.tensor([[0, 5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(pair.arm(tokens), native("llama", 0)(tokens).logits)
    assert pair.mdm.source["name"] == f"{folder}/mdm"
    other = load_pair(folder, control=folder / "arm").control
    assert other is not None and other.source["name"] == str(folder / "arm")


def test_a_bundled_pair_is_found_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder.parent / "package"
    (package / "pretrained").mkdir(parents=True)
    folder.rename(package / "pretrained" / "small")
    monkeypatch.setattr(pairs.resources, "files", lambda name: package)
    assert pairs.bundled_pairs() == ["small"]
    assert load_pair("small").arm.source["name"] == "small/arm"
    with pytest.raises(ValueError, match="unknown pair 'tini'; bundled: small. Or give a folder"):
        load_pair("tini")


def test_what_differs_all_the_same(folder: Path, native: Native) -> None:
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}
    save_checkpoint(native("llama", vocab_size=50, **rope), folder / "wider", DiffusionSpec("full", 0, 48))
    pair = load_pair(arm=folder / "arm", mdm=folder / "wider", tokenizer=None)
    assert pair.differences == {
        "attention": ("causal", "full"), "logit_shift": (1, 0), "mask_token_id": (None, 48), "vocab_size": (48, 50),
        "rope_theta": (5e5, 1e4),
    }  # fmt: skip
    assert "vocab_size 48 → 50" in repr(pair) and pair.tokenizer_overlap is None
    assert load_pair(folder).tokenizer_overlap == (48, 48, 48)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """`hub(repo)`: the folder that the hub gives for `repo`, once it holds something; nothing else can be fetched."""

    def fetch(repo: str, revision: str | None) -> Path:
        return found if (found := tmp_path / "hub" / repo).is_dir() else pytest.fail(f"{repo} was asked for")

    monkeypatch.setattr("hooked_diffusion.checkpoints.hub._fetch", fetch)
    return lambda repo: tmp_path / "hub" / repo


def test_natural_pairs_open_by_name(native: Native, hub: Callable[..., Path]) -> None:
    """DiffuGPT's extra rows, a family that only the row tells, a config that the row completes, and blocks."""
    native("gpt2").save_pretrained(hub("openai-community/gpt2-medium"))
    mdm = save_checkpoint(native("gpt2", vocab_size=50), hub("diffusionfamily/diffugpt-m"), DiffusionSpec("full", 1, 48, bos="required"))
    weights = load_file(mdm / "model.safetensors")
    renamed = {key.replace("transformer.wte", "embed_tokens").replace("transformer.", "denoise_model."): weights[key] for key in weights}
    save_file(renamed, mdm / "model.safetensors")
    pair = load_pair("diffugpt-m", tokenizer=None)
    assert (pair.name, pair.differences["vocab_size"], pair.mdm.spec.mask_is_reused) == ("diffugpt-m", (48, 50), False)

    small = {"vocab_size": 32000, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    native("llama", **small).save_pretrained(hub("diffusionfamily/diffullama"))
    native("llama", **small).save_pretrained(hub("meta-llama/Llama-2-7b-hf"))
    config = hub("meta-llama/Llama-2-7b-hf") / "config.json"
    values = {key: value for key, value in json.loads(config.read_text()).items() if key != "rope_parameters"}
    config.write_text(json.dumps(values))
    pair = load_pair("diffullama-7b", tokenizer=None)
    assert pair.mdm.spec == DiffusionSpec("full", 1, 811, mask_is_reused=True)
    assert pair.differences["rope_theta"] == (1e4, 5e5)
    assert pair.arm.source["notes"] == ["rope_theta = 10000.0, which the config leaves out: known of Llama-2-7b-hf, by Llama 2's own code"]

    native("qwen3").save_pretrained(hub("Qwen/Qwen3-0.6B"))
    save_checkpoint(native("qwen3"), hub("dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1"), DiffusionSpec("block", 0, 2, block_length=4))
    assert load_pair("qwen3-0.6b-a2d-bd3lm", tokenizer=None).differences["block_length"] == (None, 4)


def test_an_mdm_from_scratch_is_no_pair() -> None:
    with pytest.raises(ValueError, match="llada-8b was trained from scratch, so it has no ARM; open GSAI-ML/LLaDA-8B-Base by"):
        load_pair("llada-8b")
    with pytest.raises(
        ValueError, match="wedlm-8b attends causally, so it is no MDM of a pair but a control; open tencent/WeDLM-8B-Base by"
    ):
        load_pair("wedlm-8b")
    with pytest.raises(ValueError, match="load_pair needs a name"):
        load_pair()


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("diffugpt-s", 124),
        ("diffugpt-m", 355),
        ("qwen3-0.6b-a2d", 596),
        ("fast-dllm-v2-1.5b", 1544),
        ("dream-7b", 7616),
        ("llada-8b", 8016),
    ],
)
def test_known_shapes_are_as_large_as_their_authors_say(name: str, millions: int) -> None:
    row = KNOWN_PAIRS[name]
    assert round(row.parameters / 1e6) == millions
    assert row.memory("float32") == 2 * row.memory() == row.parameters * 4 * (2 if row.arm else 1) / 2**30


def test_known_rows_name_families_and_classes() -> None:
    for row in KNOWN_PAIRS.values():
        assert row.family in families() and row.architecture in NATIVE
        config = row.config()
        assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (row.layers, row.width, row.vocab)
        assert row.heads % row.kv_heads == 0


def test_two_paths_and_a_control(folder: Path) -> None:
    pair = load_pair(folder / "arm", folder / "mdm", tokenizer=None)
    assert (list(pair.models), pair.tokenizer) == (["arm", "mdm"], None)
    pair = load_pair(str(folder / "arm"), str(folder / "mdm"), control=folder / "control", tokenizer=None, dtype="float64")
    assert list(pair.models) == ["arm", "mdm", "control"]
    assert pair.mdm.cfg.dtype == torch.float64


def test_the_repr_is_short_and_tells_what_differs(folder: Path) -> None:
    pair = load_pair(folder, tokenizer=None)
    assert pair.differences == {"attention": ("causal", "full"), "mask_token_id": (None, 2)}
    assert "arm + mdm + control, 2 layers, 4 heads, 32 wide; attention causal → full; mask_token_id None → 2" in repr(pair)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers is 2 in arm, 3 in mdm"),
        ({"num_attention_heads": 8, "head_dim": 8}, "num_attention_heads is 4 in arm, 8 in mdm"),
        ({"num_key_value_heads": 4}, "num_key_value_heads is 2 in arm, 4 in mdm"),
        ({"hidden_size": 64, "intermediate_size": 96}, "hidden_size is 32.*head_dim is 8 in arm, 16.*intermediate_size is 64 in arm, 96"),
        ({"vocab_size": 50}, "vocab_size is 48 in arm, 50 in mdm"),
        ({"vocab_size": 47}, "vocab_size is 48 in arm, 47 in mdm"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps is 1e-05 in arm, 1e-06 in mdm"),
    ],
)
def test_backbones_that_differ(folder: Path, native: Native, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], message: str) -> None:
    save_checkpoint(native("llama", **config), folder / "other", MDM)
    monkeypatch.setattr(loading.OpenCheckpoint, "load", lambda *args, **kwargs: pytest.fail("weights were read before the check"))
    with pytest.raises(PairMismatch, match=message):
        load_pair(folder / "arm", folder / "other", tokenizer=None)


def test_another_architecture_is_no_pair(folder: Path, native: Native) -> None:
    save_checkpoint(native("qwen2"), folder / "other", MDM)
    with pytest.raises(PairMismatch, match="model_type is llama in arm, qwen2 in mdm"):
        load_pair(folder / "arm", folder / "other", tokenizer=None)


def test_swapped_models_are_refused(folder: Path) -> None:
    with pytest.raises(PairMismatch, match="attention is full in arm, which must be causal"):
        load_pair(folder / "mdm", folder / "arm", tokenizer=None)
    with pytest.raises(PairMismatch, match="attention is causal in mdm, which must be full or block"):
        load_pair(folder / "arm", folder / "control", tokenizer=None)


def test_a_hand_made_pair_is_checked_too(folder: Path) -> None:
    pair = load_pair(folder, tokenizer=None)
    with pytest.raises(PairMismatch, match="attention is full in arm"):
        Pair("mine", pair.mdm, pair.arm)


def test_tokenizers_must_agree_on_what_they_share(folder: Path, native: Native, word_tokenizer: Any) -> None:
    state = word_tokenizer.backend_tokenizer.to_str().replace('"w40":40', '"w40":41').replace('"w41":41', '"w41":40')
    other = type(word_tokenizer)(tokenizer_object=type(word_tokenizer.backend_tokenizer).from_str(state), mask_token="<mask>")
    word_tokenizer.save_pretrained(folder / "arm")
    other.save_pretrained(folder / "mdm")
    with pytest.raises(PairMismatch, match="'w40' is id 40 in arm, 41 in mdm"):
        load_pair(folder / "arm", folder / "mdm")


def test_a_pair_without_its_tokenizer_says_what_to_pass(folder: Path) -> None:
    (folder / "tokenizer").rename(folder / "elsewhere")
    with pytest.raises(FileNotFoundError, match="holds no folder named tokenizer; pass tokenizer=None"):
        load_pair(folder)
    assert load_pair(folder, tokenizer=None).tokenizer is None


def test_configs_of_a_pair_are_completed_role_by_role(folder: Path) -> None:
    for role in ("arm", "mdm"):
        path = folder / role / "config.json"
        values = json.loads(path.read_text())
        del values["rope_parameters"], values["diffusion_spec"]
        path.write_text(json.dumps({key: value for key, value in values.items() if key not in ("rope_theta", "is_causal")}))
    spec: dict[str, Any] = {"diffusion_spec": MDM.to_dict()}
    theta: dict[str, Any] = {"rope_theta": 5e5}
    hows: tuple[dict[str, Any], ...] = ({}, {"config": theta | spec}, {"arm_config": theta})
    for how in hows:
        with pytest.raises(ValueError, match="config.json leaves out rope_theta"):
            load_pair(folder, **how)
    for pair in (
        load_pair(folder, config=theta | spec, arm_config=theta),
        load_pair(folder / "arm", folder / "mdm", config=theta | spec, arm_config=theta, tokenizer=None),
    ):
        assert (pair.arm.spec, pair.mdm.spec) == (DiffusionSpec(), MDM)
        assert "config overridden by the caller: rope_theta = 500000.0" in pair.arm.source["notes"]
