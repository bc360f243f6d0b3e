"""Work through a batch in pieces that fit a processor's cache, one thread per core."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

_CPU_VALUES = 1 << 17
_GPU_VALUES = 1 << 25


def in_chunks(work: Callable[[int, int], None], images: Tensor) -> None:
    """Call work(start, stop) until the batch `images` is covered.

    On the CPU the chunks are shared out among torch.get_num_threads() Python threads whose own torch operations are
    single-threaded: splitting every small operation over the cores costs more than it brings, above all when the
    cores are shared with other programs.
    """
    on_cpu = images.device.type == "cpu"
    size = max(1, (_CPU_VALUES if on_cpu else _GPU_VALUES) // images[0].numel())
    starts = range(0, len(images), size)
    stops = [min(start + size, len(images)) for start in starts]
    threads = torch.get_num_threads()
    if not on_cpu or threads == 1:
        for start, stop in zip(starts, stops, strict=True):
            work(start, stop)
        return
    try:
        with ThreadPoolExecutor(min(threads, len(starts)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            list(pool.map(work, starts, stops))
    finally:
        torch.set_num_threads(threads)  # the calling thread kept its number; threads started later would not
