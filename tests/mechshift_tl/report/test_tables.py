"""The tables of a report say who shares what."""

from typing import cast

import torch

from mechshift_tl.report import tables


def test_edge_tables_say_which_circuits_hold_an_edge(task_study):
    held = {role: circuit.edge_set() for role, circuit in task_study.circuits.items()}
    found = tables.edge_tables(task_study)
    assert found.keys() == held.keys()
    for role, rows in found.items():
        assert len(rows) == tables.EDGES_SHOWN
        for row in rows:
            edge = (row["writer"], row["reader"])
            assert row["pruned"] == (edge not in held[role])
            assert row["shared"] == [other for other in held if other != role and edge in held[other]]


def test_lens_tables_read_each_set_in_both_models(task_study):
    sets = task_study.component_sets()
    found = tables.lens_tables(task_study)
    assert {name: one["total"] for name, one in found.items()} == {name: len(components) for name, components in sets.items()}
    lens = task_study.lenses["mdm"]
    for row in (row for one in found.values() for row in cast(list, one["rows"])):
        effect = lens.effects[lens.components.index(row["component"])]
        assert torch.isclose(torch.tensor(row["mdm"]["logit_diff"]), effect) and len(row["mdm"]["tokens"]) <= tables.TOKENS_SHOWN


def test_line_breaks_in_tokens_are_spelled_out():
    assert tables._spelled([("\n", 0.5), (" Mary", 0.5)]) == [("\\n", 0.5), (" Mary", 0.5)]


def test_specialisation_of_every_model(task_study):
    rows: list = list(tables.specialisation_rows(task_study))
    assert [row["role"] for row in rows] == ["arm", "mdm", "control"]
    assert all(row["of"].components == 10 and row["of"].naming <= row["of"].with_effect for row in rows)
