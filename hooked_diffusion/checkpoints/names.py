"""The fields that the name of a checkpoint tells. Its config leaves them out: its authors' code fixes them, or only the name has them.

A name is the last part of a hub id or path. It is also found in the folders of Hugging Face's cache (`models--org--name/snapshots/…`) and
in folders and files called `org__name`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter
from hooked_diffusion.checkpoints.fields import Config, shown, text_in

HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Known:
    """Repositories whose name matches the pattern `names`: known fields of their config, and the code that has `fixed` them."""

    names: str
    fields: Mapping[str, object]
    fixed: str


KNOWN = (
    Known(r"llama-2-(7|13|70)b(-chat)?-hf", {"rope_theta": 10000.0}, "Llama 2's own code"),
    Known(r"gpt2(-medium|-large|-xl)?", {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}, "GPT-2's own code"),
)

#: Rows of a stored embedding that its config may not count.
ROWS = {"diffugpt-m": 50258}


def is_known(name: str) -> bool:
    """Whether fields of the configs of that name are known."""
    return any(re.fullmatch(known.names, name, re.IGNORECASE) for known in KNOWN)


def repository_name(name_or_path: str | Path) -> str:
    """The name of a repository, from a hub id or a path; see the module docstring."""
    path = Path(name_or_path).expanduser()
    if isinstance(name_or_path, str) and not path.exists() and (match := HUB_ID.fullmatch(name_or_path)):
        return match["repo"].rpartition("/")[2]
    if path.suffix == ".json":
        path = path.parent if path.name == "config.json" else path.with_suffix("")
    # Hugging Face's cache: models--org--name/snapshots/<commit>.
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):
        path = path.parent.parent
    name = re.split(r"__|--", path.name)[-1] if re.match(r"models--|[\w.-]+?__", path.name) else path.name
    return name.partition("@")[0]


def saved_from(config: Config) -> str:
    """The name of the checkpoint that a config was saved from, as transformers keeps it; empty where it is not stated."""
    return (text_in(config, "_name_or_path") or "").rstrip("/").rpartition("/")[2]


def told_by_name(config: Config, adapter: CheckpointAdapter, name: str) -> tuple[dict[str, object], tuple[str, ...]]:
    """Fields that the config leaves out and its name tells, and a note for each; `usual` values of the family where the name is silent."""
    found: dict[str, object] = {}
    notes: list[str] = []
    for known in KNOWN:
        if like := next((one for one in (name, saved_from(config)) if re.fullmatch(known.names, one, re.IGNORECASE)), None):
            # What the config states itself always counts.
            absent = {field: value for field, value in known.fields.items() if not _states(config, field)}
            found |= absent
            notes += [
                f"{field} = {value}, which the config leaves out: known of {like}, by {known.fixed}" for field, value in absent.items()
            ]
    for field, pattern in adapter.told_by_name.items():
        # A made-up name could hold a number of thousands of digits, which Python refuses to read.
        if (match := re.search(pattern, name)) and len(match[1]) < 10:
            number = int(match[1])
            if not _states(config, field):
                found[field] = number
                notes.append(f"{field} = {number}, which the config leaves out: told by the name {name}")
            elif config[field] != number:
                notes.append(f"{field} = {shown(config[field])} by the config, though the name {name} tells {number}: the config counts")
    for usual in adapter.usual:
        left_out = usual.field not in found and not _states(config, usual.field)
        if left_out and usual.rows in (None, config.get("vocab_size")):
            found[usual.field] = usual.value
            notes.append(f"{usual.field} = {usual.value}, as is usual for {adapter.family}: neither config, tokenizer nor name states it")
    return found, tuple(notes)


def _states(config: Config, field: str) -> bool:
    """Whether a config has a value for a field; RoPE's base may stand within `rope_parameters`."""
    nested = config.get("rope_parameters") if field == "rope_theta" else None
    return config.get(field) is not None or (isinstance(nested, dict) and nested.get(field) is not None)
