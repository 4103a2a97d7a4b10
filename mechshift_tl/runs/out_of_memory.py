"""Tells a lack of memory from other errors; accelerators and the CPU report it in different ways."""

from __future__ import annotations

import gc

import torch

#: How PyTorch's allocators and the C++ library below them put it where they have no exception type of their own.
SAID = ("DefaultCPUAllocator", "not enough memory", "out of memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on any device."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)
    )


def free_memory() -> None:
    """Free the memory of objects that nothing uses any more."""
    # First the objects that only refer to each other, then the blocks that PyTorch keeps for itself.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
