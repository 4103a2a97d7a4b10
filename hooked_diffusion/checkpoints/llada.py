"""LLaDA and LLaDA-1.5: Llama's arithmetic under OLMo's names, full attention, logits read at the position itself."""

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, mdm_spec
from hooked_diffusion.checkpoints.registry import register_adapter

_BLOCK, _LAYER = r"model\.transformer\.blocks\.(\d+)\.", r"model.layers.\1."

LLADA = register_adapter(
    CheckpointAdapter(
        family="llada",
        model_class=LlamaForCausalLM,
        model_types=("llada",),
        architectures=("LLaDAModelLM",),
        read_spec=mdm_spec(logit_shift=0),
        base="none: LLaDA was trained from scratch",
        evidence="[P] keys, config, shift, mask; [R] parity; [T] shape",
        fields={
            "vocab_size": "embedding_size",  # rows of the embedding; LLaDA's vocab_size counts the words in use
            "hidden_size": "d_model",
            "intermediate_size": "mlp_hidden_size",
            "num_hidden_layers": "n_layers",
            "num_attention_heads": "n_heads",
            "num_key_value_heads": "n_kv_heads",
            "max_position_embeddings": "max_sequence_length",
            "hidden_act": "activation_type",
        },
        expects={
            "block_type": "llama", "layer_norm_type": "rms", "layer_norm_with_affine": True, "rope": True, "alibi": False,
            "activation_type": "silu", "include_bias": False, "include_qkv_bias": False, "bias_for_layer_norm": False,
            "attention_layer_norm": False, "input_emb_norm": False, "scale_logits": False,
        },
        flags={"block_group_size": 1, "rope_full_precision": True},
        ignores=(
            "vocab_size", "alibi_bias_max", "attention_layer_norm_with_affine", "attention_dropout", "embedding_dropout",
            "residual_dropout", "flash_attention", "flash_attn_varlen", "init_cutoff_factor", "init_device", "init_fn", "init_std",
            "mlp_ratio", "precision",
        ),
        # `ff_out` occurs at two levels: the head, and the down projection of every block.
        keys=(
            (r"model\.transformer\.wte\.weight", "model.embed_tokens.weight"),
            (r"model\.transformer\.ln_f\.weight", "model.norm.weight"),
            (r"model\.transformer\.ff_out\.weight", "lm_head.weight"),
            (_BLOCK + r"attn_norm\.weight", _LAYER + "input_layernorm.weight"),
            (_BLOCK + r"ff_norm\.weight", _LAYER + "post_attention_layernorm.weight"),
            (_BLOCK + r"([qkv])_proj\.weight", _LAYER + r"self_attn.\2_proj.weight"),
            (_BLOCK + r"attn_out\.weight", _LAYER + "self_attn.o_proj.weight"),
            (_BLOCK + r"ff_proj\.weight", _LAYER + "mlp.gate_proj.weight"),
            (_BLOCK + r"up_proj\.weight", _LAYER + "mlp.up_proj.weight"),
            (_BLOCK + r"ff_out\.weight", _LAYER + "mlp.down_proj.weight"),
        ),
        tie_flag="weight_tying",
        tokenizer_class=PreTrainedTokenizerFast,
    )
)  # fmt: skip
