"""Native GPT-2: ARMs, and MDMs saved with a `diffusion_spec`."""

from transformers import GPT2LMHeadModel

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, arm_spec
from hooked_diffusion.checkpoints.registry import register_adapter

#: GPT-2's own config leaves these out; other values compute another function.
FLAGS = {
    "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "reorder_and_upcast_attn": False, "add_cross_attention": False,
}  # fmt: skip
IGNORES = (
    "n_ctx", "n_special", "predict_special_tokens", "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels",
    "summary_first_dropout",
)  # fmt: skip

GPT2 = register_adapter(
    CheckpointAdapter(
        family="gpt2",
        model_class=GPT2LMHeadModel,
        model_types=("gpt2",),
        architectures=("GPT2LMHeadModel", "GPT2Model"),
        read_spec=arm_spec,
        base="itself: the keys and the config are native",
        evidence="[R]",
        flags=FLAGS,
        ignores=IGNORES,
        embedding="transformer.wte.weight",
        # The first checkpoints were saved without the head, and so without the prefix.
        keys=((r"(?:transformer\.)?((?:wte|wpe|h|ln_f)\..+)", r"transformer.\1"), (r"(lm_head\.weight)", r"\1")),
        drop=(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",),
    )
)
