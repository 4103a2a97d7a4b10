"""Lenses of sets of components: means written out, one model against itself, and a step ablated by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer
from mechshift_tl.circuits import Circuit
from mechshift_tl.compare.lens_result import SLOPE, WHOLE, LensComparison
from mechshift_tl.compare.lens_sets import compare_lenses, component_sets
from mechshift_tl.graph import Graph
from mechshift_tl.readouts import Readouts, aligned_logits
from mechshift_tl.views import component_lens

M = 2
SETS = {"shared": ["a0.h1", "m1"], "MDM only": ["a1.h3"]}


@pytest.fixture(scope="module")
def models(native):
    bridge = HookedDiffusionTransformer.from_hf
    mdm = bridge(native(), spec=DiffusionSpec("full", 0, M))
    return {"arm": bridge(native()), "mdm": mdm, "control": mdm}


@pytest.fixture(scope="module")
def rows() -> Readouts:
    """Ten examples of three answer tokens, one committed per step, left to right."""
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(4, 48, (10, 7), generator=generator).repeat_interleave(3, 0)
    step = torch.arange(3).repeat(10)
    clean = words.clone()
    clean[:, 4:][torch.arange(3) >= step[:, None]] = M
    target = (4 + step)[:, None]
    answer = words.gather(1, target)
    return Readouts(clean, clean, target, answer, (answer + 1) % 48, step, torch.arange(10).repeat_interleave(3), ("x",) * 10)


@pytest.fixture(scope="module")
def found(models, rows) -> LensComparison:
    readouts = {role: rows for role in models}
    lenses = {role: component_lens(model, rows) for role, model in models.items()}
    return compare_lenses(models, readouts, lenses, SETS, ablated=6, n_boot=30)


def test_sets_split_the_top_components(scored):
    graph = Graph(2, 2, 2)
    by_m0, by_m1 = {("input", "m0"): 3.0, ("m0", "logits"): 3.0}, {("input", "m1"): 2.0, ("m1", "logits"): 2.0}
    first, second = Circuit.from_scores(scored(graph, by_m0 | by_m1), 4), Circuit.from_scores(scored(graph, by_m0), 2)
    assert component_sets(first, second, 2) == {"shared": ["m0"], "ARM only": ["m1"]}
    assert component_sets(second, first, 2) == {"shared": ["m0"], "MDM only": ["m1"]}


def test_a_set_is_the_mean_of_its_components_and_reads(models, rows, found):
    lens = component_lens(models["mdm"], rows, SETS["shared"])
    assert found.of("entropy", "mdm", "shared")["value"] == pytest.approx(lens.entropy.mean().item(), rel=1e-5)
    assert found.of("effect", "mdm", "shared", "step 1")["value"] == pytest.approx(lens.at_step(1).effects.mean().item(), rel=1e-4)
    slope = torch.linalg.lstsq(torch.stack([rows.step.double(), torch.ones(30).double()], 1), lens.entropy.mean(0).double()).solution[0]
    assert found.of("entropy", "mdm", "shared", SLOPE)["value"] == pytest.approx(slope.item(), rel=1e-4)


def test_a_model_does_not_differ_from_itself(found):
    same = found.table[found.table["subject"] == "MDM − control"]
    assert (same[["value", "low", "high"]].abs() < 1e-9).all(axis=None)
    assert "Not supported: shared components say flatter things in the MDM than in the control" in found.finding()


def test_the_last_depth_is_the_prediction(models, rows, found):
    with torch.no_grad():
        log_p = aligned_logits(models["mdm"], rows.clean)[torch.arange(30), rows.target_pos[:, 0]].log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1).mean().item()
    assert found.flatness["mdm"] == pytest.approx(entropy / math.log(48), rel=1e-4)


def test_an_ablated_step_is_the_model_on_canvases_written_by_hand(models, rows, found):
    """Step 0 revealed position 4: the change of answer − foil at steps 1 and 2 when it is masked there."""
    later = (rows.step > 0) & (rows.example < 6)
    canvas = rows.clean[later].clone()
    at, answer, foil = rows.target_pos[later, 0], rows.answer_ids[later], rows.foil_ids[later]
    place = torch.arange(len(canvas))
    effects = []
    for masked in (False, True):
        if masked:
            canvas[:, 4] = M
        with torch.no_grad():
            logits = aligned_logits(models["mdm"], canvas)[place, at]
        effects.append((logits.gather(1, answer) - logits.gather(1, foil)).mean().item())
    line = found.ablation.query("step == 0 and statistic == 'effect'").set_index("set").loc[WHOLE]
    assert line["value"] == pytest.approx(effects[1] - effects[0], rel=1e-3, abs=1e-4) and line["reads"] == 12
    assert sorted(found.ablation["step"].unique()) == [0, 1] and found.largest["step"] in (0, 1)
    assert found.largest["value"] >= 0 and "Masking one step again" in found.finding()


def test_one_step_has_nothing_to_ablate(models, rows):
    once = replace(rows.select(range(10)), step=torch.zeros(30, dtype=torch.long))
    lenses = {role: component_lens(model, once) for role, model in models.items()}
    found = compare_lenses(models, {role: once for role in models}, lenses, SETS, n_boot=5)
    assert found.ablation.empty and found.largest == {} and "nothing can sharpen" in found.finding()
    assert len(list(found.figure().data)) > 3


def test_shown_saved_and_loaded(found, tmp_path):
    found.save(tmp_path / "one.json")
    again = LensComparison.load(tmp_path / "one.json")
    assert again.finding() == found.finding() and len(again.to_dataframe()) == 3 * 3
    assert len(list(again.figure().data)) == 3 + 3 * 2 + 3
    with pytest.raises(KeyError, match="in set 'ARM only'"):
        found.of("entropy", "mdm", "ARM only")


def test_refusals(models, rows):
    with pytest.raises(ValueError, match="give 'mdm' and sets"):
        compare_lenses({"arm": models["arm"]}, {"arm": rows}, {}, SETS)
    with pytest.raises(ValueError, match="give 'mdm' and sets"):
        compare_lenses(models, {role: rows for role in models}, {}, {"shared": []})
