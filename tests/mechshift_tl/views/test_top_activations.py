"""The tokens that most activate a neuron, against a search of the cache in plain loops."""

from __future__ import annotations

import pytest
import torch

from hooked_diffusion import HookedDiffusionTransformer
from mechshift_tl.readouts import Readouts
from mechshift_tl.views.top_activations import top_activations


@pytest.fixture(scope="module")
def model(native):
    return HookedDiffusionTransformer.from_hf(native())


@pytest.fixture(scope="module")
def rows() -> Readouts:
    """Three examples; the first has two rows that differ in one token, as the steps of a denoising run do."""
    clean = torch.randint(4, 48, (4, 6), generator=torch.Generator().manual_seed(0))
    clean[1] = clean[0]
    clean[1, 3] = 2
    target = torch.full((4, 1), 5)
    return Readouts(clean, clean, target, target, target + 1, torch.tensor([0, 1, 0, 0]), torch.tensor([0, 0, 1, 2]), ("x", "y", "z"))


def test_they_are_the_largest_of_the_cache(model, rows):
    found = top_activations(model, rows, ["m1.n7", "m0.n3"], n=4)
    _, cache = model.run_with_cache(rows.clean)
    for name, layer, number in (("m1.n7", 1, 7), ("m0.n3", 0, 3)):
        values = cache[f"blocks.{layer}.mlp.hook_post"][..., number].tolist()
        best: dict[tuple[int, int], float] = {}
        for row, example in enumerate(rows.example.tolist()):
            for position, value in enumerate(values[row]):
                if abs(value) > abs(best.get((example, position), 0.0)):
                    best[example, position] = value
        expected = sorted(best.items(), key=lambda item: -abs(item[1]))[:4]
        mine = found[found["neuron"] == name]
        assert mine["activation"].tolist() == pytest.approx([value for _, value in expected], rel=1e-4)
        assert list(zip(mine["example"], mine["position"], strict=True)) == [place for place, _ in expected]


def test_batches_do_not_matter(model, rows):
    names = ["m0.n1", "m1.n2"]
    one, whole = top_activations(model, rows, names, batch_tokens=1), top_activations(model, rows, names)
    assert one[["example", "position", "token"]].equals(whole[["example", "position", "token"]])


def test_context_shows_the_token_among_its_neighbours(model, rows, word_tokenizer):
    line = top_activations(model, rows, ["m1.n0"], n=1, context=2, tokenizer=word_tokenizer).iloc[0]
    words = line["context"].split(" ")
    assert f"⟦{line['token']}⟧" in words and len(words) <= 5
    row = rows.clean[rows.example == line["example"]][:, line["position"]].tolist()
    assert line["token"] in {word_tokenizer.decode([token]) for token in row}


@pytest.mark.parametrize("name", ["m2.n0", "m0.n64", "a0.h1", "m0"])
def test_what_is_no_neuron_is_refused(model, rows, name):
    with pytest.raises(ValueError, match="is no neuron of this model"):
        top_activations(model, rows, [name])
