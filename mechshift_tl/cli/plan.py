"""`mechshift plan`: the time, memory and disk that attributing a model will take."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from mechshift_tl.cli.console import console, print_frame, print_last, print_notes
from mechshift_tl.cli.errors import clear_errors
from mechshift_tl.cli.options import KV, AsJson, ConfigFields, Family, Quiet, Seed, Steps, number_of, read_as, words_of
from mechshift_tl.cli.task_options import Data, TaskName, named, task_of


def plan(
    pair: Annotated[str, typer.Option("--pair", help="A public pair by name, a bundled one, a folder, a GGUF file, or a hub id.")],
    task: TaskName = None,
    data: Data = None,
    n: Annotated[int | None, typer.Option(help="Prompts; default 500, or all of a file.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens per row; default counted, where a tokenizer is at hand.")] = None,
    read: Annotated[int | None, typer.Option(help="Answer tokens read per prompt; default counted likewise, or 1.")] = None,
    batch: Annotated[str, typer.Option(help="Rows at a time, separated by commas.")] = "8",
    dtype: Annotated[str, typer.Option(help="Dtypes of the weights, separated by commas.")] = "float32,bfloat16",
    flops: Annotated[float, typer.Option(help="Operations per second of the device, as it reaches them.")] = 1e14,
    ig_steps: Steps = 5,
    kv: KV = "grouped",
    seed: Seed = 0,
    family: Family = None,
    config: ConfigFields = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Count what attributing a model will take, without its weights: edges, operations, time, memory, disk."""
    with clear_errors():
        from mechshift_tl.attribution.path import quadrature
        from mechshift_tl.graph import KV as KVMode
        from mechshift_tl.planning import estimate
        from mechshift_tl.planning.shapes import find_shape

        # Refuses a number of steps that cannot be, before anything is fetched.
        quadrature("midpoint", ig_steps)
        batches = [number_of(word, "--batch") for word in words_of(batch)]
        how = read_as(family, config)
        name, file = named(task or ("countdown" if data is None else None), data)
        chosen, shape = task_of(name, file), find_shape(pair, how.get("family"), how.get("config"))
        if tokens is not None:
            count = n or (500 if file is None else chosen.capacity("held_out") or 500)
            work = estimate.Workload(count, count * (1 if read is None else read), tokens)
        elif (tokenizer := shape.tokenizer()) is not None:
            work = estimate.workload_of(chosen, tokenizer, 500 if n is None and file is None else n, seed)
        else:
            raise ValueError(f"no tokenizer of {pair} is at hand to count tokens with; state them with --tokens (and --read)")
        with console.status("running it without data"):
            made = estimate.plan(
                shape.config, work, name=shape.name, ig_steps=ig_steps, kv=cast(KVMode, kv), rate=flops, dtypes=words_of(dtype),
                batches=batches, notes=shape.notes,
            )  # fmt: skip
        print_notes(made.notes)
        print_frame(f"Plan of {pair}: {chosen.name}, n = {work.examples}", made.summary(), "plan")
        print_frame("Memory", made.to_dataframe(), "memory")
        print_last(f"{made.seconds:,.1f} s at {made.rate:.3g} operations per second, for {work.rows:,} rows of {work.tokens} tokens")
