# %% [markdown]
# # 4. Lens and attention over denoising steps
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mechshift-tl/mechshift-tl/blob/main/examples/4_lens_and_attention.ipynb)
#
# What does the model believe, layer by layer, while its canvas fills up? And where does it look?
#
# In Colab, run `%pip install git+https://github.com/mechshift-tl/mechshift-tl` first.

# %%
import torch

from hooked_diffusion import load_pair
from mechshift_tl.readouts import readouts
from mechshift_tl.tasks import Countdown
from mechshift_tl.views import component_lens, neuron_activations
from mechshift_tl.views.attention import attention_patterns

pair = load_pair("tiny")
mdm = pair.mdm
assert mdm.spec.mask_token_id is not None
prompt = mdm.to_tokens("Input : 5 , 40 , 20 , 4 Output :")
canvas = torch.cat([prompt, torch.full((1, 11), mdm.spec.mask_token_id)], 1)
trajectory, cache = mdm.run_with_denoising_cache(canvas, names_filter=lambda name: "resid_post" in name)

# %% [markdown]
# ## The logit lens, step by step
#
# One call reads the residual stream behind every layer through the model's own norm and unembedding, at every masked position and every step. The colour is the probability of the token that the run ended with. In Jupyter, the slider leads through the steps.

# %%
lens = cache.logit_lens(trajectory)
lens.figure(step=2)

# %%
lens.figure(step=8)

# %%
lens.to_dataframe().query("pos == 16 and layer == 5")

# %% [markdown]
# ## What each component says by itself
#
# At the position that is read, the stream is a sum of heads, MLPs, the input and biases. The component lens reads each term alone; the terms' logits sum to the model's.

# %%
examples = Countdown().examples(pair.tokenizer, n=24, seed=0)
rows = {"arm": readouts(pair.arm, examples), "mdm": readouts(mdm, examples)}
of_arm, of_mdm = component_lens(pair.arm, rows["arm"]), component_lens(mdm, rows["mdm"])
of_arm.figure()

# %%
of_mdm.figure()

# %%
of_mdm.per_step.query("component == 'm5'")

# %% [markdown]
# ## Attention
#
# Statistics of every head, and the whole pattern on one row. A causal head sees less than a full one; `uniform` says what a head would show that attends evenly to all that it sees.

# %%
patterns = attention_patterns(mdm, rows["mdm"], ["a0.h0", "a2.h1", "a3.h2", "a5.h0"])
patterns.figure()

# %%
patterns.to_dataframe()

# %% [markdown]
# Along a run: the order of commits, confidence, and how much attention lies on masked positions.

# %%
statistics = trajectory.statistics(mdm)
statistics.figure()

# %%
statistics.attention_figure("to_masked", "masked")

# %% [markdown]
# The mask alone can be switched, with the weights as they are: what do the ARM's heads do when they may look ahead?

# %%
with pair.arm.attention("full"):
    ahead = attention_patterns(pair.arm, rows["arm"], ["a0.h0", "a2.h1"])
ahead.to_dataframe()

# %% [markdown]
# ## Neurons
#
# Which neurons tell prompt groups apart, and more than shuffled labels would?

# %%
groups = [example.pair.answer.strip()[:2] for example in examples]
neuron_activations(mdm, rows["mdm"], layer=1, groups=groups, shuffles=50).figure()
