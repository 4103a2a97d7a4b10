"""A result's file follows from its fields; a file that does not fit them is refused in one sentence."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pandas as pd
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked_diffusion import artefact
from hooked_diffusion.artefact import Artefact, JsonArtefact


@dataclass(frozen=True)
class Inner:
    name: str
    size: float | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 0:
            raise ValueError(f"size is {self.size}; it is at least 0")


@dataclass(frozen=True, eq=False)
class Sample(Artefact):
    KIND: ClassVar[str] = "sample"

    rows: Int[Tensor, "n 2"]
    weights: Float[Tensor, " n"]
    inner: Inner
    kind: Literal["a", "b"]
    all: tuple[Inner, ...] = ()
    pair: tuple[int, int | None] = (1, None)
    words: dict[int, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    extra: Float[Tensor, "n ..."] | None = None


@dataclass(frozen=True, eq=False)
class Table(JsonArtefact):
    KIND: ClassVar[str] = "table"

    frame: pd.DataFrame
    value: float
    bound: float | None = None


def sample(**changes: Any) -> Sample:
    parts = {"rows": torch.arange(6).view(3, 2), "weights": torch.ones(3), "inner": Inner("x", 0.1), "kind": "a"}
    return Sample(**{**parts, **changes})


def test_every_kind_of_field_comes_back(tmp_path) -> None:
    one = sample(all=(Inner("y"), Inner("z", 2.0)), pair=(3, 4), words={5: "five"}, notes={"n": [1, None]}, extra=torch.ones(3, 4, 5))
    one.save(tmp_path / "a")
    back = Sample.load(tmp_path / "a")
    assert torch.equal(back.rows, one.rows) and back.extra is not None and back.extra.shape == (3, 4, 5)
    assert (back.inner, back.all, back.pair, back.words, back.notes) == (one.inner, one.all, one.pair, one.words, one.notes)


def test_what_is_none_by_default_is_left_out(tmp_path) -> None:
    sample().save(tmp_path / "a")
    tensors, values = artefact.read(tmp_path / "a", "sample", "Sample.save")
    assert set(tensors) == {"rows", "weights"} and "extra" not in values and Sample.load(tmp_path / "a").extra is None


def test_nan_in_a_table_and_in_a_number_comes_back_from_strict_json(tmp_path) -> None:
    Table(pd.DataFrame({"x": [1.5, math.nan], "y": ["a", "b"]}), math.nan).save(tmp_path / "t.json")
    json.loads((tmp_path / "t.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    back = Table.load(tmp_path / "t.json")
    assert math.isnan(back.value) and back.bound is None
    pd.testing.assert_frame_equal(back.frame, pd.DataFrame({"x": [1.5, math.nan], "y": ["a", "b"]}))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kind": "c"}, r"kind is 'c', not Literal\['a', 'b'\]"),
        ({"inner": 3}, "inner is 3, not the fields of Inner"),
        ({"inner": {"size": 1}}, "inner.name is missing, which Inner needs"),
        ({"inner": {"name": "x", "size": "big"}}, "inner.size is 'big', not float"),
        ({"inner": {"name": "x", "size": -1}}, "size is -1.0; it is at least 0"),
        ({"all": [{"name": "x"}, {"name": 1}]}, r"all\[1\].name is 1, not str"),
        ({"pair": [1]}, r"pair is \[1\], not a list of 2"),
        ({"pair": [True, 1]}, r"pair\[0\] is True, not int"),
        ({"words": {"five": "x"}}, "a key of words is 'five', not a whole number"),
        ({"words": []}, r"words is \[\], not an object"),
        ({"colour": 1}, "colour is unknown to Sample, which has rows, weights"),
        ({"weights": [1.0]}, r"weights is \[1.0\], not Float\[Tensor"),
        ({"weights": torch.ones(2)}, r"weights is float32 \(2,\), not Float\[Tensor"),
        ({"rows": torch.ones(3, 2)}, r"rows is float32 \(3, 2\), not Int\[Tensor"),
        ({"extra": torch.ones(4, 4)}, r"extra is float32 \(4, 4\), not Float\[Tensor"),
    ],
)  # fmt: skip
def test_a_field_that_does_not_fit_is_named(tmp_path, changed, said) -> None:
    sample().save(tmp_path / "a")
    tensors, values = artefact.read(tmp_path / "a", "sample", "Sample.save")
    for name, value in changed.items():
        tensors.pop(name, None)
        (tensors if isinstance(value, Tensor) else values)[name] = value
    artefact.write(tmp_path / "a", "sample", tensors, values)
    with pytest.raises(ValueError, match=rf"a is damaged: .*{said}.*give a file written by Sample.save"):
        Sample.load(tmp_path / "a")


def test_a_table_of_unequal_columns_is_refused(tmp_path) -> None:
    artefact.write_json(tmp_path / "t.json", {"table": {"frame": {"x": [1], "y": []}, "value": 1}})
    with pytest.raises(ValueError, match="frame is .* not a table: its columns differ in length"):
        Table.load(tmp_path / "t.json")
