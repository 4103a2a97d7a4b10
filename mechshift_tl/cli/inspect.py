"""`mechshift inspect`: how a checkpoint would be read, from its config and tokenizer files alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mechshift_tl.cli.console import console, print_notes
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import AsJson, ConfigFields, Family, read_as

if TYPE_CHECKING:
    from hooked_diffusion.checkpoints import ConfigReading


def inspect(
    name: Annotated[str, typer.Argument(help="Checkpoint folder, config.json, GGUF file, or hub id (org/name@revision).")],
    family: Family = None,
    config: ConfigFields = None,
    as_json: AsJson = False,
) -> None:
    """Say how a checkpoint would be read, without its weights: family, attention, logit shift, mask token; or why it is refused."""
    with clear_errors():
        reading = _read(name, family, config)
        if console.found is not None:
            console.found |= _record(reading)
        else:
            _print(reading)


def _read(name: str, family: str | None, config: list[str] | None) -> ConfigReading:
    from hooked_diffusion.checkpoints import inspect_checkpoint

    how = read_as(family, config)
    return inspect_checkpoint(name, family=how.get("family"), config=how.get("config"))


def _record(reading: ConfigReading) -> dict[str, object]:
    spec = reading.spec
    return {
        "family": reading.adapter.family,
        "attention": spec.attention,
        "block_length": spec.block_length,
        "logit_shift": spec.logit_shift,
        "mask_token_id": spec.mask_token_id,
        "bos": spec.bos,
        "notes": list(reading.notes),
    }


def _print(reading: ConfigReading) -> None:
    spec, adapter = reading.spec, reading.adapter
    mask = "none" if spec.mask_token_id is None else f"{spec.mask_token_id}{', a word reused' if spec.mask_is_reused else ''}"
    tied = {True: "tied", False: "untied", None: "as the weights say"}[reading.tied]
    rows = {
        "Family": adapter.family,
        "Class": adapter.model_class.__name__,
        "Attention": spec.direction,
        "Logit shift": str(spec.logit_shift),
        "Mask token": mask,
        "BOS": spec.bos,
        "Head": tied,
        "Base ARM": adapter.base,
        "Evidence": adapter.evidence,
    }
    for title, value in rows.items():
        console.print(f"{title:<12} {value}", soft_wrap=True)
    print_notes(reading.notes)
