"""DiffuGPT: GPT-2 inside a wrapper of its authors', which takes the embedding out of the transformer."""

from transformers import GPT2LMHeadModel

from hooked_diffusion.checkpoints import gpt2
from hooked_diffusion.checkpoints.adapter import CheckpointAdapter, mdm_spec
from hooked_diffusion.checkpoints.registry import register_adapter

DIFFUGPT = register_adapter(
    CheckpointAdapter(
        family="diffugpt",
        model_class=GPT2LMHeadModel,
        model_types=(),
        architectures=("DiscreteDiffusionModel",),
        names=(r"diffugpt-[sm]",),
        instead_of=("gpt2",),
        # Small: a word of GPT-2's 50257 serves as the mask. Medium: a new row does, and another pads to an even number of rows.
        read_spec=mdm_spec(logit_shift=1, masks={50257: 10541, 50258: 50257}, words=50257, bos="required"),
        base="gpt2 (diffugpt-s) or gpt2-medium (diffugpt-m)",
        evidence="[P] wrapper, keys, shift, masks; [R] parity; [T] rows",
        flags=gpt2.FLAGS,
        ignores=gpt2.IGNORES,
        embedding="transformer.wte.weight",
        rows_from_embedding=True,
        keys=(
            (r"embed_tokens\.weight", "transformer.wte.weight"),
            (r"denoise_model\.((?:h|wpe|ln_f)\..+)", r"transformer.\1"),
            (r"(lm_head\.weight)", r"\1"),
        ),
        drop=(r"denoise_model\.h\.\d+\.attn\.(bias|masked_bias)",),
    )
)
