"""`mechshift convert`: any supported checkpoint as a native folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mechshift_tl.cli.console import console, print_last, print_notes
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import AsJson, ConfigFields, Family, Opening, Quiet, read_as


def convert(
    source: Annotated[str, typer.Argument(help="Checkpoint folder, GGUF file, or hub id (org/name@revision).")],
    out: Annotated[Path, typer.Argument(help="New or empty folder for the native checkpoint.")],
    family: Family = None,
    config: ConfigFields = None,
    dtype: Annotated[str | None, typer.Option(help="Such as bfloat16; default: as stored.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint as a native folder that plain transformers opens too, with the same logits."""
    with clear_errors():
        from mechshift_tl.runs.output_folder import output_folder
        from mechshift_tl.runs.processes import Processes

        with output_folder(out) as folder, console.status(f"converting {source}"):
            Processes.here().once(lambda: _write(source, folder, read_as(family, config), dtype))
        print_last(f"Written: {out}", out=out)


def _write(source: str, folder: Path, how: Opening, dtype: str | None) -> None:
    from hooked_diffusion.checkpoints import convert as convert_checkpoint

    written = convert_checkpoint(source, folder, family=how.get("family"), config=how.get("config"), dtype=dtype)
    print_notes(written.source["notes"])
    spec, native = written.spec, type(written.hf_model).__name__
    console.print(f"{native}, {spec.direction} attention, logit shift {spec.logit_shift}, mask {spec.mask_token_id}")
    if spec.attention == "block":
        print_notes(["plain transformers needs the block-causal mask with every call"])
    if spec.attention == "full":
        print_notes(["transformers 4.52 does not read is_causal: there, pass a 4D mask that shows everything with every call"])
