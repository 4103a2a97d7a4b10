"""Statistics of several models on the same draws of the prompts."""

import numpy as np
import pytest
import torch

from mechshift_tl.compare.paired import bounds, mean_over_reads, paired, prompt_weights, slope_over_reads, spelled


def test_the_sample_comes_first_and_every_draw_has_as_many_prompts() -> None:
    weights = prompt_weights(7, 5, seed=3)
    assert weights.shape == (6, 7) and (weights[0] == 1).all() and (weights.sum(1) == 7).all()
    assert torch.equal(weights, prompt_weights(7, 5, seed=3))


def test_what_prompts_do_to_all_models_alike_cancels() -> None:
    weights, values = prompt_weights(30, 100), torch.randn(30, dtype=torch.double)
    arm = weights @ values / 30
    frame = paired({"arm": arm, "mdm": arm + 2, "control": arm + 0.5}).set_index("subject")
    assert frame.loc["arm", "high"] > frame.loc["arm", "low"]
    for name, expected in (("MDM − ARM", 2.0), ("control − ARM", 0.5), ("MDM − control", 1.5)):
        assert frame.loc[name].tolist() == pytest.approx([expected] * 3)


def test_ratios_and_absent_roles() -> None:
    frame = paired({"arm": torch.tensor([2.0, 2, 2]), "mdm": torch.tensor([3.0, 4, 4])}, "ratio")
    assert frame["subject"].tolist() == ["arm", "mdm", "MDM − ARM"]
    assert frame["value"].tolist() == [2.0, 3.0, 1.5] and frame["low"].tolist()[2] == 2.0


def test_bounds_are_percentiles_of_the_draws() -> None:
    found = bounds(torch.tensor([5.0, *torch.linspace(0, 1, 101)]))
    assert found == pytest.approx({"value": 5.0, "low": 0.025, "high": 0.975})
    assert spelled({"value": -1.234, "low": -2.0, "high": 0.5}, 1) == "−1.2 [−2.0, 0.5]"


def test_refusals() -> None:
    with pytest.raises(ValueError, match="1 prompts"):
        prompt_weights(1, 10)
    with pytest.raises(ValueError, match="n_boot is 0"):
        prompt_weights(5, 0)


def test_means_and_slopes_are_those_of_the_repeated_reads() -> None:
    generator = torch.Generator().manual_seed(0)
    example, x, y = torch.tensor([0, 0, 1, 2, 2, 2]), torch.arange(6.0), torch.randn(6, generator=generator)
    weights = torch.tensor([[1.0, 1, 1], [0, 2, 1]], dtype=torch.double)
    reads = [[0, 1, 2, 3, 4, 5], [2, 2, 3, 4, 5]]
    for i, chosen in enumerate(reads):
        assert mean_over_reads(y, example, weights)[i].item() == pytest.approx(y[chosen].mean().item())
        slope = np.polyfit(x[chosen].numpy(), y[chosen].numpy(), 1)[0]
        assert slope_over_reads(x, y, example, weights)[i].item() == pytest.approx(slope, rel=1e-5)
    assert slope_over_reads(torch.ones(6), y, example, weights).isnan().all()
