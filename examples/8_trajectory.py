# %% [markdown]
# # 8. Does rewiring come at once or gradually?
#
# An ARM becomes a masked-diffusion model in a few thousand steps. Its circuits are found at some of them, and compared with the ARM's.
# A control trains as long on the same rows, without diffusion: what changes in it too is not due to diffusion.
#
# `mechshift trajectory` does all of this; here it is in pieces, on few prompts and checkpoints, so that it takes a minute or two.

# %%
from dataclasses import replace
from pathlib import Path

from mechshift_tl.study.trajectory import TrainingRun, run_trajectory
from mechshift_tl.study.trajectory.run import DEFAULTS
from mechshift_tl.tasks import IOI

# %% [markdown]
# ## The checkpoints
#
# The bundled pair's are in `pairs/tiny_trajectory`. The start is not stored: it is the ARM itself, read as the MDM is read.

# %%
pairs = next(one for place in (Path.cwd(), *Path.cwd().parents) if (one := place / "pairs" / "tiny_trajectory").is_dir())
mdm = TrainingRun.of(pairs / "mdm", "mdm")
for one in mdm.checkpoints:
    print(f"{one.step:>5} steps, {one.tokens:>10,} tokens")

# %% [markdown]
# ## A study at each
#
# Twelve prompts, one point on the path of attribution. The ARM is scored once; the size of all circuits is the smallest at which its own is
# faithful.

# %%
config = replace(DEFAULTS, n=12, held_out=8, ig_steps=1, n_boot=60, n_random=20, null_circuits=2)
found = run_trajectory([mdm.only([20, 100, 1200, 3800])], [IOI()], config)

# %%
found.figure("ioi")

# %% [markdown]
# ## What changed, when, and how
#
# Three shapes are held against each statistic: no change, a step between two neighbouring checkpoints, and a ramp of which no gap
# holds more than two fifths. An answer needs a probability of 0.95; else nobody can tell, and the finding says which change could
# have been told.

# %%
print(found.finding())

# %%
found.changes_table()

# %% [markdown]
# ## Which moves first
#
# The order counts where half of each change has happened. Two changes in one gap between checkpoints are even.

# %%
found.order["ioi", "mdm"]

# %% [markdown]
# ## The whole of it
#
# With all checkpoints, forty prompts and the control beside: `make trajectory`, or
#
#     mechshift trajectory pairs/tiny_trajectory/mdm --control pairs/tiny_trajectory/control --out runs/trajectory
