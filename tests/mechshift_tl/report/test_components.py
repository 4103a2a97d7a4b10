"""What the page shows of components, circuits and a run is what the results say."""

import pytest
import torch

from mechshift_tl.report.circuit_map import circuit_map
from mechshift_tl.report.components import components, patterns
from mechshift_tl.report.player import played, spelled
from mechshift_tl.views.playback import play


def test_the_map_holds_every_edge_with_its_scores(task_study):
    found = circuit_map(task_study)
    for role, circuit in task_study.circuits.items():
        mine = {(edge["writer"], edge["reader"]): edge["scores"][role] for edge in found["edges"] if role in edge["scores"]}
        rows = circuit.to_dataframe()
        assert mine.keys() == circuit.edge_set() and found["kept"][role] == circuit.kept
        for writer, reader, score in zip(rows["writer"], rows["reader"], rows["score"], strict=True):
            assert mine[writer, reader] == pytest.approx(score, rel=1e-3)
    for edge in found["edges"]:
        assert edge["into"] == (task_study.circuits["arm"].graph.components_of(edge["reader"]) or ["logits"])


def test_components_are_those_of_the_circuits_strongest_first(task_study):
    found = components(task_study)
    circuits = task_study.circuits
    assert {one.id for one in found} == {name for circuit in circuits.values() for name in circuit.components["component"]}
    largest = [max(one.mass.values()) for one in found]
    assert largest == sorted(largest, reverse=True)


def test_a_component_s_numbers_are_those_of_its_results(task_study):
    for one in components(task_study)[:4]:
        for role, lens in task_study.lenses.items():
            assert one.lens[role].effect == pytest.approx(lens.effects[lens.components.index(one.id)].item(), abs=1e-5)
            row = task_study.circuits[role].components.set_index("component")["score"]
            assert one.mass[role] == pytest.approx(row.get(one.id, 0.0), rel=1e-5)
        sets = [name for name, members in task_study.component_sets.items() if one.id in members]
        assert one.set == (sets[0] if sets else "")
        assert all(one.id in (edge.writer, *task_study.circuits["arm"].graph.components_of(edge.reader)) for edge in one.edges)


def test_steps_sum_to_the_whole(task_study):
    """Mean |score| by step need not be |mean score|; of one step, it is."""
    one = components(task_study)[0]
    assert [line.step for line in one.steps] == [0, 1]
    scores = task_study.scores["mdm"]
    graph, size = scores.graph, scores.per_step[1].abs()
    place = graph.components.index(one.id)
    expected = size.sum(1)[1:][place] + (size.sum(0) @ graph.membership[:, 1:])[place]
    assert one.steps[1].mass["mdm"] == pytest.approx(expected.item(), rel=1e-5)


def test_no_patterns_where_none_were_measured(task_study):
    assert patterns(task_study) is None and not any(one.has_attention for one in components(task_study))


def test_a_run_is_played_as_it_was(models, echo_task, word_tokenizer):
    run = play(models["mdm"], echo_task.examples(word_tokenizer, 1)[0], word_tokenizer, ["a0.h1"])
    found = played(run)
    assert len(found["canvases"]) == run.steps + 1 and None not in found["canvases"][-1]
    assert [token is None for token in found["canvases"][0]] == run.masked[0].tolist()
    assert len(found["lens"]) == run.steps and len(found["lens"][0]) == 2 and len(found["lens"][0][0]) == len(found["depths"]) == 3
    torch.testing.assert_close(torch.tensor(found["attention"]), run.attention, atol=0.006, rtol=0)


def test_line_breaks_in_tokens_are_spelled_out():
    assert spelled("\n") == "\\n" and spelled(" Mary") == " Mary"
