"""Files of prompts from anyone, CSV and JSON lines: prompts are made of them, or they are refused in one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from hooked_diffusion import load_pair
from mechshift_tl.tasks import IOI, Countdown, Task

from .mutations import VALUES, damaged, every, mutated

SENTENCE = "Then, {} and {} went to the store. {} gave a drink to"
ROWS = [
    ["clean", "corrupted", "label"],
    [SENTENCE.format("Amy", "Tom", "Tom"), SENTENCE.format("Amy", "Tom", "John"), "1"],
    [SENTENCE.format("Tom", "Amy", "Tom"), SENTENCE.format("Tom", "Amy", "John"), "2"],
    [SENTENCE.format("Amy", "Tom", "Tom"), SENTENCE.format("Amy", "Tom", "Amy"), "3"],
]
PROBLEMS = [
    {"input": "33,25,12,96", "output": "33-25=8,12*8=96"},
    {"input": "34,26,12,96", "output": "34-26=8,12*8=96"},
    {"input": "60,2,54,24", "output": "60/2=30,54-30=24"},
    {"input": "3,3,24,24", "output": "3-3=0,24+0=24"},
]
CELLS = st.text(max_size=40) | st.sampled_from(
    ["", '"', "\n", "\0", ",,,", "=1+1", "Amy and Tom Tom", "A" * 200_000, "<img src=x onerror=a>"]
)
INPUTS = st.from_regex(r"\A-?[0-9]{1,12}( ?[,;] ?[0-9]{1,6}){0,9}\Z")
OUTPUTS = st.from_regex(r"\A([0-9]{1,3}[-+*/][0-9]{1,3}=[0-9]{1,4},?){0,8}\Z") | st.just("1+1=" + "9" * 5000)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
COUNTS = [pytest.param(10, id="few"), pytest.param(100, id="many", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    found = load_pair("tiny").tokenizer
    assert found is not None
    return found


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A table with other cells, more or fewer of them, and with any separator, quotes, line ends and encoding."""
    rows = draw(st.just(ROWS) | mutated(ROWS, CELLS))
    separator, quote, end = (
        draw(st.sampled_from(",;\t|")),
        draw(st.sampled_from(['"', "'", ""])),
        draw(st.sampled_from(["\n", "\r\n", "\r"])),
    )
    lines = (row if isinstance(row, str) else separator.join(f"{quote}{cell}{quote}" for cell in row) for row in rows)
    return end.join(lines).encode(draw(ENCODINGS), "replace")


@st.composite
def lines_of_json(draw: st.DrawFn) -> bytes:
    """Lines with other values and keys, now and then of other problems, in any encoding and with any line ends."""
    rows = list(draw(st.just(PROBLEMS) | mutated(PROBLEMS, VALUES)))
    if draw(st.booleans()):
        rows.append({"input": draw(INPUTS), "output": draw(OUTPUTS)})
    text = draw(st.sampled_from(["\n", "\r\n", "\n\n"])).join(json.dumps(row, ensure_ascii=draw(st.booleans())) for row in rows)
    return text.encode(draw(ENCODINGS), "replace")


def use(path: Path, tokenizer: PreTrainedTokenizerBase, *, unique: bool) -> None:
    """Read a file and make examples of it. What is refused while it is read is refused under the file's name."""
    try:
        task: Task = IOI.from_csv(path) if path.suffix == ".csv" else Countdown.from_jsonl(path, n_shots=0, unique=unique)
    except ValueError as error:
        if path.name not in str(error):
            raise RuntimeError(f"no file is named: {error}") from error
        raise
    task.examples(tokenizer, None)


@pytest.mark.parametrize("n", COUNTS)
@pytest.mark.parametrize("kind", ["tables", "damaged tables", "lines", "damaged lines", "unique lines"])
def test_prompts_of_any_file(tmp_path: Path, tokenizer, outcome_of, tally, kind: str, n: int) -> None:
    path = tmp_path / ("x.csv" if "tables" in kind else "x.jsonl")
    table = "\n".join(",".join(f'"{cell}"' for cell in row) for row in ROWS).encode()
    inputs: dict[str, Any] = {
        "tables": tables(),
        "damaged tables": damaged(table),
        "lines": lines_of_json(),
        "damaged lines": damaged("\n".join(map(json.dumps, PROBLEMS)).encode()),
        "unique lines": lines_of_json(),
    }

    def check(content: bytes) -> None:
        path.write_bytes(content)
        tally.check(outcome_of(lambda: use(path, tokenizer, unique=kind == "unique lines")), content[:300])

    every(inputs[kind], check, n)
