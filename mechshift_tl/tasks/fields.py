"""Fields of an answer made of equations, `44-15=29,79-29=50`: the kinds of each, the tokens it has, and examples read at some kinds alone.

- *operand*: a number before an equals sign; *first operand*: the answer's first field, which is an operand too;
- *intermediate*: an operand that repeats the result just before it, where a task writes chains so that it always stands first;
- *result*: a number after an equals sign; *target*: the last one, where the prompt shows it;
- *operator*: + - * /; *sign*: = and the comma.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from mechshift_tl.tasks.examples import CannotAlign, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Kind = Literal["first operand", "operand", "intermediate", "operator", "result", "target", "sign"]


def fields_of(answer: str) -> list[str]:
    """Numbers and signs in the order they are written."""
    return re.findall(r"\d+|[^\d\s]", answer)


def field_kinds(answer: str, *, chained: bool = False, ends_at_target: bool = False) -> list[frozenset[Kind]]:
    """The kinds of each field of `answer`, `(n_fields,)`.

    `chained`: an equation starts with the result of the one before. `ends_at_target`: the prompt shows the last result.
    """
    fields = fields_of(answer)
    kinds = [_kinds(fields[i - 1] if i else "", field, chained) for i, field in enumerate(fields)]
    return [*kinds[:-1], frozenset({"target"})] if ends_at_target else kinds


def _kinds(before: str, field: str, chained: bool) -> frozenset[Kind]:
    """The kinds of one field, from what stands before it."""
    if field in "=,":
        return frozenset({"sign"})
    if not field.isdigit():
        return frozenset({"operator"})
    if before == "=":
        return frozenset({"result"})
    if before == "," and chained:
        return frozenset({"intermediate"})
    return frozenset({"operand", "first operand"} if not before else {"operand"})


def token_kinds(tokenizer: PreTrainedTokenizerBase, example: Example, kinds: Sequence[frozenset[Kind]]) -> list[frozenset[Kind]]:
    """The kinds of each token of the example's answer, `(n_answer,)`, given those of its fields; a token has its first character's field.

    A token without a digit or sign, such as a space, has none.
    """
    offsets = tokenizer(example.pair.prompt + example.pair.answer, return_offsets_mapping=True)["offset_mapping"]
    spans = [match.span() for match in re.finditer(r"\d+|[^\d\s]", example.pair.answer)]
    at = len(example.pair.prompt)
    owner = {at + place: kind for (start, stop), kind in zip(spans, kinds, strict=True) for place in range(start, stop)}
    answer = offsets[example.answer_start : example.answer_start + len(example.answer)]
    return [next((owner[p] for p in range(start, stop) if p in owner), frozenset()) for start, stop in answer]


def read_only(tokenizer: PreTrainedTokenizerBase, example: Example, kinds: Sequence[frozenset[Kind]], read: Collection[Kind]) -> Example:
    """The example, readable only at tokens of a kind in `read`. Raises `CannotAlign` where none is left."""
    chosen = [bool(kind & set(read)) for kind in token_kinds(tokenizer, example, kinds)]
    readable = tuple(was and now for was, now in zip(example.readable, chosen, strict=True))
    if not any(readable):
        raise CannotAlign(f"no position to read among {', '.join(read)}")
    return replace(example, readable=readable)


def check_kinds(task: str, read: Collection[Kind] | None) -> None:
    """Raise ValueError on a kind that there is not."""
    for kind in read or ():
        if kind not in get_args(Kind):
            raise ValueError(f"{task}: read holds {kind!r}; choose among {', '.join(get_args(Kind))}")


def hard_foil(answer: str, numbers: Sequence[int], target: int, valid: Collection[str], prefer: int = 0) -> str:
    """`answer` with each of its numbers replaced by another number of the prompt: what a model confuses it with, rather than any number.

    A candidate has as many digits, and begins no `valid` text after what is written before it. Given numbers come before the target, in
    an order turned by `prefer`. A field without a candidate, and every operator and sign, stays: it is not read.
    """
    turn = prefer % len(numbers)
    candidates = [str(number) for number in (*numbers[turn:], *numbers[:turn], target)]
    written, foil = "", ""
    for field in fields_of(answer):
        others = [c for c in candidates if field.isdigit() and c != field and len(c) == len(field)]
        allowed = [c for c in others if not any(_begins(written + c, text) for text in valid)]
        foil += allowed[0] if allowed else field
        written += field
    return foil


def _begins(start: str, text: str) -> bool:
    """Whether `text` begins with the fields of `start`."""
    return text.startswith(start) and not text[len(start) : len(start) + 1].isdigit()
