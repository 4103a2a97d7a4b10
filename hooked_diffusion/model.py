"""One hooked model class for ARMs and MDMs.

`HookedDiffusionTransformer` is a TransformerLens bridge around a native Hugging Face model. What it adds to its base:

1. a `DiffusionSpec` that says how the checkpoint is read;
2. attention that really is bidirectional when the spec says full: Hugging Face's own mask and the triangle that TransformerLens draws when
   it rebuilds attention are both switched, before the bridge is built, and a self-test proves the result on the loaded weights;
3. padding masks that mean the same under every direction, and `attention`, which switches the direction for a while;
4. `token_logits`, whose row p is the prediction for the token at p, whatever the shift;
5. denoising, watched and steered: `DenoisingMethods`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.utilities.multi_gpu import find_embedding_device
from transformer_lens.utilities.tokenize_utils import get_attention_mask

from hooked_diffusion.architectures import NATIVE, direct_attention
from hooked_diffusion.attention import Direction, attention_mask_4d, check_visible, position_ids
from hooked_diffusion.checkpoints.loading import load_checkpoint
from hooked_diffusion.checkpoints.placement import main_device
from hooked_diffusion.denoising.methods import DenoisingMethods
from hooked_diffusion.spec import DiffusionSpec
from hooked_diffusion.tokenizers import check_bos, check_tokenizer, without_remote_code

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from hooked_diffusion.checkpoints.loading import OpenSettings


class HookedDiffusionTransformer(DenoisingMethods, TransformerBridge):
    """A TransformerLens bridge that reads ARMs and MDMs alike; see the module docstring. Make one with `from_pretrained` or `from_hf`."""

    spec: DiffusionSpec
    #: Where the weights came from, for provenance: name, revision, hash, notes.
    source: dict[str, Any]
    #: The direction that `attention` has switched to; None for the model's own.
    _switched: Direction | None = None

    @classmethod
    def from_hf(
        cls, hf_model: nn.Module, tokenizer: Any = None, spec: DiffusionSpec | None = None, *, name: str = "external"
    ) -> HookedDiffusionTransformer:
        """Wrap a native Hugging Face `LlamaForCausalLM`, `Qwen2ForCausalLM`, `Qwen3ForCausalLM` or `GPT2LMHeadModel`, in place.

        `spec` defaults to a plain ARM. Raises TypeError on another class, ValueError when the mask id lies outside the vocabulary, when the
        tokenizer is another model's, or when the self-test finds the attention pointing another way than the spec says.
        """
        spec = spec or DiffusionSpec()
        architecture = type(hf_model).__name__
        if architecture not in NATIVE:
            raise TypeError(f"from_hf takes {' or '.join(NATIVE)}, got {architecture}; open other checkpoints by from_pretrained")
        config: Any = hf_model.config
        if spec.mask_token_id is not None and spec.mask_token_id >= config.vocab_size:
            raise ValueError(f"{name}: mask token id {spec.mask_token_id} lies outside the vocabulary of {config.vocab_size}")
        check_tokenizer(name, tokenizer, config.vocab_size, spec)
        config.is_causal = spec.attention == "causal"
        config.use_cache = False
        with without_remote_code(tokenizer):
            bridge = build_bridge_from_module(
                hf_model.eval(),
                architecture,
                hf_config=config,
                tokenizer=tokenizer,
                model_name=name,
                device=_input_device(hf_model),
                post_adapter_hook=_direct_attention(spec),
            )
        bridge.__class__ = cls
        model = cast(HookedDiffusionTransformer, bridge)
        model.spec = spec
        model.source = {"name": name}
        if spec.bos != "tokenizer":
            model.cfg.default_prepend_bos = spec.bos == "required"
        model.check_attention()
        return model

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **settings: Unpack[OpenSettings]) -> HookedDiffusionTransformer:
        """Open a checkpoint: a local folder, a GGUF file, or a hub id (`org/name@revision`).

        The settings, all optional, are `family`, `revision` and `config` (how the config is read), `tokenizer`, `dtype`, `device` and
        `device_map`; `checkpoints.loading.OpenSettings` says what each means. `tokenizer=None` opens the model for token ids alone.
        Modules that `device_map` puts on disk read their weights while they run; properties such as `W_Q` do not. Nothing remote is
        executed, and of a pickle only the tensors are read.

        Raises FileNotFoundError for a path without a config, ValueError for a config that leaves out what must be stated,
        `CheckpointMismatch` for missing, extra or misshaped keys (it names them); the rest: `checkpoints.load_checkpoint`.
        """
        loaded = load_checkpoint(name_or_path, **settings)
        model = cls.from_hf(loaded.hf_model, loaded.tokenizer, loaded.spec, name=str(name_or_path))
        model.source = loaded.source
        return model

    def forward(
        self,
        input: Any,
        *args: Any,
        attention_mask: Tensor | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        """TransformerLens' forward without a key/value cache: raw, unshifted logits; token tensors get no BOS.

        `attention_mask (batch, pos)` is True (or 1) at visible tokens: real tokens get the logits they have without the padding, on either
        side, under every direction. A `(batch, 1, pos, pos)` boolean mask says who sees whom by itself. `reduce` maps the logits to what is
        returned, such as the scalar that `run_with_cache(incl_bwd=True)` takes gradients of. Raises ValueError on a mask of another shape,
        and under a switched `attention` for what only the model's own direction allows: key/value caches and `loss`.
        """
        if reduce is not None:
            return reduce(self(input, *args, attention_mask=attention_mask, **kwargs))
        cached = kwargs.get("use_past_kv_cache") or kwargs.get("use_cache") or kwargs.get("past_key_values") is not None
        if not cached:
            kwargs.setdefault("use_cache", False)
        wants_loss = (args[0] if args else kwargs.get("return_type")) in ("loss", "both")
        if self._switched and (cached or wants_loss):
            raise ValueError(
                f"{self.cfg.model_name}: attention is switched to {self._switched!r}; key/value caches and loss need the model's own"
            )
        mine = self._switched is None and self.spec.attention != "block"
        if cached or wants_loss or (mine and attention_mask is None):
            return super().forward(input, *args, attention_mask=attention_mask, **kwargs)
        if isinstance(input, (str, list)):
            input, attention_mask = self._tokens_and_mask(input, attention_mask, kwargs)
        return super().forward(input, *args, **self._who_sees_whom(input, attention_mask), **kwargs)

    def to_tokens(self, input: str | list[str], prepend_bos: bool | None = None, *args: Any, **kwargs: Any) -> Int[Tensor, "batch pos"]:
        """TransformerLens' own, BOS as `spec.bos` says. Raises ValueError when a text begins with BOS and gets another."""
        check_bos(self.tokenizer, input, self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos)
        return super().to_tokens(input, prepend_bos, *args, **kwargs)

    @property
    def direction(self) -> Direction:
        """The direction of attention now in force: the spec's, or the one that `attention` has switched to."""
        return self._switched or self.spec.attention

    @contextmanager
    def attention(self, direction: Direction) -> Iterator[HookedDiffusionTransformer]:
        """Run everything inside the `with` under another direction of attention: "causal", "full", or "block" for a block model.

        Only the mask changes, not the weights, the shift or `spec`: {ARM, MDM weights} × {causal, full} tells what the mask did from what
        training did. Hooks, caches and `denoise` see it. On leaving, the direction in force before is restored. Raises ValueError on an
        unknown direction.
        """
        attention_mask_4d(torch.ones(1, 1, dtype=torch.bool), direction, self.spec.block_length)
        before, self._switched = self._switched, direction
        try:
            yield self
        finally:
            self._switched = before

    def _who_sees_whom(self, input: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
        """The 4D mask of a run and, where tokens are hidden, the positions that go with it."""
        if mask is not None and mask.ndim == 4:
            return {"attention_mask": mask.to(self.cfg.device)}
        batch, pos = (1, *input.shape) if input.ndim == 1 else input.shape[:2]
        direction, device = self.direction, self.cfg.device
        if mask is None:
            everything = torch.ones(batch, pos, dtype=torch.bool, device=device)
            return {"attention_mask": attention_mask_4d(everything, direction, self.spec.block_length)}
        visible = check_visible(mask, (batch, pos)).to(device)
        return {"attention_mask": attention_mask_4d(visible, direction, self.spec.block_length), "position_ids": position_ids(visible)}

    def _tokens_and_mask(self, text: str | list[str], mask: Tensor | None, kwargs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """Text as TransformerLens tokenises it, and which tokens are not padding."""
        side = kwargs.pop("padding_side", None)
        tokens = self.to_tokens(text, prepend_bos=kwargs.pop("prepend_bos", None), padding_side=side)
        if mask is None and tokens.shape[0] > 1 and self.tokenizer.pad_token_id is not None:
            mask = get_attention_mask(self.tokenizer, tokens, prepend_bos=self.cfg.default_prepend_bos, padding_side=side)
        return tokens, mask

    @torch.no_grad()
    def check_attention(self) -> None:
        """Prove the direction of attention: editing the last token changes what sees it by more than 0, and all else by exactly 0.

        In a causal model nothing earlier sees it, in a full one everything, in a block one the rest of its block. Raises ValueError naming
        the model and what was seen.
        """
        length = self.spec.block_length or 6
        tokens = torch.arange(length + 2 if length < 6 else 6, device=self.cfg.device).remainder(self.cfg.d_vocab)[None]
        edited = tokens.clone()
        edited[0, -1] = (edited[0, -1] + 1) % self.cfg.d_vocab
        change = (self(tokens)[0, :-1] - self(edited)[0, :-1]).abs().amax(-1)
        if not change.isfinite().all():
            raise ValueError(f"{self.cfg.model_name}: its logits are not finite; its weights hold NaN or overflow: open it in float32")
        first = {"causal": len(change), "full": 0, "block": len(change) // length * length}[self.spec.attention]
        if change[:first].any() or not (change[first:] > 0).any() and first < len(change):
            raise ValueError(
                f"{self.cfg.model_name}: spec says {self.spec.direction} attention, but editing the last token changes earlier logits by "
                f"{change.max():.2e}. Pass the spec that the checkpoint was trained with."
            )

    def token_logits(
        self, tokens: Int[Tensor, "batch pos"], attention_mask: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits aligned with the tokens they predict: row p is the prediction *for* the token at p.

        With `logit_shift` 1 row p is the raw row p − 1. Nothing precedes position 0, so its row repeats raw row 0 (as Dream's sampler
        does): finite, but not a prediction. Put BOS or a prompt token there; with padding on the left the same holds for the first visible
        token. `attention_mask` is True at visible tokens; None: all are.
        """
        return self.align_logits(self(tokens, attention_mask=attention_mask))

    def align_logits(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Raw logits moved to the tokens they predict, as `token_logits` gives them."""
        return logits if self.spec.logit_shift == 0 else torch.cat([logits[:, :1], logits[:, :-1]], dim=1)


def _direct_attention(spec: DiffusionSpec):
    return lambda adapter: direct_attention(adapter, spec.attention == "causal")


def _input_device(hf_model: nn.Module) -> torch.device | None:
    """Where tokens go in a model spread by a device map: to their embedding, or where that runs when it is kept elsewhere; else None."""
    device = find_embedding_device(hf_model)
    return torch.device(main_device(cast(Any, hf_model).hf_device_map)) if device is not None and device.type == "meta" else device
