"""A tiny model and rows that every test of post-training uses."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from hooked_diffusion.posttrain import Rows

MASK = 19


def make_model(layers: int = 1) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=2
    )
    return LlamaForCausalLM(config)


def make_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, n_positions=32))


def rows(n: int = 64, pos: int = 8) -> Rows:
    tokens = torch.arange(n * pos).view(n, pos) % 18
    return Rows(tokens, torch.arange(pos).expand(n, -1) >= 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
