"""The tables of a report say who shares what."""

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
