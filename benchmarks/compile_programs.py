"""Compile the RASP programs of `mechshift_tl.truth` with Tracr, once; their weights are kept in the package.

    python -m venv /tmp/tracr && /tmp/tracr/bin/pip install tracr-pypi safetensors
    /tmp/tracr/bin/python benchmarks/compile_programs.py mechshift_tl/truth/weights

It needs JAX, which nothing else here does, so it runs in an environment of its own and imports nothing of this library. A file holds the
weights under the names of TransformerLens' own model (`boot_native`), and in its header the sizes and the ids of both vocabularies.
Fraction-prevs has a numerical output, which TransformerLens refuses; its categorical variant says whether the fraction exceeds one half.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tracr.compiler import assemble, compiling, lib  # pyright: ignore[reportMissingImports]
from tracr.rasp import rasp  # pyright: ignore[reportMissingImports]

LENGTH = 5
#: Program, vocabulary, longest row without BOS.
PROGRAMS = {
    "reverse": (lambda: lib.make_reverse(rasp.tokens), "abc", LENGTH),
    "histogram": (lib.make_hist, "abc", LENGTH),
    "unique-sort": (lambda: lib.make_sort_unique(rasp.tokens, rasp.tokens), range(1, 6), 4),
    "sort": (lambda: lib.make_sort(rasp.tokens, rasp.tokens, max_seq_len=4, min_key=1), range(1, 4), 4),
    "dyck": (lambda: lib.make_shuffle_dyck(["()"]), "()", 4),
    "fraction": (lambda: rasp.Map(lambda share: share > 0.5, lib.make_frac_prevs(rasp.tokens == "x")), "xyz", LENGTH),
    "pattern": (lambda: lib.detect_pattern(rasp.tokens, "abc"), "abcd", LENGTH),
}
#: Tracr's names of a layer's linear maps, and those of TransformerLens' own model.
MAPS = {
    "attn/query": "attn.q", "attn/key": "attn.k", "attn/value": "attn.v", "attn/linear": "attn.o", "mlp/linear_1": "mlp.fc_in",
    "mlp/linear_2": "mlp.fc_out",
}  # fmt: skip


def weights(model: assemble.AssembledTransformerModel, label: str) -> dict[str, np.ndarray]:
    """The state dict of TransformerLens' own model; linear maps are stored as PyTorch does, output first. `label`: the output's."""
    found = {
        "tok_embed.weight": model.params["token_embed"]["embeddings"],
        "pos.weight": model.params["pos_embed"]["embeddings"],
        "head.weight": unembedding(model, label),
    }
    for layer in range(model.model_config.num_layers):
        for theirs, ours in MAPS.items():
            params = model.params[f"transformer/layer_{layer}/{theirs}"]
            found |= {f"layers.{layer}.{ours}.weight": params["w"].T, f"layers.{layer}.{ours}.bias": params["b"]}
    return {name: np.ascontiguousarray(value, dtype=np.float32) for name, value in found.items()}


def unembedding(model: assemble.AssembledTransformerModel, label: str) -> np.ndarray:
    """`(d_vocab_out, d_model)`: each output value is read off its own direction of the residual stream."""
    values = model.output_encoder.encoding_map
    matrix = np.zeros((len(values), len(model.residual_labels)))
    for value, row in values.items():
        matrix[row, model.residual_labels.index(f"{label}:{value}")] = 1
    return matrix


def header(model: assemble.AssembledTransformerModel) -> dict[str, str]:
    """Sizes and vocabularies, as text: a safetensors header holds nothing else."""
    sizes = model.model_config
    config = {
        "n_layers": sizes.num_layers, "n_heads": sizes.num_heads, "d_head": sizes.key_size, "d_mlp": sizes.mlp_hidden_size,
        "d_model": len(model.residual_labels), "d_vocab": model.input_encoder.vocab_size, "n_ctx": model.input_encoder._max_seq_len,
        "d_vocab_out": len(model.output_encoder.encoding_map),
    }  # fmt: skip
    reads = {str(value): int(index) for value, index in model.input_encoder.encoding_map.items()}
    writes = {str(value): int(index) for value, index in model.output_encoder.encoding_map.items()}
    return {"config": json.dumps(config), "reads": json.dumps(reads), "writes": json.dumps(writes)}


def main(folder: Path) -> None:
    """Write one file a program."""
    for name, (make, vocabulary, length) in PROGRAMS.items():
        program = make()
        model = compiling.compile_rasp_to_model(program, vocab=set(vocabulary), max_seq_len=length, compiler_bos="BOS")
        save_file(weights(model, program.label), folder / f"{name}.safetensors", metadata=header(model))
        print(name, header(model)["config"], header(model)["writes"], flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
