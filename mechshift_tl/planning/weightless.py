"""A model of a given shape without weights: its tensors have shapes and dtypes, and no memory.

PyTorch's fake tensors say that they lie on the CPU but are backed by the meta device, so that code which looks at a tensor's device runs
as it would with weights. TransformerLens refuses to hand out weights that are openly on the meta device.
"""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import AutoModelForCausalLM, PretrainedConfig


def weightless(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> TransformerBridge:
    """A plain causal TransformerLens bridge of the config's native class, over tensors without data.

    What its forward returns has the right shape and no values.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
        model.config.use_cache = False
        return build_bridge_from_module(model, type(model).__name__, hf_config=model.config, tokenizer=None, model_name=config.model_type)
