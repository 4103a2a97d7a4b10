"""Canvases, targets and orders, on hand-made examples and a model that says what it is told to."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformer_lens.model_bridge.sources import build_bridge_from_module

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.readouts import ABSENT, Readouts, aligned_logits, logit_shift, mask_token, readouts
from mechshift_tl.readouts.commit_order import commit_orders
from mechshift_tl.tasks import Example, Examples, TextPair

MASK, VOCABULARY = 3, 40


class Scripted:
    """A model whose confidence at a position is what `confidence` says while the token before it is committed, and less while it is not."""

    def __init__(self, spec: DiffusionSpec, confidence: list[float] | None = None) -> None:
        self.spec, self.confidence, self.seen = spec, confidence or [0.0] * 16, []
        self.cfg = SimpleNamespace(d_vocab=VOCABULARY, d_vocab_out=-1, device="cpu", model_name="scripted")
        self.max_positions = None

    def token_logits(self, tokens: Tensor) -> Tensor:
        self.seen.append(tokens.clone())
        logits = torch.zeros(*tokens.shape, VOCABULARY)
        follows_mask = torch.cat([torch.zeros_like(tokens[:, :1]), tokens[:, :-1]], 1) == MASK
        logits[..., 0] = torch.tensor(self.confidence[: tokens.shape[1]]) - 10 * follows_mask
        return logits


def scripted(spec: DiffusionSpec, confidence: list[float] | None = None) -> Any:
    """A `Scripted`, which has only what readouts ask of a model."""
    return Scripted(spec, confidence)


ARM = scripted(DiffusionSpec())
FULL = DiffusionSpec(attention="full", logit_shift=0, mask_token_id=MASK)
MDM = scripted(FULL)


def example(
    clean: list[int], corrupt: list[int], start: int, foil: list[int], readable: list[bool] | None = None, group: str = "g"
) -> Example:
    pair = TextPair("", "", "", "", "", group)
    return Example(tuple(clean), tuple(corrupt), start, tuple(foil), tuple(readable or [True] * len(foil)), pair)


@pytest.fixture
def examples() -> Examples:
    """Prompts of two and three tokens; answers of three (the second not read) and two."""
    one = example([10, 11, 20, 21, 22], [12, 13, 30, 31, 32], 2, [30, 21, 32], [True, False, True], "x")
    two = example([14, 15, 16, 23, 24], [14, 17, 16, 33, 34], 3, [33, 34], None, "y")
    return Examples("toy", (one, two), None, {"too long": 4}, seed=7)


def read_at(made: Readouts) -> set[tuple[int, int, int, int]]:
    """(example, position, answer, foil) of everything that is read."""
    frame = made.to_dataframe()
    return set(zip(*(frame[name] for name in ("example", "position", "answer_id", "foil_id")), strict=True))


def test_an_arm_sees_its_answer_and_reads_one_token_a_step(examples) -> None:
    made = readouts(ARM, examples)
    assert made.clean.tolist() == [list(examples[0].clean)] * 2 + [list(examples[1].clean)] * 2
    assert made.corrupt.tolist() == [list(examples[0].corrupt)] * 2 + [list(examples[1].corrupt)] * 2
    assert made.target_pos.tolist() == [[2], [4], [3], [4]]
    assert made.answer_ids.tolist() == [[20], [22], [23], [24]]
    assert made.foil_ids.tolist() == [[30], [32], [33], [34]]
    assert made.step.tolist() == [0, 2, 0, 1] and made.example.tolist() == [0, 0, 1, 1]
    assert made.groups == ("x", "y") and made.steps == [0, 1, 2]


def test_an_mdm_sees_what_is_committed_and_masks(examples) -> None:
    made = readouts(MDM, examples, order="left_to_right")
    assert made.clean.tolist() == [
        [10, 11, MASK, MASK, MASK],
        [10, 11, 20, 21, MASK],
        [14, 15, 16, MASK, MASK],
        [14, 15, 16, 23, MASK],
    ]
    assert made.corrupt.tolist() == [
        [12, 13, MASK, MASK, MASK],
        [12, 13, 30, 31, MASK],
        [14, 17, 16, MASK, MASK],
        [14, 17, 16, 33, MASK],
    ]
    assert made.target_pos.tolist() == [[2], [4], [3], [4]] and made.step.tolist() == [0, 2, 0, 1]


def test_the_clean_answer_may_be_revealed_in_both(examples) -> None:
    for model, revealed_at_last in ((ARM, [12, 13, 20, 21, 22]), (MDM, [12, 13, 20, 21, MASK])):
        made = readouts(model, examples, order="left_to_right", revealed="clean")
        assert made.corrupt[1].tolist() == revealed_at_last
        assert torch.equal(made.clean, readouts(model, examples, order="left_to_right").clean)


def test_the_model_s_confidence_orders_commits_one_at_a_time(examples) -> None:
    """Position 4 leads even behind a mask, and 3 waits for 2; in the second example 3 follows the prompt and leads."""
    model = scripted(FULL, confidence=[0, 0, 2, 9, 13])
    assert commit_orders(model, examples, "confidence", seed=0, batch_tokens=100) == [[2, 0, 1], [0, 1]]
    assert [canvas[0].tolist() for canvas in model.seen[:3]] == [
        [10, 11, MASK, MASK, MASK],
        [10, 11, MASK, MASK, 22],
        [10, 11, 20, MASK, 22],
    ]
    made = readouts(model, examples)
    assert made.clean[made.example == 0].tolist() == [[10, 11, MASK, MASK, MASK], [10, 11, MASK, MASK, 22]]
    assert made.target_pos[made.example == 0].tolist() == [[4], [2]]
    assert made.corrupt[1].tolist() == [12, 13, MASK, MASK, 32]


def test_orders_do_not_depend_on_batching() -> None:
    rows = tuple(example([9, *range(10, 14 + i % 2)], [8, *range(20, 24 + i % 2)], 1, [30] * (4 + i % 2)) for i in range(5))
    made = Examples("toy", rows, None)
    model = scripted(FULL, confidence=[0, 3, 1, 12, 5, 4])
    assert commit_orders(model, made, "confidence", 0, 1) == commit_orders(model, made, "confidence", 0, 1000)


def test_a_random_order_is_a_permutation_drawn_by_the_seed() -> None:
    rows = tuple(example([9, *range(10, 18)], [9, *range(20, 28)], 1, list(range(20, 28))) for _ in range(3))
    made = Examples("toy", rows, None)
    orders = commit_orders(MDM, made, "random", 5, 100)
    assert all(sorted(order) == list(range(8)) for order in orders)
    assert orders == commit_orders(MDM, made, "random", 5, 100) != commit_orders(MDM, made, "random", 6, 100)


@pytest.mark.parametrize("order", ["confidence", "left_to_right", "random"])
@pytest.mark.parametrize("tokens_per_step", [1, 2, 3])
def test_both_models_are_read_at_the_same_positions(examples, order, tokens_per_step: int) -> None:
    expected = read_at(readouts(ARM, examples))
    assert len(expected) == 4
    made = readouts(MDM, examples, order=order, tokens_per_step=tokens_per_step, seed=3)
    assert read_at(made) == expected and int(made.n_read.sum()) == 4


def test_several_tokens_may_commit_in_a_step(examples) -> None:
    made = readouts(MDM, examples, order="left_to_right", tokens_per_step=2)
    assert made.clean.tolist() == [[10, 11, MASK, MASK, MASK], [10, 11, 20, 21, MASK], [14, 15, 16, MASK, MASK]]
    assert made.target_pos.tolist() == [[2, ABSENT], [4, ABSENT], [3, 4]]
    assert made.n_read.tolist() == [1, 1, 2] and made.step.tolist() == [0, 1, 0]


def test_every_canvas_ends_in_the_recipe_s_tail(examples) -> None:
    spec = dataclasses.replace(FULL, tail=(1, 2))
    model = scripted(spec, confidence=[0, 0, 0, 0, 0, 50, 50])
    made = readouts(model, examples)
    assert made.clean.shape == (4, 7)
    for rows in (made.clean, made.corrupt, model.seen[0]):
        assert rows[:, 5:].unique(dim=0).tolist() == [[1, 2]]
    assert read_at(made) == read_at(readouts(ARM, examples))


def test_what_a_report_must_state(examples) -> None:
    assert readouts(MDM, examples, order="random", seed=3).info == {
        "task": "toy", "model": "scripted", "masks": 3, "order": "random", "revealed": "own", "tokens_per_step": 1,
        "dropped": {"too long": 4}, "seed": 7, "mask_token_id": 3,
    }  # fmt: skip
    arm = readouts(ARM, examples).info
    assert arm["masks"] == 0 and arm["order"] == "left_to_right"


def mixed() -> Readouts:
    """Rows of three lengths, with one or two positions, in one or two steps."""
    rows = (
        example([9, 10, 11], [9, 20, 21], 1, [20, 21]),
        example([9, 10, 11, 12, 13], [9, 20, 21, 22, 23], 2, [21, 22, 23]),
        example([9, 10], [9, 20], 1, [20]),
        example([8, 10, 11], [8, 20, 21], 1, [20, 21], [True, False]),
    )
    return readouts(MDM, Examples("toy", rows, None), order="left_to_right", tokens_per_step=2)


def test_rows_are_padded_with_absent() -> None:
    made = mixed()
    assert made.clean.tolist()[3] == [9, MASK, ABSENT, ABSENT, ABSENT]
    assert made.target_pos.tolist() == [[1, 2], [2, 3], [4, ABSENT], [1, ABSENT], [1, ABSENT]]


@pytest.mark.parametrize("batch_tokens", [1, 6, 1000])
def test_batches_are_rectangles_that_cover_every_row_once(batch_tokens: int) -> None:
    made = mixed()
    batches = list(made.batches(batch_tokens))
    assert sorted(i for batch in batches for i in batch.index.tolist()) == list(range(len(made)))
    for batch in batches:
        assert all((getattr(batch, name) != ABSENT).all() for name in ("clean", "corrupt", "target_pos", "answer_ids", "foil_ids"))
        assert len(batch.clean) == 1 or batch.clean.numel() <= batch_tokens
        assert (made.step[batch.index] == batch.step).all()
        length, k = batch.clean.shape[1], batch.target_pos.shape[1]
        assert torch.equal(batch.clean, made.clean[batch.index, :length]) and torch.equal(batch.foil_ids, made.foil_ids[batch.index, :k])


def test_targets_pick_their_logits() -> None:
    made = mixed()
    for batch in made.batches(1000):
        logits = torch.arange(batch.clean.numel() * 5.0).reshape(*batch.clean.shape, 5)
        picked = batch.to("cpu").at_targets(logits)
        for row, positions in enumerate(batch.target_pos.tolist()):
            assert torch.equal(picked[row], logits[row, positions])


def test_selected_examples_are_renumbered() -> None:
    made = mixed()
    chosen = made.select([3, 1])
    assert chosen.example.tolist() == [1, 1, 0] and chosen.groups == (made.groups[3], made.groups[1])
    assert torch.equal(chosen.clean, made.clean[[1, 2, 4]]) and chosen.n_examples == 2


def test_a_table_of_what_is_read(examples) -> None:
    frame = readouts(ARM, examples).to_dataframe()
    assert list(frame.columns) == ["example", "group", "step", "position", "answer_id", "foil_id"]
    assert frame.values.tolist() == [[0, "x", 0, 2, 20, 30], [0, "x", 2, 4, 22, 32], [1, "y", 0, 3, 23, 33], [1, "y", 1, 4, 24, 34]]
    assert "4 rows, 2 examples, 3 steps, 4 positions read" in readouts(ARM, examples)._repr_html_()


def test_a_file_brings_back_everything(tmp_path) -> None:
    made = mixed()
    made.save(tmp_path / "rows.safetensors")
    loaded = Readouts.load(tmp_path / "rows.safetensors")
    for field in dataclasses.fields(made):
        one, other = getattr(made, field.name), getattr(loaded, field.name)
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other, field.name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"order": "entropy"}, "order is 'entropy'"),
        ({"revealed": "both"}, "revealed 'both'"),
        ({"tokens_per_step": 0}, "tokens_per_step must be at least 1, got 0"),
    ],
)
def test_unknown_settings_are_refused(examples, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        readouts(MDM, examples, **settings)


def test_models_that_cannot_be_read_are_refused_before_they_run(examples) -> None:
    maskless = scripted(DiffusionSpec(attention="full", logit_shift=0))
    with pytest.raises(ValueError, match="scripted: an MDM without a mask token cannot be read"):
        readouts(maskless, examples)
    small = scripted(FULL)
    small.cfg.d_vocab = 30
    with pytest.raises(ValueError, match="examples holds id 30, outside the vocabulary of 30"):
        readouts(small, examples)
    assert not maskless.seen and not small.seen
    at_start = Examples("toy", (example([10, 11], [20, 21], 0, [20, 21]),), None)
    with pytest.raises(ValueError, match="target position 0 cannot be predicted"):
        readouts(ARM, at_start)
    assert read_at(readouts(MDM, at_start)) == {(0, 0, 10, 20), (0, 1, 11, 21)}


def test_your_own_tensors() -> None:
    clean, corrupt = torch.tensor([[5, 6, 0], [7, 8, 0]]), torch.tensor([[5, 9, 0], [7, 9, 0]])
    made = Readouts.from_tokens(clean, corrupt, torch.tensor([2, 2]), torch.tensor([1, 2]), torch.tensor([3, 4]), groups=["x", "y"])
    assert made.target_pos.tolist() == [[2], [2]] and made.answer_ids.tolist() == [[1], [2]] and made.foil_ids.tolist() == [[3], [4]]
    assert made.step.tolist() == [0, 0] and made.example.tolist() == [0, 1] and made.groups == ("x", "y") and made.n_examples == 2
    several = Readouts.from_tokens(clean, corrupt, *(torch.tensor([[1, 2], [1, 2]]),) * 3)
    assert several.n_read.tolist() == [2, 2] and several.groups == ("all", "all")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corrupt": torch.zeros(2, 4, dtype=torch.long)}, r"clean \(2, 3\) and corrupt \(2, 4\) must both be \(n, pos\)"),
        ({"clean": torch.zeros(3, dtype=torch.long), "corrupt": torch.zeros(3, dtype=torch.long)}, r"clean \(3,\)"),
        ({"answer_ids": torch.tensor([1])}, r"answer_ids has shape \(1, 1\); give \(n,\) or \(n, k\) with n = 2"),
        ({"foil_ids": torch.tensor([[1, 2], [1, 2]])}, r"foil_ids has shape \(2, 2\)"),
        ({"target_pos": torch.tensor([2, 3])}, r"target_pos must lie in \[0, 3\)"),
        ({"target_pos": torch.tensor([-1, 2])}, r"target_pos must lie in \[0, 3\)"),
        ({name: torch.zeros(2, 0, dtype=torch.long) for name in ("target_pos", "answer_ids", "foil_ids")}, "n be at least 1"),
        ({"clean": torch.tensor([[5, 6, 0], [7, 8, -1]])}, "clean holds id -1.*mask padding by attention_mask"),
        ({"foil_ids": torch.tensor([3, -1])}, "foil_ids holds id -1"),
        ({"groups": ["x"]}, "groups names 1 examples, not 2"),
    ],
)
def test_tensors_that_disagree_are_refused(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "clean": torch.tensor([[5, 6, 0], [7, 8, 0]]),
        "corrupt": torch.tensor([[5, 9, 0], [7, 9, 0]]),
        "target_pos": torch.tensor([2, 2]),
        "answer_ids": torch.tensor([1, 2]),
        "foil_ids": torch.tensor([3, 4]),
    }
    with pytest.raises(ValueError, match=message):
        Readouts.from_tokens(**(good | changes))


def test_logits_are_aligned_on_plain_bridges_too(native) -> None:
    hf_model = native()
    plain = build_bridge_from_module(hf_model, "LlamaForCausalLM", hf_config=hf_model.config, tokenizer=None, model_name="plain")
    arm, mdm = HookedDiffusionTransformer.from_hf(native()), HookedDiffusionTransformer.from_hf(native(), spec=FULL)
    tokens = torch.tensor([[1, 5, 9, 4]])
    assert torch.equal(aligned_logits(plain, tokens)[:, 1:], plain(tokens)[:, :-1])
    torch.testing.assert_close(aligned_logits(plain, tokens), aligned_logits(arm, tokens))
    assert torch.equal(aligned_logits(mdm, tokens), mdm(tokens))
    assert [logit_shift(model) for model in (plain, arm, mdm)] == [1, 1, 0]
    assert [mask_token(model) for model in (plain, arm, mdm)] == [None, None, MASK]
