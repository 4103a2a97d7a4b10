"""One hooked model class for ARMs (autoregressive models) and MDMs (masked-diffusion models).

`HookedDiffusionTransformer` is a TransformerLens bridge around a native Hugging Face model. It adds to its base:

1. A `DiffusionSpec` that says how the checkpoint is read.
2. Attention that is bidirectional when the spec says full. Hugging Face draws a causal mask, and TransformerLens draws one of its own when
   it rebuilds attention. Both are switched before the bridge is built, and a self-test proves the result on the loaded weights.
3. Padding masks that mean the same under every direction, and `attention`, which switches the direction for a while.
4. `token_logits`, whose row p is the prediction for the token at p, under any logit shift.
5. Denoising, with hooks and caches that know the step: `DenoisingMethods`.
6. One thread at a time. Hooks, frozen weights and the direction belong to the model, so a second thread is refused (`ModelInUse`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.utilities.multi_gpu import find_embedding_device
from transformer_lens.utilities.tokenize_utils import get_attention_mask
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Unpack

from hooked_diffusion.architectures import bridge_around, check_native
from hooked_diffusion.attention import Direction, attention_mask_4d, check_direction, check_visible, position_ids
from hooked_diffusion.checkpoints.loading import OpenSettings, load_checkpoint
from hooked_diffusion.checkpoints.placement import main_device
from hooked_diffusion.denoising.methods import DenoisingMethods
from hooked_diffusion.gradients import NamedHooks
from hooked_diffusion.spec import DiffusionSpec
from hooked_diffusion.threads import in_one_thread, one_thread
from hooked_diffusion.tokenizers import check_bos, check_tokenizer, tokenizer_errors


class HookedDiffusionTransformer(DenoisingMethods, TransformerBridge):
    """A TransformerLens bridge that reads both ARMs and MDMs; see the module docstring. Make one with `from_pretrained` or `from_hf`."""

    spec: DiffusionSpec
    #: Where the weights came from, for provenance, as JSON values: name, revision, hash, notes.
    source: dict[str, Any]
    #: How many tokens a row may have; None where RoPE stretches with the length.
    max_positions: int | None
    #: The direction that `attention` has switched to; None for the model's own.
    _switched: Direction | None = None

    @classmethod
    def from_hf(
        cls,
        hf_model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        spec: DiffusionSpec | None = None,
        *,
        name: str = "external",
    ) -> HookedDiffusionTransformer:
        """Wrap a native Hugging Face `LlamaForCausalLM`, `Qwen2ForCausalLM`, `Qwen3ForCausalLM` or `GPT2LMHeadModel`, in place.

        `spec` defaults to a plain ARM. Raises TypeError on another class. Raises ValueError on float8 weights, on a mask id outside the
        vocabulary, on a tokenizer that fails or is another model's, and when the self-test finds attention pointing another way than the
        spec says.
        """
        spec = spec or DiffusionSpec()
        native = check_native(name, hf_model, spec)
        check_tokenizer(name, tokenizer, native.config.vocab_size, spec)
        bridge = bridge_around(name, native, tokenizer, causal=spec.attention == "causal", device=_input_device(native))
        # TransformerLens' builder makes its own class. The object becomes ours in place: a second bridge would wrap the weights twice.
        bridge.__class__ = cls
        model = cast(HookedDiffusionTransformer, bridge)
        model.spec = spec
        # All that is known here; `from_pretrained` replaces it.
        model.source = {"name": name}
        rope = vars(native.config).get("rope_parameters") or {}
        # Dynamic RoPE rescales itself with the length, so there is no last position.
        model.max_positions = None if rope.get("rope_type") == "dynamic" else model.cfg.n_ctx
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
        if not isinstance(name_or_path, (str, Path)):
            raise TypeError(
                f"from_pretrained: the name is a {type(name_or_path).__name__}; give a folder, a GGUF file or a hub id (org/name), "
                "or wrap a loaded model by from_hf"
            )
        loaded = load_checkpoint(name_or_path, **settings)
        model = cls.from_hf(loaded.hf_model, loaded.tokenizer, loaded.spec, name=str(name_or_path))
        model.source = loaded.source
        return model

    @one_thread
    def forward(
        self,
        input: str | list[str] | Tensor,
        return_type: str | None = "logits",
        *args: Any,  # any arguments of TransformerLens'
        attention_mask: Tensor | None = None,
        reduce: Callable[[Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> Any:
        """TransformerLens' forward without a key/value cache: raw, unshifted logits. Token tensors get no BOS.

        - `attention_mask (batch, pos)` is True (or 1) at visible tokens. They get the logits that they have without the padding, on either
          side, under every direction. A `(batch, 1, pos, pos)` boolean mask says who sees whom by itself.
        - `reduce` maps the logits to what is returned, such as the scalar that `run_with_cache(incl_bwd=True)` takes gradients of.

        Raises ValueError on a mask of another shape and on rows longer than the model's positions, and, under a switched `attention`, for
        key/value caches and `loss`, which need the model's own direction. Raises `ModelInUse` while another thread runs the model.
        """
        if reduce is not None:
            return reduce(self(input, return_type, *args, attention_mask=attention_mask, **kwargs))
        cached = kwargs.get("use_past_kv_cache") or kwargs.get("use_cache") or kwargs.get("past_key_values") is not None
        # Hugging Face fills a key/value cache unless it is told not to; nobody would read this one.
        if not cached:
            kwargs.setdefault("use_cache", False)
        wants_loss = return_type in ("loss", "both")
        if self._switched and (cached or wants_loss):
            raise ValueError(
                f"{self.cfg.model_name}: attention is switched to {self._switched!r}; key/value caches and loss need the model's own"
            )
        if isinstance(input, Tensor):
            self._check_length(input, attention_mask)
        # The bridge was built for the spec's own direction: without padding it needs no mask, and can use TransformerLens' own paths.
        mine = self._switched is None and self.spec.attention != "block"
        if cached or wants_loss or (mine and attention_mask is None):
            return super().forward(input, return_type, *args, attention_mask=attention_mask, **kwargs)
        if not isinstance(input, Tensor):
            input, attention_mask = self._tokens_and_mask(input, attention_mask, kwargs)
        return super().forward(input, return_type, *args, **self._who_sees_whom(input, attention_mask), **kwargs)

    @contextmanager
    def hooks(
        self,
        fwd_hooks: NamedHooks | None = None,
        bwd_hooks: NamedHooks | None = None,
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator[HookedDiffusionTransformer]:
        """TransformerLens' own: inside, the hooks are on the model. Raises `ModelInUse` while another thread runs the model."""
        with in_one_thread(self), super().hooks(fwd_hooks or [], bwd_hooks or [], reset_hooks_end, clear_contexts):
            yield self

    # TransformerLens' own. They put hooks on the model before they run it, so the guard of `forward` would come too late.
    run_with_hooks = one_thread(TransformerBridge.run_with_hooks)
    run_with_cache = one_thread(TransformerBridge.run_with_cache)

    @one_thread
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """TransformerLens' own, of an ARM. Raises NotImplementedError on an MDM, which `denoise` fills in."""
        self._check_writes("generate")
        return super().generate(*args, **kwargs)

    def generate_stream(self, *args: Any, **kwargs: Any) -> Any:
        """TransformerLens' own, of an ARM. Raises NotImplementedError on an MDM."""
        self._check_writes("generate_stream")
        return super().generate_stream(*args, **kwargs)

    def hf_generate(self, *args: Any, **kwargs: Any) -> Any:
        """TransformerLens' own, of an ARM. Raises NotImplementedError on an MDM."""
        self._check_writes("hf_generate")
        return super().hf_generate(*args, **kwargs)

    def _check_writes(self, method: str) -> None:
        if self.spec.is_mdm:
            raise NotImplementedError(
                f"{self.cfg.model_name}: {method} writes from left to right, and this is a masked-diffusion model, which fills masks in; "
                "use model.denoise(text, masks=16)"
            )

    def to_tokens(self, input: str | list[str], prepend_bos: bool | None = None, *args: Any, **kwargs: Any) -> Int[Tensor, "batch pos"]:
        """TransformerLens' own, BOS as `spec.bos` says; `truncate=True` cuts a text to the model's positions.

        Raises ValueError when a text begins with BOS and gets another, when the tokenizer fails, and, unless `truncate` is given, on a text
        longer than the model's positions.
        """
        check_bos(self.tokenizer, input, self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos)
        truncates = "truncate" in kwargs or len(args) > 2
        with tokenizer_errors(self.cfg.model_name):
            tokens = super().to_tokens(input, prepend_bos, *args, **({} if truncates else {"truncate": False}), **kwargs)
        if not truncates:
            self._check_length(tokens)
        return tokens

    def _check_length(self, tokens: Tensor, mask: Tensor | None = None) -> None:
        length = tokens.shape[0] if tokens.ndim == 1 else tokens.shape[1]
        if self.max_positions is None or length <= self.max_positions:
            return
        if mask is not None and mask.ndim == 2:
            length = int(mask.sum(1).max())  # padding takes up no position
        if length > self.max_positions:
            raise ValueError(
                f"{self.cfg.model_name}: a row has {length} tokens, the model {self.max_positions} positions; shorten the prompt"
            )

    @property
    def direction(self) -> Direction:
        """The direction of attention now: the spec's, or the one that `attention` has switched to."""
        return self._switched or self.spec.attention

    @contextmanager
    def attention(self, direction: Direction) -> Iterator[HookedDiffusionTransformer]:
        """Run everything inside the `with` under another direction of attention: "causal", "full", or "block" for a block model.

        Only the mask changes, not the weights, the shift or `spec`. So {ARM, MDM weights} × {causal, full} separates the effect of the mask
        from the effect of training. It holds for hooks, caches and `denoise` too. At the end the direction is as it was before. Raises
        ValueError on an unknown direction, `ModelInUse` while another thread runs the model.
        """
        check_direction(direction, self.spec.block_length)
        with in_one_thread(self):
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
        # A single text needs no padding, so it needs no mask.
        if mask is None and tokens.shape[0] > 1 and self.tokenizer.pad_token_id is not None:
            mask = get_attention_mask(self.tokenizer, tokens, prepend_bos=self.cfg.default_prepend_bos, padding_side=side)
        return tokens, mask

    @torch.no_grad()
    def check_attention(self) -> None:
        """Prove the direction of attention: another last token must change the logits of what sees it, and all others by exactly 0.

        In a causal model no earlier position sees the last token, in a full model all do, in a block model the rest of its block. Raises
        ValueError, naming the model and the change.
        """
        # Long enough for two blocks, if they are short; one block that is not full tests a long one as well.
        length = self.spec.block_length or 6
        tokens = torch.arange(length + 2 if length < 6 else 6, device=self.cfg.device).remainder(self.cfg.d_vocab)[None]
        edited = tokens.clone()
        # Another id, whatever the last one is.
        edited[0, -1] = (edited[0, -1] + 1) % self.cfg.d_vocab
        change = (self(tokens)[0, :-1] - self(edited)[0, :-1]).abs().amax(-1)
        if not change.isfinite().all():
            raise ValueError(f"{self.cfg.model_name}: its logits are not finite; its weights hold NaN or overflow: open it in float32")
        # Before `first` nothing may change: exactly, for the same numbers enter. From `first` on something must.
        first = {"causal": len(change), "full": 0, "block": len(change) // length * length}[self.spec.attention]
        # `and` binds before `or`: a causal model has no position that must change.
        if change[:first].any() or not (change[first:] > 0).any() and first < len(change):
            raise ValueError(
                f"{self.cfg.model_name}: spec says {self.spec.direction} attention, but editing the last token changes earlier logits by "
                f"{change.max():.2e}. Pass the spec that the checkpoint was trained with."
            )

    def token_logits(
        self, tokens: Int[Tensor, "batch pos"], attention_mask: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """`(batch, pos, d_vocab)`: logits aligned with the tokens that they predict; row p is the prediction *for* the token at p.

        With `logit_shift` 1 row p is the raw row p − 1. Nothing precedes position 0: its row repeats raw row 0, as in Dream's sampler. That
        row is finite, but no prediction; the same holds for the first visible token behind padding. Put BOS or a prompt token there.
        `attention_mask` is True at visible tokens; None means that all are visible.
        """
        return self.align_logits(self(tokens, attention_mask=attention_mask))

    def align_logits(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch pos d_vocab"]:
        """`(batch, pos, d_vocab)`: raw logits moved to the tokens that they predict, as `token_logits` gives them."""
        return logits if self.spec.logit_shift == 0 else torch.cat([logits[:, :1], logits[:, :-1]], dim=1)


def _input_device(native: PreTrainedModel) -> torch.device | None:
    """The device of the tokens in a model spread by a device map; None where the bridge finds it by itself.

    Tokens go to the embedding, or, where that is kept elsewhere (on disk), to the device that it runs on.
    """
    device = find_embedding_device(cast(nn.Module, native))
    # accelerate adds `hf_device_map` when it spreads a model; the class does not declare it
    return torch.device(main_device(vars(native)["hf_device_map"])) if device is not None and device.type == "meta" else device
