"""Expected gradients' points: α ~ U(0, 1), for every row and pass on its own (Erion et al. 1906.10670).

The generator of a row is seeded by what the row holds: its two canvases and the positions that it reads. So a row has the same points in
any batch, in any process, and after a restart.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechshift_tl.attribution.path import Points
from mechshift_tl.readouts import Batch

#: What makes a row itself, whatever batch it is in.
CONTENTS = ("clean", "corrupt", "target_pos")


def drawn_points(batch: Batch, passes: int, seed: int) -> Points:
    """`passes` points of equal weight, each with an α in [0, 1) for every row. `batch` has its rows in full, not cut for speed."""
    alphas = np.stack([_of_row(batch, i, passes, seed) for i in range(len(batch))])
    return [(alpha, 1 / passes) for alpha in torch.from_numpy(alphas).unbind(1)]


def _of_row(batch: Batch, row: int, passes: int, seed: int) -> Float[np.ndarray, " passes"]:
    contents = b"|".join(_bytes(getattr(batch, name)[row]) for name in CONTENTS)
    return np.random.default_rng([seed, int.from_bytes(sha256(contents).digest()[:8], "little")]).random(passes)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.cpu().numpy().tobytes()
