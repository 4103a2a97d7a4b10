"""The natural pairs: public MDMs, each beside the ARM it was post-trained from, by short names that `load_pair` takes.

A row says what is reported of a pair before anything is fetched; opening it reads the checkpoints' own configs, which win. Evidence: [P]
read in the model's own public code, [R] run, [T] third-party text, [U] unverified; it covers ids and shape, and licences are [T]
throughout: read the model's own page before you rely on one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Shape:
    """The backbone that a pair shares. `d_vocab` counts the MDM's rows, `n_ctx` learned positions (0 with RoPE)."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    d_mlp: int
    d_vocab: int
    tied: bool = False
    n_ctx: int = 0

    def parameters(self, native_class: str) -> int:
        """How many parameters a model of `native_class` has in this shape."""
        d, heads, kv = self.d_model, self.n_heads * self.d_head, self.n_kv_heads * self.d_head
        attention, mlp, norms = 2 * d * heads + 2 * d * kv, 3 * d * self.d_mlp, 2 * d
        if native_class == "GPT2LMHeadModel":
            mlp, norms = 2 * d * self.d_mlp + self.d_mlp + d, 4 * d
            attention += 4 * d
        elif native_class == "Qwen2ForCausalLM":
            attention += heads + 2 * kv
        elif native_class == "Qwen3ForCausalLM":
            attention += 2 * self.d_head
        final = 2 * d if native_class == "GPT2LMHeadModel" else d
        ends = (1 if self.tied else 2) * self.d_vocab * d + self.n_ctx * d + final
        return self.n_layers * (attention + mlp + norms) + ends


