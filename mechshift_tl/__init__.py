"""Circuits of autoregressive and masked-diffusion language models, found, compared and reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mechshift_tl.attribution.attribute import attribute

__all__ = ["attribute"]


def __getattr__(name: str) -> Any:
    """`attribute`, imported when it is first asked for: torch takes seconds, and `mechshift --help` does without."""
    if name != "attribute":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mechshift_tl.attribution.attribute import attribute

    return attribute
