# %% [markdown]
# # 7. The paper's 7B pairs, on one 80 GB GPU
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/mechshift-tl/mechshift-tl/blob/main/examples/7_seven_billion.ipynb)
#
# The paper compares Qwen2.5-7B with Dream-7B, and LLaMA-2-7B with DiffuLLaMA-7B. This notebook has the cells and commands for them. Nothing here downloads 30 GB: the cells run on tiny random weights that are laid out as those checkpoints are. Change one line, and they run on the real ones.
#
# In Colab, run `%pip install git+https://github.com/mechshift-tl/mechshift-tl` first.

# %%
import json
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from hooked_diffusion import Pair, load_pair
from hooked_diffusion.pairs.known import KNOWN_PAIRS, models
from mechshift_tl import attribute
from mechshift_tl.circuits import Circuit
from mechshift_tl.compare import compare
from mechshift_tl.planning import plan
from mechshift_tl.planning.estimate import Workload
from mechshift_tl.readouts import readouts
from mechshift_tl.tasks import IOI

known = models()
known[known["name"].isin(["dream-7b", "diffullama-7b"])]

# %% [markdown]
# ## What it costs, before anything is downloaded
#
# The plan runs the real attribution on a model without weights, and counts. `rate` is what the GPU reaches, well below its data sheet. All 28 layers take a minute or more to count, so this cell counts the first two.

# %%
config = KNOWN_PAIRS["dream-7b"].config()
config.num_hidden_layers = 2
work = Workload(examples=200, rows=200, tokens=24)  # IOI: one answer token per prompt
plan(config, work, name="dream-7b, two layers", dtypes=["bfloat16"], rate=2e14)

# %% [markdown]
# The whole of it, on the command line:
#
#     mechshift plan --pair dream-7b --task ioi --n 200 --tokens 24 --read 1 --dtype bfloat16 --flops 2e14
#
# It prints:
#
#     Plan of dream-7b: ioi, n = 200
#      one model                       value           unit
#      ──────────────────────────────────────────────────────────────────────────────
#      parameters                      7,615,616,512
#      edges, K and V per KV head      408,227
#      edges, K and V per query head   935,747
#      work                            200 × 24        rows × tokens, of 200 examples
#      one plain forward of all rows   6.79e+13        FLOP
#      attribution, 5 steps, grouped   7.2e+14         FLOP
#      its time at 2e+14 FLOP/s        3.6             s
#      commit order of an MDM          0.3             s
#      scores and readouts on disk     6.5             MiB
#      scores per example, if kept     643.2           MiB
#     Memory
#      dtype      rows at a time   weights GiB   peak beside them GiB   together GiB
#      ─────────────────────────────────────────────────────────────────────────────
#      bfloat16                8        14.185                  1.552         15.737
#
# ## Check how the checkpoints would be read
#
#     mechshift inspect Dream-org/Dream-v0-Base-7B
#     mechshift inspect diffusionfamily/diffullama
#
# These read configs and tokenizers alone. They print the shift, the mask id and the direction of attention, with a note on what the config does not state itself.

# %% [markdown]
# ## Open the pair
#
# On the GPU machine this is all:
#
#     pair = load_pair("dream-7b", dtype="bfloat16", device="cuda")
#
# Here, the same layout with small numbers: Dream's config says `Dream`, its weights have Qwen2's keys, it attends both ways, and its logits are shifted by one. DiffuLLaMA's config is a plain Llama's, so its `family` must be said where the name does not tell it. Its mask is an ordinary word; the pair below has a word of its own for it.

# %%
tokenizer = load_pair("tiny").tokenizer
small = {
    "vocab_size": 337, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 4, "num_attention_heads": 4,
    "max_position_embeddings": 128, "tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip
qwen = Qwen2Config(**small, num_key_value_heads=2, bos_token_id=None, eos_token_id=1)
llama = LlamaConfig(**small, num_key_value_heads=4, bos_token_id=0, eos_token_id=1)


def written(folder: Path, model: torch.nn.Module, config: dict) -> Path:
    """A checkpoint as the hub holds it: `config.json` and weights under their native keys."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, default=str))
    save_file({key: tensor.clone() for key, tensor in model.state_dict().items()}, folder / "model.safetensors")
    return folder


def opened(name: str, family: str) -> Pair:
    """A random pair laid out as `name` is."""
    folder = Path(tempfile.mkdtemp())
    config, make = (qwen, Qwen2ForCausalLM) if family == "dream" else (llama, LlamaForCausalLM)
    torch.manual_seed(0)
    arm = make(config)
    mdm = make(config)
    mdm.load_state_dict({key: one + 0.02 * torch.randn_like(one) for key, one in arm.state_dict().items()})
    stated = arm.config.to_dict()
    if family == "dream":
        theirs = stated | {"model_type": "Dream", "architectures": ["DreamModel"], "mask_token_id": tokenizer.mask_token_id}
    else:
        theirs = stated | {"mask_token_id": tokenizer.mask_token_id}
    paths = written(folder / "arm", arm, stated), written(folder / name, mdm, theirs)
    return load_pair(arm=paths[0], mdm=paths[1], family=family, tokenizer=tokenizer)


pairs = {"dream-7b": opened("Dream-v0-Base-7B", "dream"), "diffullama-7b": opened("diffullama", "diffullama")}
for name, pair in pairs.items():
    print(name, pair.mdm.spec, sep="\n")

# %% [markdown]
# ## Attribute, cut, compare
#
# Prompts come 8 rows at a time or fewer; a batch that does not fit is halved by itself. Random weights know no task, so the numbers below mean nothing: they show that every cell runs on this layout.

# %%
pair = pairs["dream-7b"]
examples = IOI().examples(pair.tokenizer, n=12, seed=0)
scores = {
    role: attribute(model, readouts(model, examples), ig_steps=5, keep_per_example=True, batch_tokens=8 * 24)
    for role, model in pair.models.items()
}
compare(scores["arm"], scores["mdm"], n=100, n_boot=20, n_random=20)

# %%
Circuit.from_scores(scores["mdm"], 60).figure()

# %% [markdown]
# `keep_per_example` holds a matrix of all edges per prompt; the plan says how many GiB. Leave it out, and intervals over prompts are left out too.
#
# ## The whole study
#
# On one 80 GB GPU, in a terminal. It may be killed and started again: it goes on from its last finished batch.
#
#     mechshift run --pair dream-7b --tasks ioi,countdown --n 200 --edges 1000 --components 100 --out runs/dream
#     mechshift run --pair diffullama-7b --tasks ioi,countdown --n 200 --edges 1000 --components 100 --out runs/diffullama
#
# On several GPUs: `accelerate launch -m mechshift_tl run …`; the prompts are shared among them. A first look takes `--quick`.
#
# In a notebook, the same for the tiny layout:

# %%
from mechshift_tl.evaluation import run_circuit  # noqa: E402

other = pairs["diffullama-7b"]
examples = IOI().examples(other.tokenizer, n=8, seed=0)
rows = {role: readouts(model, examples) for role, model in other.models.items()}
circuits = {role: Circuit.from_scores(attribute(model, rows[role]), 100) for role, model in other.models.items()}
run_circuit(other.mdm, rows["mdm"], circuits["arm"])
