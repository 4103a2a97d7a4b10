"""Public pairs that are known by name: which checkpoints they are, and the shape of their backbone.

Nothing here loads weights: a checkpoint's own `config.json` decides, and differs where these rows are wrong. `evidence` says how a row's
shape is known: "P" from public code (transformers' own defaults), "T" from third parties, "U" unverified; only "P" counts as confirmed.
Licences are as the authors report them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import transformers
from transformers import PretrainedConfig

Evidence = Literal["P", "T", "U"]


@dataclass(frozen=True)
class KnownPair:
    """A public ARM and the MDM post-trained from it: hub ids, the MDM's checkpoint `family`, the native class, and the backbone's shape."""

    name: str
    arm: str
    mdm: str
    family: str
    architecture: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    licence: str
    evidence: Evidence

    @property
    def confirmed(self) -> bool:
        """Whether the shape was read in public code."""
        return self.evidence == "P"

    def config(self) -> PretrainedConfig:
        """The native config of this shape. What does not shape a model (θ, ε) has the class's default: good for planning alone."""
        config_class: Any = getattr(transformers, self.architecture).config_class
        if self.architecture == "GPT2LMHeadModel":
            shape = {"n_layer": self.layers, "n_embd": self.width, "n_head": self.heads, "n_inner": self.intermediate}
        else:
            shape = {
                "num_hidden_layers": self.layers, "hidden_size": self.width, "num_attention_heads": self.heads, "head_dim": self.head_dim,
                "num_key_value_heads": self.kv_heads, "intermediate_size": self.intermediate,
            }  # fmt: skip
        return config_class(**shape, vocab_size=self.vocab, tie_word_embeddings=self.tied, architectures=[self.architecture])


LLAMA, QWEN2, QWEN3, GPT2 = "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel"
APACHE = "Apache-2.0"

# name, ARM, MDM, family, class, layers, width, heads, KV heads, head width, MLP width, vocabulary, tied, licence, evidence
# fmt: off
_ROWS = (
    KnownPair("diffugpt-s", "openai-community/gpt2", "diffusionfamily/diffugpt-s", "diffugpt", GPT2,
              12, 768, 12, 12, 64, 3072, 50257, True, "MIT; " + APACHE, "P"),
    KnownPair("diffugpt-m", "openai-community/gpt2-medium", "diffusionfamily/diffugpt-m", "diffugpt", GPT2,
              24, 1024, 16, 16, 64, 4096, 50258, True, "MIT; " + APACHE, "T"),
    KnownPair("qwen3-0.6b", "Qwen/Qwen3-0.6B", "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1", "a2d-qwen3", QWEN3,
              28, 1024, 16, 8, 128, 3072, 151936, True, APACHE, "T"),
    KnownPair("qwen2.5-coder-0.5b", "Qwen/Qwen2.5-Coder-0.5B-Instruct", "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1",
              "a2d-qwen2", QWEN2, 24, 896, 14, 2, 64, 4864, 151936, True, APACHE, "T"),
    KnownPair("fast-dllm-1.5b", "Qwen/Qwen2.5-1.5B-Instruct", "Efficient-Large-Model/Fast_dLLM_v2_1.5B", "fast-dllm", QWEN2,
              28, 1536, 12, 2, 128, 8960, 151936, True, APACHE, "T"),
    KnownPair("dream-7b", "Qwen/Qwen2.5-7B", "Dream-org/Dream-v0-Base-7B", "dream", QWEN2,
              28, 3584, 28, 4, 128, 18944, 152064, False, APACHE, "T"),
    KnownPair("dream-coder-7b", "Qwen/Qwen2.5-Coder-7B", "Dream-org/Dream-Coder-v0-Base-7B", "dream", QWEN2,
              28, 3584, 28, 4, 128, 18944, 152064, False, APACHE, "T"),
    KnownPair("diffucoder-7b", "Qwen/Qwen2.5-Coder-7B", "apple/DiffuCoder-7B-Base", "dream", QWEN2,
              28, 3584, 28, 4, 128, 18944, 152064, False, "Apache-2.0; Apple", "T"),
    KnownPair("fast-dllm-7b", "Qwen/Qwen2.5-7B-Instruct", "Efficient-Large-Model/Fast_dLLM_v2_7B", "fast-dllm", QWEN2,
              28, 3584, 28, 4, 128, 18944, 152064, False, APACHE, "T"),
    KnownPair("diffullama-7b", "meta-llama/Llama-2-7b-hf", "diffusionfamily/diffullama", "llama", LLAMA,
              32, 4096, 32, 32, 128, 11008, 32000, False, "Llama 2", "T"),
)
# fmt: on
KNOWN_PAIRS: dict[str, KnownPair] = {row.name: row for row in _ROWS}
