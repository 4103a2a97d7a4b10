"""Options that several verbs share, and the values that they stand for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar

import typer

from mechshift_tl.cli.console import console, print_notes
from mechshift_tl.cli.errors import opening

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from hooked_diffusion import HookedDiffusionTransformer, Pair
    from hooked_diffusion.checkpoints.fields import Config
    from hooked_diffusion.checkpoints.placement import DeviceMap as Placed

T = TypeVar("T")

#: The seeds that fit 64 bits, as PyTorch takes them.
SEEDS: Any = {"min": -(2**63), "max": 2**64 - 1}
#: More points, random circuits or draws than anybody needs: a number above is a slip of the hand, and would fill the memory.
MOST_POINTS, MOST_DRAWS = 10_000, 1_000_000


def not_empty(value: T) -> T:
    """The value of an option, for typer to check before a verb runs. Raises BadParameter on a text or path of spaces, or of nothing."""
    # An empty text becomes the path ".".
    if value is not None and str(value).strip() in ("", "."):
        raise typer.BadParameter("it is empty; leave the option out, or give it a value")
    return value


PairName = Annotated[
    str, typer.Option("--pair", callback=not_empty, help="Name of a bundled pair, or a folder that holds arm, mdm and tokenizer.")
]
ModelName = Annotated[str, typer.Option("--model", callback=not_empty, help="Checkpoint folder, GGUF file, or hub id (org/name@revision).")]
Out = Annotated[Path | None, typer.Option("--out", help="New or empty folder for the results.")]
Seed = Annotated[int, typer.Option(help="Seed of prompts, floors and intervals.", **SEEDS)]
Steps = Annotated[int, typer.Option(help="Points on the integration path.", max=MOST_POINTS)]
Rule = Annotated[str, typer.Option(help="Where they lie: midpoint, gauss-legendre, right or left.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Discard what a stopped run into the same folder has finished.")]
KV = Annotated[str, typer.Option(help="K and V readers per KV head (grouped) or per query head (ungrouped).")]

DeviceMap = Annotated[
    str | None,
    typer.Option("--device-map", callback=not_empty, help='Where layers go: "auto", …, or JSON, {"module": "cpu" | "disk" | 0, …}.'),
]
Family = Annotated[
    str | None,
    typer.Option(
        "--family", callback=not_empty, help="Family of the checkpoint, of a pair that of its MDM, where its config does not tell it."
    ),
]
ConfigFields = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        help="FIELD=VALUE that config.json leaves out or has wrong, null to take FIELD out; may be repeated. Of a pair it is the MDM's, "
        "arm.FIELD=VALUE the ARM's.",
    ),
]


def _as_json(on: bool) -> bool:
    console.found = {} if on else None
    return on


def _quiet(on: bool) -> bool:
    console.only_last = on
    return on


#: How a command prints is set as soon as the option is read; the verb itself does not ask.
AsJson = Annotated[bool, typer.Option("--json", callback=_as_json, help="Print one JSON object with every table, in place of text.")]
Quiet = Annotated[bool, typer.Option("--quiet", callback=_quiet, help="Print the last line alone: what was found, and where it is.")]


class Opening(TypedDict, total=False):
    """What a command asks of `from_pretrained` or `load_pair`; options that were left out are absent."""

    device: torch.device | None
    device_map: Placed
    family: str
    config: Config


class PairOpening(Opening, total=False):
    """`Opening` of a pair, whose ARM has a config of its own."""

    arm_config: Config


def words_of(text: str) -> list[str]:
    """Words separated by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def number_of(word: str, option: str) -> int:
    """A whole number. Raises ValueError naming the option."""
    if not word.isdigit():
        raise ValueError(f"{option} holds {word!r}; give whole numbers, separated by commas")
    return int(word)


def placed(device_map: str | None) -> Opening:
    """Where a model goes: as the map says, or to this process's own device.

    Raises ValueError on a map that is no JSON, and on any map where several processes were launched.
    """
    from mechshift_tl.runs.processes import Processes

    if device_map is None:
        return {"device": Processes.here().device}
    if Processes.here().count > 1:
        raise ValueError("--device-map spreads a model over all devices, which several processes cannot share; launch one, or leave it out")
    try:
        return {"device_map": json.loads(device_map) if device_map.startswith("{") else device_map}
    except ValueError as error:
        raise ValueError(f"--device-map {device_map} is not valid JSON: {error}") from error


def read_as(family: str | None, config: list[str] | None, of_pair: bool = False) -> Opening:
    """How a config is read: only what was asked for, `of_pair` a `PairOpening`.

    Raises ValueError on an entry that is no FIELD=VALUE, or that names a field twice. A VALUE that is no JSON is text.
    """
    fields: dict[str, dict[str, object]] = {"config": {}, "arm_config": {}}
    for entry in config or []:
        field, equals, text = entry.partition("=")
        kind, name = ("arm_config", field[4:]) if of_pair and field.startswith("arm.") else ("config", field)
        if not name or not equals:
            raise ValueError(
                f"--config {entry!r} is no FIELD=VALUE; write --config rope_theta=10000, or --config FIELD=null to take one out"
            )
        if name in fields[kind]:
            raise ValueError(f"--config gives {field} twice; give it once")
        try:
            fields[kind][name] = json.loads(text)
        except (ValueError, RecursionError):
            fields[kind][name] = text
    asked: PairOpening = {}
    if family:
        asked["family"] = family
    if fields["config"]:
        asked["config"] = fields["config"]
    if fields["arm_config"]:
        asked["arm_config"] = fields["arm_config"]
    return asked


def open_pair(name: str, place: Opening | None = None) -> Pair:
    """The pair called `name`; `place` says where it goes and how it is read, by default on this process's device.

    Notes that were made while its checkpoints were read are printed.
    """
    from hooked_diffusion import load_pair

    with console.status(f"opening {name}"), opening(f"the pair {name}"):
        pair = load_pair(name, **(place or placed(None)))
    print_notes(f"{role}: {note}" for role, model in pair.models.items() for note in model.source.get("notes", []))
    return pair


def tokenizer_of(pair: Pair) -> PreTrainedTokenizerBase:
    """The tokenizer that a pair's models share. Raises ValueError where there is none."""
    if pair.tokenizer is None:
        raise ValueError(f"the pair {pair.name} has no tokenizer, which prompts need; add its files to the pair's folder")
    return pair.tokenizer


def open_model(name: str, place: Opening) -> HookedDiffusionTransformer:
    """The model called `name`; `place` says where it goes and how it is read. Notes from reading its checkpoint are printed."""
    from hooked_diffusion import HookedDiffusionTransformer

    with console.status(f"opening {name}"), opening(f"the model {name}"):
        model = HookedDiffusionTransformer.from_pretrained(name, **place)
    print_notes(model.source.get("notes", []))
    return model
