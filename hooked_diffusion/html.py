"""How a result shows itself in a notebook: a bold title, a sentence, tables. Every string in them is escaped.

Names and texts in a result may come from a file that somebody else wrote. A browser must never run them, so a result's `_repr_html_` builds
its page by `card`, or by `Markup(...).format(...)` of markupsafe, and never by an f-string.
"""

from __future__ import annotations

import pandas as pd
from markupsafe import Markup


def card(title: str, text: str = "", *frames: pd.DataFrame, decimals: int = 3) -> str:
    """HTML of a result: `title` in bold, a colon, `text`, then one table per frame; floats have `decimals` digits."""
    head = Markup("<b>{}</b>").format(title)
    if text:
        head += Markup(": {}").format(text)
    return head + Markup("").join(table(frame, decimals=decimals) for frame in frames)


def table(frame: pd.DataFrame, *, decimals: int = 3, missing: str = "NaN") -> Markup:
    """HTML of a table without its index: cells and column names are escaped, floats have `decimals` digits, NaN reads `missing`."""
    # `to_html` has escaped the cells. `Markup` marks them as safe, so that `card` does not escape them twice.
    return Markup(frame.to_html(index=False, escape=True, float_format=f"%.{decimals}f", na_rep=missing))
