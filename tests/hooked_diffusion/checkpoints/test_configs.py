"""What each of the real configs beside the repository becomes: how it is read, or the sentence that refuses it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hooked_diffusion import DiffusionSpec
from hooked_diffusion.checkpoints import inspect_checkpoint

ARM = DiffusionSpec()
USUAL_MASK = "mask_token_id = {}, as is usual for {}: neither config, tokenizer nor name states it"
#: File → family, spec, and what its notes say, in order.
READ: dict[str, tuple[str, DiffusionSpec, list[str]]] = {
    "Dream-org__Dream-v0-Instruct-7B": ("dream", DiffusionSpec("full", 1, 151666), []),
    "apple__DiffuCoder-7B-Instruct": ("dream", DiffusionSpec("full", 1, 151666), []),
    "Efficient-Large-Model__Fast_dLLM_v2_1.5B": (
        "fast-dllm-v2",
        DiffusionSpec("block", 1, 151665, bos="none", block_length=32),
        [USUAL_MASK.format(151665, "fast-dllm-v2")],
    ),
    "GSAI-ML__LLaDA-8B-Instruct": ("llada", DiffusionSpec("full", 0, 126336), []),
    "hxhcreate__LLaDA-8B-Instruct-DARE": ("llada", DiffusionSpec("full", 0, 126336), []),
    "JetLM__SDAR-1.7B-Chat": (
        "sdar",
        DiffusionSpec("block", 0, 151669, bos="none", block_length=4),
        ["block_size = 4, as is usual for sdar: neither config, tokenizer nor name states it", USUAL_MASK.format(151669, "sdar")],
    ),
    "JetLM__SDAR-4B-Chat": (
        "sdar",
        DiffusionSpec("block", 0, 151669, bos="none", block_length=4),
        ["block_size = 4, as is usual for sdar: neither config, tokenizer nor name states it", USUAL_MASK.format(151669, "sdar")],
    ),
    "JetLM__SDAR-4B-Chat-b64": (
        "sdar",
        DiffusionSpec("block", 0, 151669, bos="none", block_length=64),
        ["block_size = 64, which the config leaves out: told by the name SDAR-4B-Chat-b64", USUAL_MASK.format(151669, "sdar")],
    ),
    "hxhcreate__SDAR-1dot7B-Chat-training": ("sdar", DiffusionSpec("block", 0, 151669, bos="none", block_length=4), []),
    "dllm-hub__Qwen3-0.6B-diffusion-bd3lm-v0.1": (
        "a2d-qwen3-bd3lm",
        DiffusionSpec("block", 0, 151669, bos="none", block_length=32),
        [USUAL_MASK.format(151669, "a2d-qwen3-bd3lm")],
    ),
    "dllm-hub__Qwen3-0.6B-diffusion-mdlm-v0.1": (
        "a2d-qwen3",
        DiffusionSpec("full", 0, 151669, bos="none"),
        [
            "read as a2d-qwen3; the config of a2d-qwen3-bd3lm looks the same: pass family='a2d-qwen3-bd3lm' for one",
            USUAL_MASK.format(151669, "a2d-qwen3"),
        ],
    ),
    "nvidia__Efficient-DLM-4B": ("efficient-dlm", DiffusionSpec("block", 0, 151662, mask_is_reused=True, bos="none", block_length=32), []),
    "diffusionfamily__diffugpt-s": (
        "diffugpt",
        DiffusionSpec("full", 1, 10541, mask_is_reused=True, bos="required"),
        ["vocabulary of 50257 without a look at the stored embedding, which decides, and with it the mask token"],
    ),
    "diffusionfamily__diffullama": (
        "diffullama",
        DiffusionSpec("full", 1, 811, mask_is_reused=True),
        ["read as an MDM with full attention and logit shift 1, by its name or family=: its config is a causal Llama's"],
    ),
    "myduy__test-diffusionlm-v2": (
        "diffullama",
        DiffusionSpec("full", 1, 811, mask_is_reused=True),
        [
            "read as an MDM with full attention and logit shift 1, by its name or family=: its config is a causal Llama's",
            "read as diffullama, not llama: its config was saved from diffusionfamily/diffullama",
        ],
    ),
    "meta-llama__Llama-2-7b-hf": (
        "llama",
        ARM,
        ["rope_theta = 10000.0, which the config leaves out: known of Llama-2-7b-hf, by Llama 2's own code"],
    ),
    "Qwen__Qwen2.5-7B": ("qwen2", ARM, []),
    "ilyassLambardi__Qwen2.5-1.5B-Instruct-v5": ("qwen2", ARM, []),
    "Qwen__Qwen3-0.6B": ("qwen3", ARM, []),
    "Qwen__Qwen3-8B": ("qwen3", ARM, []),
    "unsloth__Qwen3-8B": ("qwen3", ARM, []),
    "openai-community__gpt2": ("gpt2", ARM, []),
    "openai-community__gpt2-medium": ("gpt2", ARM, []),
    "openai-community__gpt2-medium@0a83037": (
        "gpt2",
        ARM,
        ["activation_function = gelu_new, which the config leaves out: known of gpt2-medium, by GPT-2's own code"],
    ),
}  # fmt: skip
#: File → a part of the sentence.
REFUSED = {
    "autoprogrammer__sdar_4b_multi_block_causal-final": "says block_causal_prompt = True, which nothing here knows for sdar checkpoints",
    "tencent__WeDLM-7B-Base": "leaves out vocab_size, rope_theta, use_sliding_window",  # the text ends after rms_norm_eps
}


@pytest.mark.shared
def test_every_config_is_in_a_table(shared: Path) -> None:
    assert {path.stem for path in (shared / "configs").glob("*.json")} == READ.keys() | REFUSED.keys()


@pytest.mark.shared
@pytest.mark.parametrize("name", READ)
def test_a_config_is_read_as_its_authors_meant(shared: Path, tmp_path: Path, name: str) -> None:
    """From the file itself, from a folder of the same name, from Hugging Face's cache, and from a plain folder with `family=`."""
    family, spec, notes = READ[name]
    path = shared / "configs" / f"{name}.json"
    reading = inspect_checkpoint(path)
    assert (reading.adapter.family, reading.spec, list(reading.notes)) == (family, spec, notes)
    revision = name.partition("@")[0]
    for folder in (tmp_path / name, tmp_path / "hub" / f"models--{revision.replace('__', '--')}" / "snapshots" / "0c5a"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(path.read_text())
        again = inspect_checkpoint(folder)
        assert (again.adapter.family, again.spec, again.notes) == (family, spec, reading.notes)


@pytest.mark.shared
@pytest.mark.parametrize("name", REFUSED)
def test_a_config_is_refused_in_one_sentence(shared: Path, name: str) -> None:
    with pytest.raises(ValueError, match=REFUSED[name]) as caught:
        inspect_checkpoint(shared / "configs" / f"{name}.json")
    assert "\n" not in str(caught.value)


@pytest.mark.shared
def test_a_name_is_no_config(shared: Path, tmp_path: Path) -> None:
    """The same configs under a name that tells nothing: what only the name could tell is noted or refused, never guessed."""
    plain = tmp_path / "plain"
    plain.mkdir()

    def at(name: str, **changes: object) -> Path:
        values = json.loads((shared / "configs" / f"{name}.json").read_text()) | changes
        (plain / "config.json").write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        return plain

    reading = inspect_checkpoint(at("JetLM__SDAR-4B-Chat-b64"))
    assert reading.spec.block_length == 4 and "block_size = 4, as is usual for sdar" in reading.notes[0]
    with pytest.raises(ValueError, match="leaves out rope_theta"):
        inspect_checkpoint(at("meta-llama__Llama-2-7b-hf", _name_or_path=None))
    assert inspect_checkpoint(at("meta-llama__Llama-2-7b-hf")).native.rope_parameters["rope_theta"] == 1e4
    reading = inspect_checkpoint(at("diffusionfamily__diffullama", _name_or_path=None))
    assert reading.adapter.family == "llama" and "the config of diffullama looks the same" in reading.notes[0]
    with pytest.raises(ValueError, match="leaves out activation_function"):
        inspect_checkpoint(at("openai-community__gpt2-medium@0a83037"))
