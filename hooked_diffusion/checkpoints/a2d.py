"""A2D: Qwen2.5 and Qwen3 under native keys, read at the position itself; `mdlm` with full attention, `bd3lm` in blocks of 32.

The two objectives share a config, so only the repository's name (or `family=`) tells a `bd3lm` checkpoint.
"""

import dataclasses

from transformers import Qwen2ForCausalLM, Qwen2Tokenizer, Qwen3ForCausalLM

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, Usual, mdm_spec
from hooked_diffusion.checkpoints.qwen2 import EXPECTS
from hooked_diffusion.checkpoints.registry import register_adapter

A2D_QWEN3 = register_adapter(
    CheckpointAdapter(
        family="a2d-qwen3",
        model_class=Qwen3ForCausalLM,
        model_types=("a2d-qwen3",),
        architectures=("A2DQwen3LMHeadModel",),
        read_spec=mdm_spec(logit_shift=0, bos="none"),
        base="Qwen/Qwen3-0.6B",
        evidence="[P] shift; [R] parity; [T] mask, shape, tie",
        usual=(Usual("mask_token_id", 151669, rows=151936),),
        expects=EXPECTS,
        tokenizer_class=Qwen2Tokenizer,
    )
)
A2D_QWEN2 = register_adapter(
    dataclasses.replace(
        A2D_QWEN3,
        family="a2d-qwen2",
        model_class=Qwen2ForCausalLM,
        model_types=("a2d-qwen2",),
        architectures=("A2DQwen2LMHeadModel",),
        base="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        evidence="[P] shift; [T] class, keys, mask, shape",
        usual=(Usual("mask_token_id", 151665, rows=151936),),
    )
)
BD3LM = tuple(
    register_adapter(
        dataclasses.replace(
            mdlm,
            family=f"{mdlm.family}-bd3lm",
            model_types=(),
            architectures=(),
            names=(rf"qwen{mdlm.family[-1]}.*-bd3lm.*",),
            instead_of=(mdlm.family,),
            looks_like={"model_type": mdlm.family},
            read_spec=mdm_spec(logit_shift=0, block=32, bos="none"),
        )
    )
    for mdlm in (A2D_QWEN3, A2D_QWEN2)
)
