"""What a machine can do at best, measured in the same process as everything else: bytes and operations per second."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from edgelib.devices.profiling import times_ms
from edgelib.errors import EdgelibError, choose

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def copy_gb_s(device: str = "cpu", megabytes: int = 256, repeats: int = 10) -> float:
    """Return the bandwidth of copying a buffer, read and written, in 1e9 bytes/s (the copy kernel of STREAM)."""
    source = torch.ones(_elements(megabytes), device=device)
    target = torch.empty_like(source)
    best = times_ms(lambda: target.copy_(source), device=device, repeats=repeats).min()
    return 2 * source.numel() * source.element_size() / best / 1e6


def read_gb_s(device: str = "cpu", megabytes: int = 256, repeats: int = 10) -> float:
    """Return the bandwidth of reading a buffer once, in 1e9 bytes/s; what a token's weights do."""
    source = torch.ones(_elements(megabytes), device=device)
    best = times_ms(source.sum, device=device, repeats=repeats).min()
    return source.numel() * source.element_size() / best / 1e6


def gemm_rate(format: str = "fp32", device: str = "cpu", size: int = 512, repeats: int = 5) -> float:
    """Return the rate of a square matrix product in 1e12 operations/s: the better of a b and a b^T, as a Linear has it.

    A format without arithmetic of its own may take another and far slower path in one of the two.
    """
    dtype = choose(DTYPES, format, "format of a matrix product")
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    products = (lambda: F.linear(a, b), lambda: a @ b)
    best = min(times_ms(product, device=device, warmup=1, repeats=repeats).min() for product in products)
    return 2 * size**3 / best / 1e9


def ceilings(
    device: str = "cpu", formats: Sequence[str] = ("fp32", "bf16"), megabytes: int = 256, size: int = 512
) -> dict[str, float]:
    """Return {"copy_gb_s", "read_gb_s", "<format>_tops"} of the machine with the threads torch has now."""
    found = {"copy_gb_s": copy_gb_s(device, megabytes), "read_gb_s": read_gb_s(device, megabytes)}
    return found | {f"{format}_tops": gemm_rate(format, device, size) for format in formats}


def _elements(megabytes: int) -> int:
    if isinstance(megabytes, bool) or not isinstance(megabytes, int) or megabytes < 1:
        raise EdgelibError(f"a buffer has a whole number of megabytes, at least 1, got {megabytes!r}")
    return megabytes * 2**18
