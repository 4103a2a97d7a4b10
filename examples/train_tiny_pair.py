"""Train the bundled pair on five tasks: an ARM, the MDM post-trained from it, and a control that continues the ARM without diffusion.

    python examples/train_tiny_pair.py start          # two tasks, smaller numbers
    python examples/train_tiny_pair.py arm            # two tasks, the whole range
    python examples/train_tiny_pair.py five           # all five tasks: the pair's ARM
    python examples/train_tiny_pair.py mdm_start      # then these two and, from each, the next two: one process per core
    python examples/train_tiny_pair.py control_start
    python examples/train_tiny_pair.py mdm
    python examples/train_tiny_pair.py control
    python examples/train_tiny_pair.py export         # weights, specs and tokenizer into the package

Each stage goes on from its last state in `--work`. `mechshift posttrain --pair-recipe tiny --out FOLDER` runs them all, one after another.
"""

from __future__ import annotations

from pathlib import Path

from mechshift_tl.recipes import Tiny

if __name__ == "__main__":
    Tiny().main(__doc__, Path("hooked_diffusion/pretrained/tiny"))
