"""One bar per call: it is drawn where somebody looks, it goes at the end, and a call inside a call draws none."""

import pytest
from tqdm import std

from hooked_diffusion import progress
from hooked_diffusion.progress import progress_bar


@pytest.fixture
def bars(monkeypatch) -> list[bool]:
    """Whether each bar that is made is drawn, in order, where somebody looks."""
    made: list[bool] = []

    class Recording(std.tqdm):
        def __init__(self, *args, **kwargs) -> None:
            made.append(not kwargs.get("disable", False))
            assert kwargs["leave"] is False
            super().__init__(*args, **{**kwargs, "disable": True})

    monkeypatch.setattr(progress, "tqdm", Recording)
    monkeypatch.setattr(progress, "_is_watched", lambda: True)
    return made


def test_a_call_inside_a_call_draws_no_bar(bars) -> None:
    with progress_bar(2, "outer", "row") as bar, progress_bar(3, "inner", "row"):
        bar.update()
    with progress_bar(1, "next", "row"):
        pass
    assert bars == [True, False, True]


def test_a_call_that_fails_frees_the_place(bars) -> None:
    with pytest.raises(KeyError), progress_bar(1, "fails", "row"):
        raise KeyError
    with progress_bar(1, "hidden", "row", shown=False):
        pass
    with progress_bar(1, "next", "row"):
        pass
    assert bars == [True, False, True]


def test_a_log_file_gets_no_bar(capsys) -> None:
    with progress_bar(3, "steps", "step") as bar:
        bar.refresh()
    assert capsys.readouterr().err == ""
