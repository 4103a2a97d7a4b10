"""One hooked model class for ARMs and MDMs.

`HookedDiffusionTransformer` is a TransformerLens bridge around a native Hugging Face model. What it adds to its base:

1. a `DiffusionSpec` that says how the checkpoint is read;
2. attention that really is bidirectional when the spec says full: Hugging Face's own mask and the triangle that TransformerLens draws when
   it rebuilds attention are both switched, before the bridge is built, and a self-test proves the result on the loaded weights;
3. `token_logits`, whose row p is the prediction for the token at p, whatever the shift;
4. denoising: `denoise` and `run_with_denoising_cache`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module

from hooked_diffusion.spec import DiffusionSpec

if TYPE_CHECKING:
    from hooked_diffusion.denoising.cache import DenoisingCache
    from hooked_diffusion.denoising.trajectory import DenoisingTrajectory

SUPPORTED_CLASSES = ("LlamaForCausalLM", "Qwen2ForCausalLM")


class HookedDiffusionTransformer(TransformerBridge):
    """A TransformerLens bridge that reads ARMs and MDMs alike; see the module docstring. Make one with `from_pretrained` or `from_hf`."""

    spec: DiffusionSpec
    #: Where the weights came from, for provenance: name, revision, hash, notes.
    source: dict[str, Any]

    @classmethod
    def from_hf(
        cls, hf_model: nn.Module, tokenizer: Any = None, spec: DiffusionSpec | None = None, *, name: str = "external"
    ) -> HookedDiffusionTransformer:
        """Wrap a native Hugging Face `LlamaForCausalLM` or `Qwen2ForCausalLM`; the model is modified in place, as every bridge does.

        `spec` defaults to a plain ARM. Raises TypeError on another class, ValueError when the mask id lies outside the vocabulary or when
        the self-test finds the attention pointing another way than the spec says.
        """
        spec = spec or DiffusionSpec()
        architecture = type(hf_model).__name__
        if architecture not in SUPPORTED_CLASSES:
            raise TypeError(f"from_hf takes {' or '.join(SUPPORTED_CLASSES)}, got {architecture}; load other checkpoints by from_pretrained")
        config: Any = hf_model.config
        if spec.mask_token_id is not None and spec.mask_token_id >= config.vocab_size:
            raise ValueError(f"{name}: mask token id {spec.mask_token_id} lies outside the vocabulary of {config.vocab_size}")
        config.is_causal = spec.attention == "causal"
        config.use_cache = False
        bridge = build_bridge_from_module(
            hf_model.eval(), architecture, hf_config=config, tokenizer=tokenizer, model_name=name, post_adapter_hook=_direct_attention(spec)
        )
        bridge.__class__ = cls
        model: HookedDiffusionTransformer = bridge  # type: ignore[assignment]
        model.spec = spec
        model.source = {"name": name}
        model.check_attention()
        return model

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        family: str | None = None,
        tokenizer: Any = "auto",
        revision: str | None = None,
        dtype: torch.dtype | str | None = None,
        device: str | torch.device | None = None,
    ) -> HookedDiffusionTransformer:
        """Open a checkpoint: a local folder, a GGUF file, or a hub id (`org/name@revision`).

        `family` overrides what the config says; `tokenizer="auto"` loads the checkpoint's own, None opens the model for token ids alone.
        Nothing remote is executed and nothing pickled is read. Raises FileNotFoundError for a path without a config, ValueError for a
        config that leaves out what must be stated, `CheckpointMismatch` for missing, extra or misshaped keys (it names them).
        """
        from hooked_diffusion.checkpoints.loading import load_checkpoint

        loaded = load_checkpoint(name_or_path, family=family, tokenizer=tokenizer, revision=revision, dtype=dtype, device=device)
        model = cls.from_hf(loaded.hf_model, loaded.tokenizer, loaded.spec, name=str(name_or_path))
        model.source = loaded.source
        return model

    def forward(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        """TransformerLens' forward without a key/value cache: raw, unshifted logits; token tensors get no BOS."""
        if not kwargs.get("use_past_kv_cache") and kwargs.get("past_key_values") is None:
            kwargs.setdefault("use_cache", False)
        return super().forward(input, *args, **kwargs)

    @torch.no_grad()
    def check_attention(self) -> None:
        """Prove the direction of attention: editing the last token changes earlier logits by exactly 0 when causal, by more when full.

        Raises ValueError naming the model and what was seen.
        """
        tokens = torch.arange(6, device=self.cfg.device).remainder(self.cfg.d_vocab)[None]
        edited = tokens.clone()
        edited[0, -1] = (edited[0, -1] + 1) % self.cfg.d_vocab
        change = (self(tokens)[:, :-1] - self(edited)[:, :-1]).abs().max().item()
        if (change == 0) != (self.spec.attention == "causal"):
            raise ValueError(
                f"{self.cfg.model_name}: spec says {self.spec.attention} attention, but editing the last token changes earlier logits by "
                f"{change:.2e}. Pass the spec that the checkpoint was trained with."
            )

    def token_logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits aligned with the tokens they predict: row p is the prediction *for* the token at p.

        With `logit_shift` 1 row p is the raw row p − 1. Nothing precedes position 0, so its row repeats raw row 0 (as Dream's sampler does):
        finite, but not a prediction. Put BOS or a prompt token there.
        """
        logits = self(tokens)
        return logits if self.spec.logit_shift == 0 else torch.cat([logits[:, :1], logits[:, :-1]], dim=1)


def _direct_attention(spec: DiffusionSpec):
    """The hook that tells TransformerLens' attention its direction before the bridge exists (afterwards, writes reach the wrapped module only)."""

    def configure(adapter: Any) -> None:
        causal = spec.attention == "causal"
        adapter.component_mapping["blocks"].submodules["attn"].is_causal = causal
        adapter.cfg.attention_dir = "causal" if causal else "bidirectional"
        adapter.supports_causal_loss = causal

    return configure
