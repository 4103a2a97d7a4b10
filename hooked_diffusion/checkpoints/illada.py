"""iLLaDA: Llama with grouped keys and values under native keys, full attention, logits read at the position itself."""

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, mdm_spec
from hooked_diffusion.checkpoints.registry import register_adapter

ILLADA = register_adapter(
    CheckpointAdapter(
        family="illada",
        model_class=LlamaForCausalLM,
        model_types=("illada",),
        architectures=("ILLaDAForCausalLM",),
        # Neither config nor tokenizer names the mask; the authors' samplers write 5.
        read_spec=mdm_spec(logit_shift=0, masks={155136: 5}),
        base="none: iLLaDA was trained from scratch",
        evidence="[P] class, keys, shift, mask; [T] rows, model_type",
        # With an epsilon for LayerNorm the authors' code builds LayerNorms, which Llama has not.
        flags={"layer_norm_eps": None, "resid_pdrop": 0.0},
        ignores=("embd_pdrop",),
        tokenizer_class=PreTrainedTokenizerFast,
    )
)
