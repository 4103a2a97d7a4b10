"""What is measured on: random Llama models of a stated size, each as a plain Hugging Face model and as a bridge, and random prompts."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl.readouts import Readouts


@dataclass(frozen=True)
class Size:
    """A model's shape, and what it is attributed on: `prompts` of `tokens` tokens, `ig_steps` points on the path."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    prompts: int = 8
    tokens: int = 17
    ig_steps: int = 5
    vocab: int = 1024

    @property
    def intermediate(self) -> int:
        """Width of the MLPs: 8/3 of the model's, as in Llama, rounded up to a multiple of 64."""
        return -(-8 * self.width // (3 * 64)) * 64

    def __str__(self) -> str:
        groups = "" if self.kv_heads == self.heads else f" ({self.kv_heads} KV)"
        model = f"{self.layers} layers × {self.width} wide × {self.heads} heads{groups}"
        return f"{model}, {self.prompts} prompts × {self.tokens} tokens, m = {self.ig_steps}"


def native(size: Size, seed: int = 0) -> LlamaForCausalLM:
    """A random Llama of this size, its parameters frozen."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        use_cache=False,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def ungrouped(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same function without KV groups: each K/V head repeated for its query heads, as the reference code wants its models."""
    config: Any = copy.deepcopy(model.config)
    repeats = config.num_attention_heads // config.num_key_value_heads
    config.num_key_value_heads = config.num_attention_heads
    weights = model.state_dict()
    for name, weight in weights.items():
        if "k_proj" in name or "v_proj" in name:
            heads = weight.reshape(-1, config.head_dim, weight.shape[-1])
            weights[name] = heads.repeat_interleave(repeats, 0).reshape(-1, weight.shape[-1])
    expanded = LlamaForCausalLM(config)
    expanded.load_state_dict(weights)
    return expanded.eval().requires_grad_(False)


def hooked(model: LlamaForCausalLM) -> HookedDiffusionTransformer:
    """The bridge around a copy: wrapping changes the model it is given."""
    return HookedDiffusionTransformer.from_hf(copy.deepcopy(model), name="random Llama")


def prompts(size: Size, seed: int = 0, *, first: int = 1) -> Readouts:
    """Random pairs of prompts that differ in two tokens, from the token `first` on, read at the last position."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(size.vocab, (size.prompts, size.tokens), generator=generator)
    corrupt = clean.clone()
    corrupt[:, first : first + 2] = torch.randint(size.vocab, (size.prompts, 2), generator=generator)
    answers, foils = torch.randint(size.vocab, (2, size.prompts), generator=generator)
    return Readouts.from_tokens(clean, corrupt, torch.full((size.prompts,), size.tokens - 1), answers, foils)
