# %% [markdown]
# # 3. Find, test and draw a circuit
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mechshift-tl/mechshift-tl/blob/main/examples/3_circuit.ipynb)
#
# A *writer* (the input, a head, an MLP) adds to the residual stream; a *reader* (a head's q, k or v, an MLP, the logits) takes from it. An *edge* joins a writer to a later reader. Its score says how much it adds to logit(answer) − logit(foil).
#
# In Colab, run `%pip install git+https://github.com/mechshift-tl/mechshift-tl` first.

# %%
from hooked_diffusion import load_pair
from mechshift_tl import attribute
from mechshift_tl.circuits import Circuit
from mechshift_tl.compare import compare
from mechshift_tl.evaluation import evaluate_circuit, faithfulness, faithfulness_curve, run_circuit
from mechshift_tl.evaluation.validity import validity
from mechshift_tl.readouts import readouts
from mechshift_tl.tasks import IOI

pair = load_pair("tiny")
examples = IOI().examples(pair.tokenizer, n=60, seed=0)
rows = readouts(pair.arm, examples)
found_on, held_out = rows.select(range(40)), rows.select(range(40, 60))

# %% [markdown]
# ## Find
#
# `attribute` is EAP-IG by default: gradients along a path from the corrupted to the clean embeddings. The gap says how far the scores are from adding up to the whole effect.

# %%
scores = attribute(pair.arm, found_on, keep_per_example=True)
print(f"completeness gap {scores.completeness_gap:.1%}")
scores.figure()

# %%
circuit = Circuit.from_scores(scores, 60)
circuit.figure()

# %% [markdown]
# ## Test
#
# Run the circuit alone, on prompts that it was not found on: every edge outside it carries what it carries on the corrupted prompt. Faithfulness is 1 where the circuit does what the model does, and 0 where it does nothing.

# %%
run_circuit(pair.arm, held_out, circuit).figure()

# %%
faithfulness(pair.arm, held_out, circuit)

# %%
faithfulness_curve(pair.arm, held_out, scores, sizes=(0.01, 0.03, 0.1, 0.3, 1.0), n_random=2, n_boot=200).figure()

# %% [markdown]
# Sufficiency, necessity, minimality, each beside random circuits with the same layers:

# %%
evaluate_circuit(pair.arm, held_out, circuit, n_random=3, parts="tenths")

# %% [markdown]
# Scores are estimates. `validity` holds them against the truth: it patches edges one by one and measures what happens.

# %%
validity(pair.arm, found_on.select(range(6)), n_top=20, n_random=20).figure()

# %% [markdown]
# ## Compare
#
# Circuits of one graph are joined like sets.

# %%
of_mdm = attribute(pair.mdm, readouts(pair.mdm, examples).select(range(40)), keep_per_example=True)
theirs = Circuit.from_scores(of_mdm, 60)
print(len(circuit & theirs), "shared,", len(circuit - theirs), "in the ARM alone,", len(theirs - circuit), "in the MDM alone")
compare(scores, of_mdm, n=60, n_boot=50, n_random=50).figure()

# %%
(circuit & theirs).figure()
