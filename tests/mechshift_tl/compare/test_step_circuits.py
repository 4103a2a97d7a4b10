"""Circuits of groups of rows: as attributing the group alone gives them, and overlaps that are known by construction."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch

from mechshift_tl.attribution import attribute
from mechshift_tl.circuits.select import Selection
from mechshift_tl.compare.row_groups import MIN_READS, RowGroups, half_labels, step_labels
from mechshift_tl.compare.step_circuits import group_overlaps
from mechshift_tl.compare.step_result import GroupOverlaps, StepCircuits
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts

GRAPH = Graph(2, 2, 2)
CHOSEN = Selection(n=12, prune=False)


def only(rows: Readouts, kept: list[int]) -> Readouts:
    """Some rows alone."""
    tensors: dict[str, Any] = {name: tensor[kept] for name, tensor in rows.tensors().items()}
    return replace(rows, **tensors)


def test_groups_score_as_their_rows_alone(models, rows, monkeypatch):
    monkeypatch.setattr("mechshift_tl.compare.row_groups.MIN_READS", 1)
    per_row = attribute(models["arm"], rows.by_row(), ig_steps=2, keep_per_example=True)
    labels = ("x", "y", "", "x", "y", "y", "x", "")
    groups = RowGroups.of(per_row, rows, labels)
    assert groups.reads == {"x": int(rows.n_read[[0, 3, 6]].sum()), "y": int(rows.n_read[[1, 4, 5]].sum())}
    for matrix, kept in zip(groups.matrices(), ([0, 3, 6], [1, 4, 5]), strict=True):
        torch.testing.assert_close(matrix, attribute(models["arm"], only(rows, kept), ig_steps=2).matrix, atol=1e-5, rtol=1e-4)


def test_steps_and_drawn_prompts_are_those_of_the_usual_scores(models, rows, monkeypatch):
    monkeypatch.setattr("mechshift_tl.compare.row_groups.MIN_READS", 1)
    usual = attribute(models["mdm"], rows, ig_steps=2, keep_per_example=True)
    per_row = attribute(models["mdm"], rows.by_row(), ig_steps=2, keep_per_example=True)
    steps = RowGroups.of(per_row, rows, step_labels(rows))
    assert list(steps.reads) == ["0", "2"]
    torch.testing.assert_close(steps.matrices(), usual.per_step, atol=1e-5, rtol=1e-4)
    every = RowGroups.of(per_row, rows, ("all",) * len(rows))
    drawn = every.matrices(torch.tensor([2.0, 0.0, 1.0, 1.0]))[0]
    torch.testing.assert_close(drawn, usual.resample([0, 0, 2, 3]).matrix, atol=1e-5, rtol=1e-4)


def test_early_and_late_steps_hold_about_as_many_rows(rows):
    assert half_labels(rows) == ("early",) * 4 + ("late",) * 4
    assert set(half_labels(replace(rows, step=torch.zeros_like(rows.step)))) == {""}
    uneven = replace(rows, step=torch.tensor([0, 0, 0, 0, 0, 1, 2, 2]))
    assert half_labels(uneven) == ("early",) * 5 + ("late",) * 3


def made(masks: list[torch.Tensor], n: int = MIN_READS) -> RowGroups:
    """`n` prompts, each with a row per mask, whose scores are 1 on the mask's edges."""
    k = len(masks)
    noise = 1 + 0.01 * torch.rand(n * k, *GRAPH.shape, generator=torch.Generator().manual_seed(0))
    per_row = torch.stack(masks * n).float() * noise
    labels = tuple(str(i) for i in range(k)) * n
    example = torch.arange(n).repeat_interleave(k)
    return RowGroups(GRAPH, per_row, torch.ones(n * k, dtype=torch.long), example, n, labels)


def random_masks(k: int) -> list[torch.Tensor]:
    generator, possible = torch.Generator().manual_seed(3), GRAPH.possible.flatten().nonzero()[:, 0]
    masks = []
    for _ in range(k):
        mask = torch.zeros(GRAPH.shape, dtype=torch.bool)
        mask.view(-1)[possible[torch.randperm(len(possible), generator=generator)[:12]]] = True
        masks.append(mask)
    return masks


