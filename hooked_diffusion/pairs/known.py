"""Public pairs that are known by name: which checkpoints they are, and the shape of their backbone.

Nothing here loads weights, and a checkpoint's own `config.json` always decides: it differs where a row here is wrong. `evidence` says how
the shape of a row is known: "P" from public code (transformers' own defaults), "T" from third parties, "U" unverified. Only "P" counts as
confirmed. Licences are as third parties report them: read the model's own page before you rely on one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import transformers
from accelerate import init_empty_weights
from transformers import PretrainedConfig

from hooked_diffusion.checkpoints.config import make_config

if TYPE_CHECKING:
    import pandas as pd

Evidence = Literal["P", "T", "U"]
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class KnownPair:
    """A public ARM and the MDM post-trained from it: hub ids, the MDM's checkpoint `family`, the native class, and the backbone's shape.

    `arm` is None for an MDM trained from scratch: it is no pair, but it opens as a model. `control` is True where the model was trained for
    diffusion but attends causally: it is a control beside a pair, not the MDM of one. `vocab` counts the MDM's rows.
    """

    name: str
    arm: str | None
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
    control: bool = False

    @property
    def confirmed(self) -> bool:
        """Whether the shape was read in public code."""
        return self.evidence == "P"

    def config(self) -> PretrainedConfig:
        """The native config of this shape, for planning alone.

        Fields that do not change the shape of a model (θ, ε) have the class's defaults.
        """
        shape: dict[str, object]
        if self.architecture == "GPT2LMHeadModel":
            shape = {"n_layer": self.layers, "n_embd": self.width, "n_head": self.heads, "n_inner": self.intermediate}
        else:
            shape = {
                "num_hidden_layers": self.layers, "hidden_size": self.width, "num_attention_heads": self.heads, "head_dim": self.head_dim,
                "num_key_value_heads": self.kv_heads, "intermediate_size": self.intermediate,
            }  # fmt: skip
        rows = {"vocab_size": self.vocab, "tie_word_embeddings": self.tied}
        return make_config(getattr(transformers, self.architecture), {**shape, **rows})

    @cached_property
    def parameters(self) -> int:
        """Parameters of one model of the pair, counted on a native model without memory."""
        with init_empty_weights():
            model = getattr(transformers, self.architecture)(self.config())
        # A tied weight is one parameter: `parameters` lists it once.
        model.tie_weights()
        return sum(parameter.numel() for parameter in model.parameters())

    def memory(self, dtype: str = "bfloat16") -> float:
        """GiB that the weights of the pair take in `dtype`, "float32" or "bfloat16"; activations come on top."""
        return self.parameters * BYTES[dtype] * (2 if self.arm else 1) / 2**30


LLAMA, QWEN2, QWEN3, GPT2 = "LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel"
APACHE, MIT = "Apache-2.0", "MIT"

# name, ARM, MDM, family, class, layers, width, heads, KV heads, head width, MLP width, vocabulary, tied, licence, evidence
# fmt: off
_ROWS = (
    KnownPair("diffugpt-s", "openai-community/gpt2", "diffusionfamily/diffugpt-s", "diffugpt", GPT2,
              12, 768, 12, 12, 64, 3072, 50257, True, "MIT; " + APACHE, "P"),
    KnownPair("diffugpt-m", "openai-community/gpt2-medium", "diffusionfamily/diffugpt-m", "diffugpt", GPT2,
              24, 1024, 16, 16, 64, 4096, 50258, True, "MIT; " + APACHE, "T"),
    KnownPair("qwen2.5-coder-0.5b-a2d", "Qwen/Qwen2.5-Coder-0.5B-Instruct", "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1",
              "a2d-qwen2", QWEN2, 24, 896, 14, 2, 64, 4864, 151936, True, APACHE, "T"),
    KnownPair("qwen3-0.6b-a2d", "Qwen/Qwen3-0.6B", "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1", "a2d-qwen3", QWEN3,
              28, 1024, 16, 8, 128, 3072, 151936, True, APACHE, "T"),
    KnownPair("qwen3-0.6b-a2d-bd3lm", "Qwen/Qwen3-0.6B", "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1", "a2d-qwen3-bd3lm", QWEN3,
              28, 1024, 16, 8, 128, 3072, 151936, True, APACHE, "T"),
    KnownPair("fast-dllm-v2-1.5b", "Qwen/Qwen2.5-1.5B-Instruct", "Efficient-Large-Model/Fast_dLLM_v2_1.5B", "fast-dllm-v2", QWEN2,
              28, 1536, 12, 2, 128, 8960, 151936, True, APACHE, "T"),
    KnownPair("sdar-1.7b", "Qwen/Qwen3-1.7B-Base", "JetLM/SDAR-1.7B-Chat", "sdar", QWEN3,
              28, 2048, 16, 8, 128, 6144, 151936, False, APACHE, "T"),
    KnownPair("sdar-4b", "Qwen/Qwen3-4B-Base", "JetLM/SDAR-4B-Chat", "sdar", QWEN3,
              36, 2560, 32, 8, 128, 9728, 151936, False, APACHE, "U"),
    KnownPair("sdar-8b", "Qwen/Qwen3-8B-Base", "JetLM/SDAR-8B-Chat", "sdar", QWEN3,
              36, 4096, 32, 8, 128, 12288, 151936, False, APACHE, "U"),
    KnownPair("opdlm-0.6b", "Qwen/Qwen3-0.6B", "divelab/OPDLM-0.6B", "opdlm", QWEN3,
              28, 1024, 16, 8, 128, 3072, 151936, True, "MIT; " + APACHE, "T"),
    KnownPair("opdlm-1.7b", "Qwen/Qwen3-1.7B", "divelab/OPDLM-1.7B", "opdlm", QWEN3,
              28, 2048, 16, 8, 128, 6144, 151936, True, "MIT; " + APACHE, "U"),
    KnownPair("opdlm-4b", "Qwen/Qwen3-4B", "divelab/OPDLM-4B", "opdlm", QWEN3,
              36, 2560, 32, 8, 128, 9728, 151936, True, "MIT; " + APACHE, "U"),
    KnownPair("opdlm-8b", "Qwen/Qwen3-8B", "divelab/OPDLM-8B", "opdlm", QWEN3,
              36, 4096, 32, 8, 128, 12288, 151936, False, "MIT; " + APACHE, "U"),
    KnownPair("qwen3-0.6b-a2d-init", "Qwen/Qwen3-0.6B", "divelab/Qwen3-0.6B-a2d-init", "a2d-init", QWEN3,
              28, 1024, 16, 8, 128, 3072, 151936, True, "MIT; " + APACHE, "U"),
    KnownPair("open-dcoder-0.5b", "Qwen/Qwen2.5-Coder-0.5B", "fredzzp/open-dcoder-0.5B", "open-dcoder", QWEN2,
              24, 896, 14, 2, 64, 4864, 151936, True, APACHE, "T"),
    KnownPair("coda-1.7b", "Qwen/Qwen3-1.7B", "Salesforce/CoDA-v0-Base", "coda", QWEN3,
              28, 2048, 16, 8, 128, 6144, 151936, True, "CC-BY-NC-4.0; " + APACHE, "T"),
    KnownPair("efficient-dlm-4b", "Qwen/Qwen3-4B", "nvidia/Efficient-DLM-4B", "efficient-dlm", QWEN3,
              36, 2560, 32, 8, 128, 9728, 151936, False, "CC-BY-NC-4.0; " + APACHE, "P"),
    KnownPair("efficient-dlm-8b", "Qwen/Qwen3-8B", "nvidia/Efficient-DLM-8B", "efficient-dlm", QWEN3,
              36, 4096, 32, 8, 128, 12288, 151936, False, "CC-BY-NC-4.0; " + APACHE, "U"),
    KnownPair("wedlm-7b", "Qwen/Qwen2.5-7B", "tencent/WeDLM-7B-Base", "wedlm-qwen2", QWEN2,
              28, 3584, 28, 4, 128, 18944, 152064, False, APACHE, "T", control=True),
    KnownPair("wedlm-8b", "Qwen/Qwen3-8B-Base", "tencent/WeDLM-8B-Base", "wedlm-qwen3", QWEN3,
              36, 4096, 32, 8, 128, 12288, 151936, False, APACHE, "T", control=True),
    KnownPair("i-dlm-8b", "Qwen/Qwen3-8B", "yifanyu/I-DLM-8B", "i-dlm", QWEN3,
              36, 4096, 32, 8, 128, 12288, 151936, False, "BSD-3-Clause; " + APACHE, "U", control=True),
    KnownPair("illada-8b", None, "GSAI-ML/iLLaDA-8B-Base", "illada", LLAMA,
              32, 4096, 32, 8, 128, 14336, 155136, True, APACHE, "U"),
    KnownPair("diffullama-7b", "meta-llama/Llama-2-7b-hf", "diffusionfamily/diffullama", "diffullama", LLAMA,
              32, 4096, 32, 32, 128, 11008, 32000, False, "Llama 2; " + APACHE, "T"),
    KnownPair("dream-7b", "Qwen/Qwen2.5-7B", "Dream-org/Dream-v0-Base-7B", "dream", QWEN2,
              28, 3584, 28, 4, 128, 18944, 152064, False, APACHE, "T"),
    KnownPair("dream-7b-instruct", "Qwen/Qwen2.5-7B", "Dream-org/Dream-v0-Instruct-7B", "dream", QWEN2,
              28, 3584, 28, 4, 128, 18944, 152064, False, APACHE, "T"),
    KnownPair("dream-coder-7b", "Qwen/Qwen2.5-Coder-7B", "Dream-org/Dream-Coder-v0-Base-7B", "dream", QWEN2,
              28, 3584, 28, 4, 128, 18944, 152064, False, APACHE, "T"),
    KnownPair("diffucoder-7b", "Qwen/Qwen2.5-Coder-7B", "apple/DiffuCoder-7B-Base", "dream", QWEN2,
              28, 3584, 28, 4, 128, 18944, 152064, False, APACHE, "T"),
    KnownPair("fast-dllm-v2-7b", "Qwen/Qwen2.5-7B-Instruct", "Efficient-Large-Model/Fast_dLLM_v2_7B", "fast-dllm-v2", QWEN2,
              28, 3584, 28, 4, 128, 18944, 152064, False, APACHE, "T"),
    KnownPair("llada-8b", None, "GSAI-ML/LLaDA-8B-Base", "llada", LLAMA,
              32, 4096, 32, 32, 128, 12288, 126464, False, MIT, "T"),
    KnownPair("llada-8b-instruct", None, "GSAI-ML/LLaDA-8B-Instruct", "llada", LLAMA,
              32, 4096, 32, 32, 128, 12288, 126464, False, MIT, "T"),
    KnownPair("llada-1.5", None, "GSAI-ML/LLaDA-1.5", "llada", LLAMA,
              32, 4096, 32, 32, 128, 12288, 126464, False, MIT, "T"),
)
# fmt: on
KNOWN_PAIRS: dict[str, KnownPair] = {row.name: row for row in _ROWS}


def models() -> pd.DataFrame:
    """One row per known pair, in order of size: names, hub ids, licence, parameters in millions, GiB of the pair's weights in bfloat16.

    A model post-trained for diffusion under causal attention is marked as a control.
    """
    import pandas as pd

    rows = [
        {
            "name": row.name,
            "ARM": row.arm or "none",
            "MDM": f"{row.mdm} (control)" if row.control else row.mdm,
            "family": row.family,
            "licence": row.licence,
            "M parameters": round(row.parameters / 1e6),
            "GiB (bf16)": round(row.memory(), 1),
            "evidence": row.evidence,
        }
        for row in sorted(_ROWS, key=lambda row: row.parameters)
    ]
    return pd.DataFrame(rows)
