"""What denoising needs of a model, and nothing more. `HookedDiffusionTransformer` is such a model."""

from __future__ import annotations

from typing import Any, Protocol

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from hooked_diffusion.gradients import HookedModule
from hooked_diffusion.spec import DiffusionSpec


class Sizes(Protocol):
    """The part of a bridge's `cfg` that denoising reads."""

    model_name: str
    device: Any  # TransformerLens types it str; a bridge holds a torch.device
    n_layers: int
    d_vocab: int


class DenoisingModel(HookedModule, Protocol):
    """A hooked model that says how it is read (`spec`) and where it came from (`source`), and whose logits can be aligned."""

    spec: DiffusionSpec
    source: dict[str, Any]
    tokenizer: Any  # a Hugging Face tokenizer, or None: TransformerLens types it so

    @property
    def cfg(self) -> Sizes:
        """Its name, device and sizes."""
        ...

    def token_logits(
        self, tokens: Int[Tensor, "batch pos"], attention_mask: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits whose row p predicts the token at p."""
        ...

    def to_tokens(self, input: str | list[str]) -> Int[Tensor, "batch pos"]:
        """Token ids of texts, BOS as the spec says."""
        ...

    def align_logits(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Raw logits moved to the tokens that they predict."""
        ...

    def run_with_cache(self, input: Int[Tensor, "batch pos"], **kwargs: Any) -> tuple[Any, ActivationCache | dict[str, Tensor]]:
        """The raw logits (or what `reduce` makes of them) and the activations, as TransformerLens gives them."""
        ...