def measured(masks: list[torch.Tensor], **settings: int) -> GroupOverlaps:
    found = group_overlaps(made(masks), CHOSEN, role="mdm", family="step", **{"n_boot": 3, "n_random": 5, **settings})
    assert found is not None
    return found


def test_overlaps_are_those_of_sets(scored):
    masks = random_masks(3)
    found = measured(masks)
    sets = [{(u, v) for u, v in mask.nonzero().tolist()} for mask in masks]
    assert found.edges == [[pytest.approx(len(a & b) / len(a | b)) for b in sets] for a in sets]
    pairs = [len(a & b) / len(a | b) for a, b in permutations(sets, 2)]
    assert found.statistics["edge overlap"].value == pytest.approx(sum(pairs) / len(pairs))
    names = [set(component_names(one)) for one in sets]
    shared = [len(a & b) / len(a) for a, b in permutations(names, 2)]
    assert found.statistics["components shared"].value == pytest.approx(sum(shared) / len(shared))
    everywhere, anywhere = set.intersection(*names), set.union(*names)
    assert found.statistics["components in all"].value == pytest.approx(len(everywhere) / len(anywhere))


def component_names(edges: set[tuple[int, int]]) -> set[str]:
    """Heads and MLPs at either end of an edge."""
    ends = {GRAPH.writers[u] for u, _ in edges if u} | {name for _, v in edges for name in GRAPH.components_of(GRAPH.readers[v])}
    return ends


def test_joined_circuits_are_held_against_the_pooled_one():
    a, b, c = random_masks(3)
    found = measured([a, a, b]).statistics
    pooled = torch.stack([a, a, b]).float().mean(0).flatten().topk(12).indices
    chosen = torch.zeros(GRAPH.possible.numel(), dtype=torch.bool)
    chosen[pooled] = True
    assert (chosen.view_as(a) & a).sum() == 12  # two steps of three hold a
    assert found["vote ~ pooled"].value == 1 and found["mean |score| ~ pooled"].value == 1
    assert found["union ~ pooled"].value == pytest.approx(12 / int((a | b).sum()))


def test_one_circuit_at_every_step_is_told_from_one_of_each():
    mask = random_masks(1)[0]
    same, own = measured([mask] * 3), measured(random_masks(3))
    assert same.statistics["components shared"].value == same.statistics["components in all"].value == 1
    ends = own.statistics["edge overlap"]
    assert ends.floor is not None and ends.ceiling == pytest.approx(1) and ends.value < 0.6
    assert ends.interval is not None and ends.interval.low <= ends.value + 1e-6


def test_claim_table_figure_and_file(tmp_path):
    parts = (measured(random_masks(3)), replace(measured(random_masks(2)), family="half"))
    found = StepCircuits("made", parts)
    assert not found.supported and "Not supported: the MDM's steps share more than 90 %" in found.finding()
    assert "Edge overlap of early and late steps: MDM" in found.finding()
    assert found.to_dataframe()["statistic"].tolist()[:2] == ["edge overlap", "component overlap"] and len(found.groups()) == 5
    found.save(tmp_path / "steps.json")
    again = StepCircuits.load(tmp_path / "steps.json")
    assert again.finding() == found.finding() and len(list(again.figure().data)) == 1
    assert found.of("arm", "step") is None


def test_too_few_prompts_are_said_to_be_too_few():
    found = StepCircuits("made", ())
    assert found.finding().startswith("Not measured") and not len(found.to_dataframe()) and not len(found.groups())
    assert not len(list(found.figure().data)) and not found.supported


def test_groups_with_few_reads_and_wrong_scores_are_refused(models, rows):
    assert group_overlaps(made(random_masks(2), n=2), CHOSEN, role="mdm", family="step") is None
    scores = attribute(models["arm"], rows, ig_steps=1, keep_per_example=True)
    with pytest.raises(ValueError, match="scores of 4 examples for 8 rows; attribute readouts.by_row"):
        RowGroups.of(scores, rows, step_labels(rows))
