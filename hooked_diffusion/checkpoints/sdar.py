"""SDAR: Qwen3 under native keys, block-causal, logits read at the position itself.

The first checkpoints were trained in blocks of 4, later ones in blocks of 8 to 64. Their configs are the same: the block stands in the name
alone, as in SDAR-4B-Chat-b64.
"""

from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, Usual, mdm_spec
from hooked_diffusion.checkpoints.qwen2 import EXPECTS
from hooked_diffusion.checkpoints.registry import register_adapter

SDAR = register_adapter(
    CheckpointAdapter(
        family="sdar",
        model_class=Qwen3ForCausalLM,
        model_types=("sdar",),
        architectures=("SDARForCausalLM",),
        read_spec=mdm_spec(logit_shift=0, block=4, block_field="block_size", bos="none"),
        base="Qwen/Qwen3 of the same size",
        evidence="[P] mask, block of 4; [T] class, keys, shift; blocks of -bN by size of config and README",
        told_by_name={"block_size": r"-b(\d+)(?![\w.])"},
        usual=(Usual("block_size", 4), Usual("mask_token_id", 151669, rows=151936)),
        expects=EXPECTS,
        # Settings of its authors' training kernels.
        ignores=("block_size", "fuse_cross_entropy", "ep_size"),
        tokenizer_class=Qwen2Tokenizer,
    )
)
