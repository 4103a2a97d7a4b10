# %% [markdown]
# # 2. Watch, patch and freeze a denoising step
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mechshift-tl/mechshift-tl/blob/main/examples/2_hooks.ipynb)
#
# An MDM runs once per step, on a canvas that fills up. So hooks here know the step, a cache has a step axis, and what a hook changes can change what is written. Every model is a TransformerLens bridge: names of hooks and caches are TransformerLens' own.
#
# In Colab, run `%pip install git+https://github.com/mechshift-tl/mechshift-tl` first.

# %%
import torch
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from hooked_diffusion import HookedDiffusionTransformer, load_pair
from hooked_diffusion.denoising import DenoisingStep, patch_from

pair = load_pair("tiny")
mdm, mask = pair.mdm, pair.mdm.spec.mask_token_id
assert mask is not None


def canvas_of(prompt: str, masks: int) -> Tensor:
    """`(1, pos)`: the prompt's tokens, then masks."""
    return torch.cat([mdm.to_tokens(prompt), torch.full((1, masks), mask)], 1)


canvas = canvas_of("Input : 5 , 40 , 20 , 4 Output :", 11)
trajectory, cache = mdm.run_with_denoising_cache(canvas, names_filter=lambda name: "resid_post" in name)
trajectory.figure()

# %% [markdown]
# Read from top to bottom: each row is the canvas before a step, each red cell was committed by the step above it. By default a step commits the one position of highest probability. As a table, with the probability of each token at its commit:

# %%
trajectory.to_dataframe()

# %% [markdown]
# `cache[k]` is TransformerLens' own cache of step k, bit for bit what `run_with_cache` gives on that canvas. The picture shows how far each layer's stream moved since the step before.

# %%
print(cache[3, "resid_post", 5].shape, cache.stack("resid_post", 5).shape)
cache.figure()

# %% [markdown]
# ## Watch
#
# A step hook gets the tensor, the hook point and the step. Here: how much of layer 3's attention looks at positions that are still masked.

# %%
shares: list[float] = []


def watch(pattern: Tensor, hook: HookPoint, step: DenoisingStep) -> None:
    """Keep the mean attention on masked keys."""
    shares.append((pattern * step.masked[:, None, None]).sum(-1).mean().item())


mdm.run_with_denoising_hooks(canvas, fwd_hooks=[("blocks.3.attn.hook_pattern", watch)])
[round(share, 3) for share in shares]

# %% [markdown]
# ## Patch
#
# Put the activations of another prompt's run into this one, at some steps only. The two canvases must have as many tokens.

# %%
other = canvas_of("Input : 6 , 36 , 20 , 4 Output :", 11)
_, from_other = mdm.run_with_denoising_cache(other, names_filter="blocks.2.hook_resid_post")
patched = mdm.run_with_denoising_hooks(canvas, fwd_hooks=[("blocks.2.hook_resid_post", patch_from(from_other))], at_steps=[0, 1, 2, 3])
patched.figure()

# %% [markdown]
# ## Freeze and force
#
# `freeze` says where a step may not commit, `force` which tokens it must. `resume_denoising` takes a run up at any step: here the first answer token is written before the model has a say.

# %%
frozen = torch.zeros_like(canvas, dtype=torch.bool)
frozen[:, -1] = True
print(mdm.denoise(canvas, freeze=lambda step: frozen if step.index < 8 else torch.zeros_like(frozen)).to_dataframe().tail(3))

edited = trajectory.canvases[2].clone()
edited[0, 12] = mdm.tokenizer.convert_tokens_to_ids("20")
mdm.resume_denoising(trajectory, 2, canvas=edited).figure()

# %% [markdown]
# ## A model of your own
#
# A subclass changes what the loop sees. This one never writes a word that is banned; everything else – hooks, caches, circuits – works as before.


# %%
class Banning(HookedDiffusionTransformer):
    """A model that gives banned ids no probability."""

    banned: tuple[int, ...] = ()

    def align_logits(self, logits: Tensor) -> Tensor:
        """Logits that stand at the tokens that they predict, −∞ at banned ids."""
        aligned = super().align_logits(logits).clone()
        aligned[..., list(self.banned)] = float("-inf")
        return aligned


banning = load_pair("tiny").mdm
banning.__class__ = Banning  # or Banning.from_pretrained("path/to/checkpoint")
banning.banned = (mdm.tokenizer.convert_tokens_to_ids("40"),)
banning.denoise(canvas).figure()
