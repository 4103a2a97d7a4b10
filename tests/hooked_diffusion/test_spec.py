"""`DiffusionSpec` refuses what cannot be and survives a round trip."""

from __future__ import annotations

import pytest

from hooked_diffusion import DiffusionSpec


def test_defaults_describe_an_arm():
    spec = DiffusionSpec()
    assert (spec.attention, spec.logit_shift, spec.mask_token_id, spec.is_mdm) == ("causal", 1, None, False)


def test_shift_0_reads_masks_under_any_attention():
    assert DiffusionSpec("causal", 0, mask_token_id=3).is_mdm and DiffusionSpec("full", 1, mask_token_id=3).is_mdm


def test_blocks():
    spec = DiffusionSpec("block", 0, mask_token_id=3, block_length=32)
    assert (spec.is_mdm, spec.direction) == (True, "block(32)")
    assert DiffusionSpec.from_dict(spec.to_dict()) == spec
    assert DiffusionSpec.from_dict({"attention": "full"}) == DiffusionSpec("full") and DiffusionSpec("full").direction == "full"


def test_round_trip():
    spec = DiffusionSpec("full", 0, mask_token_id=7, mask_is_reused=True, tail=(1, 2))
    assert DiffusionSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"attention": "sideways"}, "attention"),
        ({"attention": "full", "logit_shift": 2}, "logit_shift"),
        ({"mask_token_id": -1}, "mask_token_id"),
        ({"bos": "twice"}, "bos"),
        ({"attention": "block"}, "block_length is None with block attention"),
        ({"attention": "block", "block_length": 0}, "block_length is 0"),
        ({"attention": "full", "block_length": 4}, "block_length is 4 with full attention"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_refuses(values, named):
    with pytest.raises(ValueError, match=named):
        DiffusionSpec.from_dict(values)
