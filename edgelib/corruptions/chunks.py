"""Work through a batch in pieces that fit a processor's cache, one thread per core."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

_CPU_VALUES = 5 << 17  # four images of 224 pixels; larger buffers cost page faults, smaller ones calls
_GPU_VALUES = 1 << 25
_WORTH_A_THREAD = 1 << 16


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads that stay, because starting them takes longer than a batch of small images."""
    return ThreadPoolExecutor(threads, "corruptions", initializer=torch.set_num_threads, initargs=(1,))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # no thread survives a fork


def in_chunks(work: Callable[[int, int], None], images: Tensor) -> None:
    """Call work(start, stop) until the batch `images` is covered.

    On the CPU the chunks are shared out among torch.get_num_threads() Python threads whose own torch operations are
    single-threaded: splitting every small operation over the cores costs more than it brings, above all when the
    cores are shared with other programs.
    """
    values, threads = images[0].numel(), torch.get_num_threads()
    workers = min(threads, images.numel() // _WORTH_A_THREAD) if images.device.type == "cpu" else 1
    most = _CPU_VALUES if images.device.type == "cpu" else _GPU_VALUES
    size = max(1, min(most // values, -(-len(images) // max(workers, 1))))
    starts = range(0, len(images), size)
    stops = [min(start + size, len(images)) for start in starts]
    try:
        if workers > 1:
            list(_pool(threads).map(work, starts, stops))
        else:
            torch.set_num_threads(1)
            list(map(work, starts, stops))
    finally:
        torch.set_num_threads(threads)  # the calling thread kept its number; threads started later would not
