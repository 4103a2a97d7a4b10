# %% [markdown]
# # 1. The whole story, on the bundled pair
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mechshift-tl/mechshift-tl/blob/main/examples/1_whole_story.ipynb)
#
# An autoregressive model (ARM) predicts the next token. A masked-diffusion model (MDM) fills masks in, in any order. The bundled pair is an ARM and the MDM that was post-trained from it; a control was trained just as long, but stayed autoregressive. Which parts of the ARM's circuits does the MDM still use?
#
# The pair is small: six layers of four heads, 337 words. Everything here runs on a CPU in about a minute.
#
# In Colab, run `%pip install git+https://github.com/mechshift-tl/mechshift-tl` first.

# %%
import tempfile
from pathlib import Path

from hooked_diffusion import load_pair
from mechshift_tl.report import write_report
from mechshift_tl.study import StudyConfig, run_study
from mechshift_tl.tasks import IOI

pair = load_pair("tiny")
print(pair.arm.spec, pair.mdm.spec, sep="\n")
pair.differences

# %% [markdown]
# A task makes pairs of prompts: clean, and corrupted in the one thing that decides the answer. The *foil* is the wrong answer that the metric contrasts with the right one.

# %%
IOI().examples(pair.tokenizer, n=5, seed=0)

# %% [markdown]
# `run_study` does everything to a pair: it draws prompts that all models read correctly, scores every edge, cuts circuits, compares them, and runs each circuit in each model on prompts kept apart. The numbers of prompts are small here; leave the settings out for the usual ones, and name more tasks: `run_study(pair, [IOI(), Countdown()])`.

# %%
config = StudyConfig.quick(
    n=16, held_out=8, ig_steps=2, n_boot=20, n_random=20, validity_n=0, measurements="none", null_circuits=1, verdict_draws=500, permutations=200
)  # fmt: skip
study = run_study(pair, [IOI()], config)
for sentence in study.verdicts.sentences():
    print(sentence, end="\n\n")

# %% [markdown]
# The overlap of two circuits means nothing by itself. The grey bar is the *floor*: random circuits with as many edges in every layer. The dark tick is the *ceiling*: one model's own circuits from two halves of the prompts. The MDM is read beside the control, which shows what training alone does.

# %%
study.figure()

# %%
study.overlap_table()

# %% [markdown]
# Each task keeps every result, by the model's role.

# %%
ioi = study.tasks["ioi"]
ioi.scores["arm"].top(8)

# %%
ioi.circuits["arm"].figure(60)

# %%
ioi.circuits["mdm"].figure(60)

# %% [markdown]
# Where the circuits agree, and how far above chance: each statistic with its interval over prompts, floor and ceiling.

# %%
ioi.comparisons["mdm"].figure()

# %% [markdown]
# The same as one page that opens offline. On the command line: `mechshift run --pair tiny --quick --tasks ioi,countdown --out runs/first`.

# %%
page = write_report(study, Path(tempfile.mkdtemp()) / "report.html")
print(f"{page.stat().st_size / 2**20:.1f} MiB")
