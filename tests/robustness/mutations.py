"""Files made wrong at random: values of any kind in the place of others, parts gone or added, bytes changed or cut off."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

#: What hypothesis would complain of: files are slow to make, and some of the mutations cannot be written.
SLOW = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.large_base_example]
HUGE = [-1, 0, 10**6, 10**9, 2**31, 2**63, 10**400, 1e300, float("nan"), float("inf")]
PLAIN = st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(HUGE) | st.floats() | st.text(max_size=6)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3), max_leaves=6
)


@st.composite
def mutated(draw: st.DrawFn, document: Any, values: st.SearchStrategy[Any] = VALUES) -> Any:
    """`document`, made of dictionaries and lists, with one to three of its parts replaced, taken out or added."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        holder = changed
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = draw(st.sampled_from(keys)) if keys else None
            within = holder[key] if key is not None else None
            if not isinstance(within, (dict, list)) or draw(st.booleans()):
                break
            holder = within
        action = draw(st.sampled_from(["replace", "replace", "take out", "add"]))
        if action == "add" or key is None:
            value = draw(values)
            holder.append(value) if isinstance(holder, list) else holder.update({draw(st.text(max_size=6)): value})
        elif action == "replace":
            holder[key] = draw(values)
        else:
            del holder[key]
    return changed


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` with some bytes changed, and maybe cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        changed[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(changed[: draw(st.sampled_from([len(content), draw(st.integers(0, len(content)))]))])


def every(inputs: st.SearchStrategy[Any], check: Callable[[Any], None], n: int) -> None:
    """`check` on `n` inputs, the same ones in every run."""

    @settings(max_examples=n, derandomize=True, database=None, deadline=None, suppress_health_check=SLOW)
    @given(inputs)
    def each(input: Any) -> None:
        check(input)

    each()
