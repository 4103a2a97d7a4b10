"""What a notebook shows never runs what somebody wrote into a name."""

import pandas as pd

from hooked_diffusion.html import card, table

EVIL = "<img src=x onerror=alert(1)>"


def test_titles_texts_and_tables_are_escaped():
    frame = pd.DataFrame({EVIL: [EVIL, "b"], "value": [0.12345, float("nan")]})
    shown = card(EVIL, f"{EVIL} & more", frame, frame, decimals=2)
    assert "<img" not in shown and shown.count("&lt;img") == 6
    assert shown.startswith("<b>&lt;img src=x onerror=alert(1)&gt;</b>: &lt;img") and "&amp; more" in shown
    assert shown.count("<table") == 2 and "0.12<" in shown and "NaN" in shown


def test_a_title_alone_has_no_colon_and_missing_numbers_read_as_asked():
    assert card("Result") == "<b>Result</b>"
    assert "<td>none</td>" in table(pd.DataFrame({"value": [float("nan")]}), missing="none")
