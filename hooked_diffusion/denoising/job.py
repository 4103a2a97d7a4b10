"""The job of one denoising run, checked before the first forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

from jaxtyping import Bool, Int
from torch import Tensor

from hooked_diffusion.denoising.canvas import Canvas, prepare, warn_of_idle_steps
from hooked_diffusion.denoising.plan import Plan
from hooked_diffusion.denoising.protocol import DenoisingModel
from hooked_diffusion.denoising.settings import DenoisingSettings, Preset, Select, SettingArguments, make_settings
from hooked_diffusion.denoising.steering import NOT_STEERED, Force, Freeze, Steering
from hooked_diffusion.denoising.texts import Masks, Texts, canvas_of, is_text

#: The most memory that the canvases of one trajectory may take.
MAX_RECORD_BYTES = 16 * 2**30


#: What is denoised: token ids `(batch, pos)`, what `model.canvas` makes, or text.
Canvases: TypeAlias = Int[Tensor, "batch pos"] | Canvas | Texts


class DenoisingArguments(SettingArguments, total=False):
    """The arguments that `denoise` and its siblings take by name. Canvas, steps and select come before them.

    - `preset`: "dream", "llada", "diffullama", "dllm" or "threshold", the published samplers; the settings beside it replace its own.
    - `mask_positions (batch, pos)`: True where a token is wanted. The mask id is written there first, if the model has one. Left out, the
      positions that hold the mask id.
    - `attention_mask (batch, pos)`: False at padding, on either side.
    - `masks`, `suffix`: of a canvas that is text, as `model.canvas` takes them.
    - `freeze`, `force`: where a step may not commit, and which tokens it must commit; see `Steering`.
    - All others are explained by `DenoisingSettings`.
    """

    preset: Preset | None
    mask_positions: Bool[Tensor, "batch pos"] | None
    attention_mask: Bool[Tensor, "batch pos"] | None
    masks: Masks
    suffix: str | Sequence[str] | None
    freeze: Freeze
    force: Force


@dataclass(frozen=True, eq=False)
class Job:
    """A checked job: the canvas to begin with, the plan, and what the caller decides instead of the sampler."""

    canvas: Canvas
    plan: Plan
    steering: Steering = NOT_STEERED

    @classmethod
    def asked(
        cls,
        model: DenoisingModel,
        canvas: Canvases,
        steps: int | None,
        select: Select | None,
        arguments: DenoisingArguments,
    ) -> Job:
        """The job that `denoise` and its siblings were called for. Raises TypeError on an argument that they do not have, and on a canvas
        of another kind."""
        unknown = sorted(set(arguments) - DenoisingArguments.__optional_keys__)
        if unknown:
            known = sorted(DenoisingArguments.__optional_keys__)
            raise TypeError(f"denoising takes no argument {', '.join(unknown)}; it takes canvas, steps, select, {', '.join(known)}")
        passed = cast(SettingArguments, {name: v for name, v in arguments.items() if name in SettingArguments.__optional_keys__})
        settings = make_settings(arguments.get("preset"), steps, select, causal=not model.spec.is_mdm, **passed)
        laid = _laid(model, canvas, arguments)
        return cls.make(
            model,
            laid.tokens,
            settings,
            mask_positions=laid.masked,
            attention_mask=laid.visible,
            steering=Steering(arguments.get("freeze"), arguments.get("force")),
        )

    @classmethod
    def make(
        cls,
        model: DenoisingModel,
        canvas: Int[Tensor, "batch pos"],
        settings: DenoisingSettings,
        *,
        mask_positions: Bool[Tensor, "batch pos"] | None = None,
        attention_mask: Tensor | None = None,
        steering: Steering = NOT_STEERED,
    ) -> Job:
        """The job of these settings. Raises ValueError on what cannot be, before any forward."""
        spec, name = model.spec, model.cfg.model_name
        bos_id = None if model.tokenizer is None else model.tokenizer.bos_token_id
        checked = prepare(canvas.to(model.cfg.device), mask_positions, spec, model.cfg.d_vocab, attention_mask, bos_id)
        if settings.masked_by_token and (spec.mask_is_reused or spec.mask_token_id is None):
            raise ValueError(
                f"{name} has no token that only ever means a mask (mask_token_id {spec.mask_token_id}), so positions cannot count as "
                "masked by the token they hold; pass masked_by_token=False"
            )
        if spec.mask_token_id is None and (settings.cfg_scale or settings.remask):
            raise ValueError(f"{name} has no mask token, which cfg_scale and remask write; leave them out")
        warn_of_idle_steps(int(checked.masked.sum(1).max()), settings.steps, settings.schedule)
        plan = Plan.make(checked.masked, settings, spec, checked.visible)
        # A trajectory keeps the canvas and the masks of every step.
        needed = (plan.steps + 1) * sum(tensor.nbytes for tensor in (checked.tokens, checked.masked))
        if needed > MAX_RECORD_BYTES:
            raise ValueError(
                f"{plan.steps} steps of {len(canvas)} rows keep {needed / 2**30:.1f} GiB of canvases, more than "
                f"{MAX_RECORD_BYTES / 2**30:.0f} GiB; take fewer steps, or denoise the rows in parts"
            )
        if not spec.is_mdm:
            plan.check_causal()
        return cls(checked, plan, steering)


@dataclass(frozen=True, eq=False)
class _Laid:
    """A canvas as it was given, its masks and what is visible; None where nobody said."""

    tokens: Int[Tensor, "batch pos"]
    masked: Bool[Tensor, "batch pos"] | None
    visible: Tensor | None


def _laid(model: DenoisingModel, canvas: Canvases, arguments: DenoisingArguments) -> _Laid:
    """The canvas that was asked for. Raises TypeError on what is none, ValueError on arguments that do not go with its kind."""
    given = [name for name in ("mask_positions", "attention_mask", "masks", "suffix") if arguments.get(name) is not None]
    if isinstance(canvas, Tensor):
        if wrong := set(given) & {"masks", "suffix"}:
            raise ValueError(f"denoising: {', '.join(sorted(wrong))} belong to a canvas of text; these are token ids: pass mask_positions")
        return _Laid(canvas, arguments.get("mask_positions"), arguments.get("attention_mask"))
    if isinstance(canvas, Canvas):
        if given:
            raise ValueError(f"denoising: the canvas says where it is masked itself; leave out {', '.join(given)}")
    elif is_text(canvas):
        if wrong := set(given) & {"mask_positions", "attention_mask"}:
            raise ValueError(f"denoising: {', '.join(sorted(wrong))} belong to token ids; of a text, say how many masks=… it gets")
        canvas = canvas_of(model, canvas, arguments.get("masks"), arguments.get("suffix"))
    else:
        raise TypeError(
            f"denoising: canvas is a {type(canvas).__name__}; give token ids (batch, pos), a text with masks=8, or what "
            "model.canvas(text, masks=8) makes"
        )
    return _Laid(canvas.tokens, canvas.masked, None if canvas.visible.all() else canvas.visible)
