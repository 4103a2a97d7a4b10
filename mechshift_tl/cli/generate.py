"""`mechshift generate`: a model's text. An MDM's is shown as it comes, step by step, where a terminal watches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.text import Text

from mechshift_tl.cli.console import console, print_last
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import AsJson, ConfigFields, DeviceMap, Family, ModelName, Quiet, Seed, open_model, placed, read_as

if TYPE_CHECKING:
    from torch import Tensor

    from hooked_diffusion import HookedDiffusionTransformer
    from hooked_diffusion.denoising import DenoisingStep
    from hooked_diffusion.denoising.settings import Preset, Select

#: What stands for a mask.
MASK = "▒"
#: A run of more tokens is a slip of the hand.
MOST_TOKENS = 4096


def generate(
    model: ModelName,
    prompt: Annotated[str, typer.Argument(help="The text to go on from.")],
    tokens: Annotated[int, typer.Option(min=1, max=MOST_TOKENS, help="Tokens to write: an MDM's masks.")] = 16,
    suffix: Annotated[str | None, typer.Option(help="Text behind them, for infilling; an ARM never sees it.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps; default one per token.")] = None,
    select: Annotated[
        str | None, typer.Option(help="Which masks a step fills: confidence, entropy, margin, random or left_to_right.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A published sampler: dream, llada, diffullama, dllm or threshold.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the draw of tokens; default 0, the likeliest.")] = None,
    seed: Seed = 0,
    device_map: DeviceMap = None,
    family: Family = None,
    config: ConfigFields = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Go on from a prompt: an MDM denoises masks, an ARM writes from left to right."""
    with clear_errors():
        from hooked_diffusion.denoising.settings import make_settings

        # Refuses what cannot be before the model is opened.
        make_settings(_preset(preset), steps, _select(select), temperature=temperature, seed=seed)
        opened = open_model(model, placed(device_map) | read_as(family, config))
        canvas = opened.canvas(prompt, masks=tokens, suffix=suffix)
        watched = console.is_terminal and not console.quiet
        with Live(console=console, transient=True, auto_refresh=False) as live:

            def show(tensor: Tensor, hook: object, step: DenoisingStep) -> None:
                live.update(shown(opened, step.canvas[0], step.masked[0], f"step {step.index + 1}/{step.steps}"), refresh=True)

            hooks = [("hook_embed", show)] if watched else []
            done = opened.run_with_denoising_hooks(
                canvas, steps, _select(select), fwd_hooks=hooks, preset=_preset(preset), temperature=temperature, seed=seed
            )
        written = str(opened.tokenizer.decode(done.tokens[0, canvas.masked[0]]))
        order = [int(step) for step in done.commit_step[0, canvas.masked[0]]]
        said = f"{prompt}{'' if prompt.endswith(' ') or written.startswith(' ') else ' '}{written}{suffix or ''}"
        print_last(said, prompt=prompt, text=written, suffix=suffix, steps=done.steps, forwards=done.forwards, committed_at=order)


def shown(model: HookedDiffusionTransformer, canvas: Tensor, masked: Tensor, title: str) -> Text:
    """A canvas as a line of text, its masks as blocks."""
    words = [MASK if hidden else model.tokenizer.decode([int(one)]) for one, hidden in zip(canvas, masked, strict=True)]
    return Text(f"{title}  ") + Text(" ".join(str(word).strip() or word for word in words))


def _select(name: str | None) -> Select | None:
    """As the settings type it, which check it."""
    return name  # pyright: ignore[reportReturnType]


def _preset(name: str | None) -> Preset | None:
    return name  # pyright: ignore[reportReturnType]
