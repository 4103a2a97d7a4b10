"""What the analyses need of a model, and nothing more.

`HookedModel` is any TransformerLens bridge. `DiffusionModel` also knows how it is read (`spec`) and which way it attends: a
`HookedDiffusionTransformer`, be it an ARM or an MDM. Where the two differ, `bridge.alignment` asks which one it has; no other file does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeGuard, cast

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge.sources.native import NativeModel

from hooked_diffusion.attention import Direction
from hooked_diffusion.denoising.trajectory import DenoisingTrajectory
from hooked_diffusion.gradients import HookedModule
from hooked_diffusion.spec import DiffusionSpec


class ModelConfig(Protocol):
    """The sizes of a model, as `bridge.cfg` has them."""

    model_name: str
    device: Any  # TransformerLens types it str; a bridge holds a torch.device
    n_layers: int
    n_heads: int
    n_key_value_heads: int | None
    d_model: int
    d_head: int
    d_mlp: int | None
    d_vocab: int
    d_vocab_out: int
    eps: float
    attention_dir: str
    parallel_attn_mlp: bool
    attn_only: bool


class Component(Protocol):
    """A part of a bridge with weights of its own. `name` is None, and so may be the module, where it is bound to a whole layer."""

    name: str | None
    original_component: nn.Module | None

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The part and all that is in it, hook points too."""
        ...


class Norm(Component, Protocol):
    """A RMSNorm or a LayerNorm; `uses_weight_offset` where the weight is stored less 1 (Gemma).

    A model without norms has parts in their places that hand on what they get and have neither property (`norms.is_identity`).
    """

    uses_rms_norm: bool
    uses_weight_offset: bool
    config: ModelConfig

    def __call__(self, hidden_states: Float[Tensor, "*rows d"], /) -> Float[Tensor, "*rows d"]:
        """The norm of each vector, at the vector's own scale."""
        ...


class Attention(Component, Protocol):
    """An attention: its projections are parts of their own, and `weight_of` reads `W_Q`, `W_K`, `W_V`, `W_O` off them."""

    q: Component
    k: Component
    v: Component
    o: Component


class Block(Protocol):
    """A layer: `ln1`, attention, `ln2`, MLP. The last two are absent where `cfg.attn_only`."""

    attn: Attention
    mlp: Component
    ln1: Norm
    ln2: Norm


class Components(Protocol):
    """The parts of a bridge."""

    blocks: Sequence[Block]
    ln_final: Norm
    unembed: Component


class HookedModel(HookedModule, Protocol):
    """A TransformerLens bridge: sizes, hooks, weights, logits. `components_of` gives its parts."""

    tokenizer: Any  # a Hugging Face tokenizer, or None: TransformerLens types it so

    @property
    def cfg(self) -> ModelConfig:
        """Its sizes."""
        ...

    @property
    def original_model(self) -> nn.Module:
        """The Hugging Face model inside."""
        ...

    @property
    def hook_dict(self) -> Mapping[str, HookPoint]:
        """Every hook point by name."""
        ...

    def buffers(self) -> Iterator[Tensor]:
        """Every tensor that is kept but not trained."""
        ...

    def __call__(self, input: Int[Tensor, "batch pos"], /, **kwargs: Any) -> Float[Tensor, "batch pos d_vocab"]:
        """The raw logits."""
        ...


class DiffusionModel(HookedModel, Protocol):
    """A bridge that says how it is read: the direction in which it attends, the shift of its logits, its mask token.

    `says_how_it_is_read` tells it from a plain bridge.
    """

    spec: DiffusionSpec
    max_positions: int | None
    source: dict[str, Any]

    @property
    def direction(self) -> Direction:
        """The direction of attention now in force."""
        ...

    def token_logits(
        self, tokens: Int[Tensor, "batch pos"], attention_mask: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits whose row p predicts the token at p."""
        ...

    def denoise(
        self, canvas: Int[Tensor, "batch pos"], steps: int | None = None, *, mask_positions: Bool[Tensor, "batch pos"] | None = None
    ) -> DenoisingTrajectory:
        """The canvas with its masks filled in, step by step."""
        ...


def components_of(model: HookedModel) -> Components:
    """The parts of a bridge. TransformerLens adds them when a bridge is built, so its class does not declare them."""
    return cast(Components, model)


def is_native(model: HookedModel) -> bool:
    """Whether the model inside is TransformerLens' own (`TransformerBridge.boot_native`), and not of Hugging Face."""
    return isinstance(model.original_model, NativeModel)


def has_mlps(model: HookedModel) -> bool:
    """Whether the layers have MLPs; those of a model of attention alone have none."""
    return not model.cfg.attn_only


def mlp_outputs(model: HookedModel) -> list[str]:
    """Hook names of the MLPs' outputs, one a layer; none where the layers have none."""
    return [f"blocks.{i}.hook_mlp_out" for i in range(model.cfg.n_layers)] if has_mlps(model) else []


def says_how_it_is_read(model: HookedModel) -> TypeGuard[DiffusionModel]:
    """Whether the model has a spec and aligns its logits by it; a plain TransformerLens bridge does not."""
    return hasattr(model, "token_logits")


def module_of(part: Component) -> nn.Module:
    """The Hugging Face module inside a part. Raises ValueError where the part has none of its own."""
    if part.original_component is None:
        raise ValueError(f"part {part.name!r} of the bridge has no module of its own; it is bound to a whole layer")
    return part.original_component


def check_model(caller: str, model: HookedModel) -> None:
    """Raise TypeError unless `model` is a bridge, which a caller's mistake may make it: a pair, a Hugging Face model, a name."""
    if not hasattr(model, "cfg"):
        raise TypeError(
            f"{caller}: model is a {type(model).__name__}; give a HookedDiffusionTransformer or a TransformerBridge, "
            "such as load_pair('tiny').arm"
        )


def check_weights(caller: str, model: HookedModel) -> None:
    """Raise ValueError where weights are floating-point numbers of 8 bits, which PyTorch stores but does not compute with."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and weight.element_size() == 1:
            raise ValueError(f"{caller}: weight {name} is {weight.dtype}; load the model in float32, bfloat16 or float16")
