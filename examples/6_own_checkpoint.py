# %% [markdown]
# # 6. Your own checkpoint and family
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mechshift-tl/mechshift-tl/blob/main/examples/6_own_checkpoint.ipynb)
#
# Checkpoints of a dozen families open by name or folder ([the list](../docs/checkpoints.md)). One that nobody here knows needs an adapter: data that says how its config and keys become a native Hugging Face model, and how that model is read. None of the checkpoint's own code is run.
#
# In Colab, run `%pip install git+https://github.com/mechshift-tl/mechshift-tl` first.

# %%
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from hooked_diffusion import DiffusionSpec, HookedDiffusionTransformer, load_pair
from hooked_diffusion.checkpoints import CheckpointAdapter, mdm_spec, register_adapter, save_checkpoint

tokenizer = load_pair("tiny").tokenizer
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A checkpoint to open
#
# In place of a download: a small random Qwen2 under other names. Its blocks are `stack.N`, its config counts `depth` and `dim`, and it fills in blocks of 8 tokens.

# %%
config = Qwen2Config(
    vocab_size=337, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=128, tie_word_embeddings=False, rope_parameters={"rope_type": "default", "rope_theta": 1e4},
)  # fmt: skip
torch.manual_seed(0)
native = Qwen2ForCausalLM(config).eval()
stated = native.config.to_dict() | {"model_type": "minnow", "architectures": ["MinnowModel"], "mask_token_id": tokenizer.mask_token_id}
stated |= {"dim": stated.pop("hidden_size"), "depth": stated.pop("num_hidden_layers"), "block_size": 8}
renamed = {"model.embed_tokens": "tokens", "lm_head": "head", "model.layers": "stack", "model.norm": "norm"}
weights = {
    next(new + key.removeprefix(old) for old, new in renamed.items() if key.startswith(old)): tensor.clone()
    for key, tensor in native.state_dict().items()
}
(folder / "config.json").write_text(json.dumps(stated, default=str))
save_file(weights, folder / "model.safetensors")
list(weights)[:6]

# %% [markdown]
# Opened as it is, it is refused, and the error says what is missing.

# %%
try:
    HookedDiffusionTransformer.from_pretrained(folder, tokenizer=tokenizer)
except ValueError as error:
    print(error)

# %% [markdown]
# ## The family
#
# Each field answers a question about the checkpoint: [how to find the answers](../docs/new_family.md).

# %%
MINNOW = register_adapter(
    CheckpointAdapter(
        family="minnow",
        model_class=Qwen2ForCausalLM,
        model_types=("minnow",),
        architectures=("MinnowModel",),
        read_spec=mdm_spec(logit_shift=0, block=8, block_field="block_size", bos="none"),
        base="none: random weights",
        evidence="[P] written in this notebook",
        fields={"hidden_size": "dim", "num_hidden_layers": "depth"},
        expects={"use_sliding_window": False},
        ignores=("block_size",),
        keys=(
            (r"tokens\.weight", "model.embed_tokens.weight"),
            (r"head\.weight", "lm_head.weight"),
            (r"stack\.(\d+)\.(.+)", r"model.layers.\1.\2"),
            (r"(norm\.weight)", r"model.\1"),
        ),
    )
)
model = HookedDiffusionTransformer.from_pretrained(folder, tokenizer=tokenizer)
print(model.spec)
model.source["notes"]

# %% [markdown]
# Opening proved the direction of attention on the loaded weights. A wrong shift or mask it cannot see, so compare a few logits with the original code. Here the original is the native model under a block mask:

# %%
tokens = torch.arange(16)[None] + 4
block = torch.arange(16) // 8
sees = (block[None] <= block[:, None])[None, None]
with torch.no_grad():
    print((model(tokens) - native(tokens, attention_mask=sees, use_cache=False).logits).abs().max().item())

# %% [markdown]
# From here on it is a model like any other: it denoises, is hooked, attributed and compared.

# %%
canvas = torch.cat([model.to_tokens("John gave a drink to"), torch.full((1, 8), tokenizer.mask_token_id)], 1)
model.denoise(canvas).figure()

# %% [markdown]
# ## A pair of your own
#
# Two checkpoints are a pair when layers, heads and widths are equal and the ARM attends causally. Save a model in the native layout with `save_checkpoint`, or `mechshift convert`; then plain transformers opens it too.

# %%
save_checkpoint(Qwen2ForCausalLM(config), folder / "arm", DiffusionSpec(), tokenizer)
save_checkpoint(Qwen2ForCausalLM(config), folder / "mdm", model.spec, tokenizer)
own = load_pair(arm=folder / "arm", mdm=folder / "mdm", tokenizer=tokenizer)
own.differences