@dataclass(frozen=True)
class KnownPair:
    """A natural pair: short `name`, hub ids, the MDM's `family`, the native class, its shape, the ARM's and the MDM's licence, evidence.

    `arm` is None for an MDM trained from scratch, which is no pair but can be opened. `arm_config` completes the ARM's `config.json`.
    """

    name: str
    arm: str | None
    mdm: str
    family: str
    native_class: str
    shape: Shape
    licences: tuple[str, str]
    evidence: str
    arm_config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Parameters of one model of the pair."""
        return self.shape.parameters(self.native_class)

    def memory(self, dtype: str = "bfloat16") -> float:
        """GiB that the weights of the pair take in `dtype`, "float32" or "bfloat16"; activations come on top."""
        return self.parameters * BYTES[dtype] * (2 if self.arm else 1) / 2**30


_7B = Shape(28, 3584, 28, 4, 128, 18944, 152064)
_LLADA = Shape(32, 4096, 32, 32, 128, 12288, 126464)
_APACHE = ("apache-2.0", "apache-2.0")
_QWEN2, _QWEN3, _LLAMA, _GPT2 = "Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM", "GPT2LMHeadModel"
_ROWS = (
    KnownPair(
        "diffugpt-s", "openai-community/gpt2", "diffusionfamily/diffugpt-s", "diffugpt", _GPT2,
        Shape(12, 768, 12, 12, 64, 3072, 50257, True, 1024), ("mit", "apache-2.0"), "[P][R]",
    ),
    KnownPair(
        "diffugpt-m", "openai-community/gpt2-medium", "diffusionfamily/diffugpt-m", "diffugpt", _GPT2,
        Shape(24, 1024, 16, 16, 64, 4096, 50258, True, 1024), ("mit", "apache-2.0"), "[P][T]",
    ),
    KnownPair(
        "qwen2.5-coder-0.5b-a2d", "Qwen/Qwen2.5-Coder-0.5B-Instruct", "dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1",
        "a2d-qwen2", _QWEN2, Shape(24, 896, 14, 2, 64, 4864, 151936, True), _APACHE, "[P][T]",
    ),
    KnownPair(
        "qwen3-0.6b-a2d", "Qwen/Qwen3-0.6B", "dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1", "a2d-qwen3", _QWEN3,
        Shape(28, 1024, 16, 8, 128, 3072, 151936, True), _APACHE, "[P][R][T]",
    ),
    KnownPair(
        "qwen3-0.6b-a2d-bd3lm", "Qwen/Qwen3-0.6B", "dllm-hub/Qwen3-0.6B-diffusion-bd3lm-v0.1", "a2d-qwen3-bd3lm", _QWEN3,
        Shape(28, 1024, 16, 8, 128, 3072, 151936, True), _APACHE, "[P][T]",
    ),
    KnownPair(
        "fast-dllm-v2-1.5b", "Qwen/Qwen2.5-1.5B-Instruct", "Efficient-Large-Model/Fast_dLLM_v2_1.5B", "fast-dllm-v2", _QWEN2,
        Shape(28, 1536, 12, 2, 128, 8960, 151936, True), _APACHE, "[T]",
    ),
    KnownPair(
        "sdar-1.7b", "Qwen/Qwen3-1.7B-Base", "JetLM/SDAR-1.7B-Chat", "sdar", _QWEN3,
        Shape(28, 2048, 16, 8, 128, 6144, 151936), _APACHE, "[T]; ARM [U]",
    ),
    KnownPair(
        "sdar-4b", "Qwen/Qwen3-4B-Base", "JetLM/SDAR-4B-Chat", "sdar", _QWEN3,
        Shape(36, 2560, 32, 8, 128, 9728, 151936), _APACHE, "[T]; ARM [U]",
    ),
    KnownPair(
        "sdar-8b", "Qwen/Qwen3-8B-Base", "JetLM/SDAR-8B-Chat", "sdar", _QWEN3,
        Shape(36, 4096, 32, 8, 128, 12288, 151936), _APACHE, "[T]; ARM [U]",
    ),
    KnownPair(
        "diffullama-7b", "meta-llama/Llama-2-7b-hf", "diffusionfamily/diffullama", "diffullama", _LLAMA,
        Shape(32, 4096, 32, 32, 128, 11008, 32000), ("llama2", "apache-2.0"), "[P]; rows [U]",
        arm_config={"rope_theta": 10000.0},  # fixed in Llama 2's own code, and not in its config [P]
    ),
    KnownPair("dream-7b", "Qwen/Qwen2.5-7B", "Dream-org/Dream-v0-Base-7B", "dream", _QWEN2, _7B, _APACHE, "[P][R][T]"),
    KnownPair("dream-7b-instruct", "Qwen/Qwen2.5-7B", "Dream-org/Dream-v0-Instruct-7B", "dream", _QWEN2, _7B, _APACHE, "[P][R][T]"),
    KnownPair("dream-coder-7b", "Qwen/Qwen2.5-Coder-7B", "Dream-org/Dream-Coder-v0-Base-7B", "dream", _QWEN2, _7B, _APACHE, "[T]"),
    KnownPair("diffucoder-7b", "Qwen/Qwen2.5-Coder-7B", "apple/DiffuCoder-7B-Base", "dream", _QWEN2, _7B, _APACHE, "[T]"),
    KnownPair(
        "fast-dllm-v2-7b", "Qwen/Qwen2.5-7B-Instruct", "Efficient-Large-Model/Fast_dLLM_v2_7B", "fast-dllm-v2", _QWEN2, _7B, _APACHE,
        "[T]",
    ),
    KnownPair("llada-8b", None, "GSAI-ML/LLaDA-8B-Base", "llada", _LLAMA, _LLADA, ("", "mit"), "[P][R][T]"),
    KnownPair("llada-8b-instruct", None, "GSAI-ML/LLaDA-8B-Instruct", "llada", _LLAMA, _LLADA, ("", "mit"), "[P][R][T]"),
    KnownPair("llada-1.5", None, "GSAI-ML/LLaDA-1.5", "llada", _LLAMA, _LLADA, ("", "mit"), "[T]"),
)  # fmt: skip
KNOWN = {row.name: row for row in _ROWS}


def models() -> pd.DataFrame:
    """One row per known pair, in order of size: names, hub ids, licences, parameters, and GiB of the pair's weights in bfloat16."""
    import pandas as pd

    rows = [
        {
            "name": row.name,
            "ARM": row.arm or "none",
            "MDM": row.mdm,
            "family": row.family,
            "licence": " / ".join(filter(None, row.licences)),
            "parameters": f"{row.parameters / 1e9:.2f} B" if row.parameters > 1e9 else f"{row.parameters / 1e6:.0f} M",
            "GiB (bf16)": round(row.memory(), 1),
            "evidence": row.evidence,
        }
        for row in sorted(_ROWS, key=lambda row: row.parameters)
    ]
    return pd.DataFrame(rows)
