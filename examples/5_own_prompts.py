# %% [markdown]
# # 5. Your own prompts and your own metric
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mechshift-tl/mechshift-tl/blob/main/examples/5_own_prompts.ipynb)
#
# A prompt of your own is a row: a clean prompt, a corrupted one, the answer to the clean one, and the *foil*, the wrong answer to hold it against. Rows come from Python, a CSV table or JSON lines. Every command takes such a file as `--task FILE`.
#
# In Colab, run `%pip install git+https://github.com/mechshift-tl/mechshift-tl` first.

# %%
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from hooked_diffusion import load_pair
from mechshift_tl import attribute
from mechshift_tl.circuits import Circuit
from mechshift_tl.evaluation import faithfulness
from mechshift_tl.readouts import readouts
from mechshift_tl.tasks.prompts import Prompts

pair = load_pair("tiny")

# %% [markdown]
# ## Rows
#
# The corrupted prompt has the same shape and another answer. What the tokenizer cannot align is left out, and listed with the reason. The bundled pair knows 337 words, so these rows speak of names.

# %%
names = ["Emma", "John", "Mary", "James", "Anna"]
rows = [
    {
        "clean": f"When {a} and {b} went to the store , {b} gave a drink to",
        "corrupted": f"When {a} and {b} went to the store , {a} gave a drink to",
        "answer": f" {a}",
        "foil": f" {b}",
        "group": "store",
    }
    for a in names
    for b in names
    if a != b
]
task = Prompts(rows, name="drinks")
task.dropped(pair.tokenizer)

# %%
n = len(rows) - len(task.dropped(pair.tokenizer))
examples = task.examples(pair.tokenizer, n=n, seed=0)
examples

# %% [markdown]
# The same from a file. `group` is optional, and so is `suffix`, the text after the answer.

# %%
table = Path(tempfile.mkdtemp()) / "drinks.csv"
examples.to_dataframe()[["prompt", "corrupt_prompt", "answer", "foil"]].rename(
    columns={"prompt": "clean", "corrupt_prompt": "corrupted"}
).to_csv(table, index=False)
len(Prompts.from_file(table).examples(pair.tokenizer, n=n, seed=0))

# %% [markdown]
# On the command line: `mechshift attribute --model FOLDER --task drinks.csv --out runs/drinks`, `mechshift run --pair NAME --tasks drinks.csv --out runs/pair`.
#
# ## Your own metric
#
# A metric takes the logits at the positions that are read, `(n, k, d_vocab)`, with answers and foils `(n, k)`, and returns one number per row; higher is better. This one asks for the answer among all names: log p(answer) − log Σ p(names).

# %%
ids = torch.tensor([pair.tokenizer.convert_tokens_to_ids(name) for name in names])


def among_names(logits: Tensor, answers: Tensor, foils: Tensor) -> Tensor:
    """`(n,)`: log-probability of the answer among all names, in nats, at most 0."""
    picked = logits.gather(-1, answers[..., None])[..., 0]
    return (picked - logits[..., ids.to(logits.device)].logsumexp(-1)).mean(-1)


reads = readouts(pair.arm, examples)
scores = attribute(pair.arm, reads, metric=among_names, keep_per_example=True)
scores.figure()

# %%
circuit = Circuit.from_scores(scores, 80)
faithfulness(pair.arm, reads, circuit, metric=among_names)

# %% [markdown]
# Does the choice of metric change the circuit? Edges shared with that of the usual logit difference, of 80:

# %%
len(circuit & Circuit.from_scores(attribute(pair.arm, reads), 80))

# %% [markdown]
# ## A task of your own
#
# Rows are enough for a fixed list. A subclass of `Task` draws prompts without end and judges decoded answers: `draw` and `solved`.

# %%
import random
from collections.abc import Iterator

from mechshift_tl.tasks import Example, Task, TextPair
from mechshift_tl.tasks.task import Split, in_split


class Drinks(Task):
    """Who was given a drink?"""

    name = "drinks"

    def draw(self, rng: random.Random, split: Split) -> Iterator[TextPair]:
        """Two names; the second acts, so the first is the answer."""
        while True:
            (a, b), place, gift = rng.sample(names, 2), rng.choice(["store", "hospital"]), rng.choice(["drink", "computer"])
            clean, corrupt = (f"When {a} and {b} went to the {place} , {one} gave a {gift} to" for one in (b, a))
            if in_split(clean, split):
                yield TextPair(clean, f" {a}", corrupt, f" {b}", foil=f" {b}", group="store")

    def solved(self, example: Example, decoded: str) -> bool:
        """The name, and nothing else."""
        return decoded.strip() == example.pair.answer.strip()


Drinks().examples(pair.tokenizer, n=2, seed=0).to_dataframe()
