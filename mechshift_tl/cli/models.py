"""`mechshift models` and `mechshift version`: what there is to work with."""

from __future__ import annotations

from importlib.metadata import version

from mechshift_tl.cli.console import console, print_frame


def models() -> None:
    """List the natural pairs that --pair knows by name: where they are, under which licence, and how much memory their weights take."""
    from hooked_diffusion.pairs.known import models as known
    from hooked_diffusion.pairs.pair import bundled_pairs

    frame = known().astype({"GiB (bf16)": str})
    frame.insert(1, "ARM → MDM", frame.pop("ARM") + "\n→ " + frame.pop("MDM"))
    print_frame("Pairs on the hub; licences as third parties report them", frame)
    console.print(f"Bundled: {', '.join(bundled_pairs())}. Evidence: P code, T third parties, U unverified")


def print_version() -> None:
    """Print the versions that a result depends on."""
    for package in ("mechshift-tl", "transformer-lens", "transformers", "torch"):
        console.print(f"{package} {version(package)}")
