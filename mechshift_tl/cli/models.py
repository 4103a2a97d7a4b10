"""`mechshift models` and `mechshift version`: the public pairs, and the installed versions."""

from __future__ import annotations

from importlib.metadata import version

import typer

from mechshift_tl.cli.console import console
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import AsJson


def models(as_json: AsJson = False) -> None:
    """List the natural pairs that --pair knows by name: where they are, under which licence, and how much memory their weights take."""
    with clear_errors():
        from hooked_diffusion.checkpoints.registry import UNSUPPORTED
        from hooked_diffusion.pairs.known import models as known
        from hooked_diffusion.pairs.pair import bundled_pairs

        console.print("Pairs on the hub, ARM → MDM; GiB of both in bfloat16; licences as third parties report them")
        frame = known()
        if console.found is not None:
            console.found["pairs"] = frame.to_dict("records")
        for row in frame.to_dict("records"):
            size = f"{row['M parameters']} M parameters, {row['GiB (bf16)']} GiB"
            console.print(f"{row['name']:<24} {row['ARM']} → {row['MDM']}", soft_wrap=True)
            console.print(f"{'':<24} {row['family']}; {size}; {row['licence']}; evidence {row['evidence']}", soft_wrap=True, style="dim")
        console.print(f"Bundled: {', '.join(bundled_pairs())}. Evidence: P code, T third parties, U unverified")
        console.print("A control was post-trained for diffusion under causal attention: open it alone (--model), or beside a pair.")
        for refused in UNSUPPORTED:
            console.print(f"Not opened: {refused.model}, because {refused.why}.", soft_wrap=True)


def print_version() -> None:
    """Print the versions that a result depends on."""
    for package in ("mechshift-tl", "transformer-lens", "transformers", "torch"):
        console.print(f"{package} {version(package)}")


def version_asked(asked: bool) -> None:
    """Print the versions and end, where they are asked for in place of a verb."""
    if asked:
        print_version()
        raise typer.Exit
