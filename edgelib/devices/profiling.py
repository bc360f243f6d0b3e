"""Time and memory of real runs: percentiles of one step, first and later tokens of one generation, memory by its use.

CPUs are timed by a monotonic clock. GPUs are timed by pairs of CUDA events around every iteration, with one
synchronisation at the end, so that waiting for the host is no part of a time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binom
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.ground.checks import seed_number

PERCENTILES = (25, 50, 75, 95)
_CPU = torch.device("cpu")
_CACHE_BYTES = 256 * 2**20  # more than any cache that could keep the inputs of the last iteration


class Marks:
    """Points in time on a device: `mark()` as often as wanted, then `ms()`, the times since the first mark."""

    def __init__(self, device: str | torch.device = "cpu"):
        self.on_gpu = torch.device(device).type == "cuda"
        self.points: list = []

    def mark(self) -> None:
        """Record now, on a GPU without waiting for it."""
        if self.on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.points.append(event)
        else:
            self.points.append(time.perf_counter_ns())

    def ms(self) -> np.ndarray:
        """Return the marks in ms since the first one [n], after waiting for the last."""
        if self.on_gpu:
            torch.cuda.synchronize()
            return np.array([self.points[0].elapsed_time(point) for point in self.points])
        return (np.array(self.points) - self.points[0]) / 1e6


def times_ms(
    step: Callable[[], object],
    *,
    device: str | torch.device = "cpu",
    warmup: int = 3,
    repeats: int = 20,
    cold: bool = False,
) -> np.ndarray:
    """Return the times of `repeats` calls of step() in ms, after `warmup` calls that do not count.

    cold: overwrite a buffer larger than the caches before every call, so that weights come from memory; the time of
    doing so does not count. Raises EdgelibError for counts that make no measurement.
    """
    for name, count, least in (("warmup", warmup, 0), ("repeats", repeats, 1)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise EdgelibError(f"{name} must be a whole number of at least {least}, got {count!r}")
    buffer = torch.empty(_CACHE_BYTES, dtype=torch.uint8, device=device) if cold else None
    for _ in range(warmup):
        step()
    marks = Marks(device)
    for _ in range(repeats):
        if buffer is not None:
            buffer.zero_()
        marks.mark()
        step()
        marks.mark()
    return np.diff(marks.ms())[::2]


def percentiles(times) -> dict[str, float]:
    """Return {"p25", "p50", "p75", "p95", "n"} of times [n]; quartiles and a tail, because means hide both.

    Raises EdgelibError for no times, NaN, and times that are not above 0.
    """
    times = np.asarray(times, dtype=float)
    if times.ndim != 1 or times.size == 0 or not (times > 0).all():
        raise EdgelibError(f"percentiles need measured times above 0, got {times!r}")
    found = np.percentile(times, PERCENTILES)
    return {**{f"p{q}": float(value) for q, value in zip(PERCENTILES, found, strict=True)}, "n": times.size}


def median_interval(times, level: float = 0.95) -> tuple[float, float] | None:
    """Return two of the times [n] between which the median of all possible ones lies, whatever their distribution.

    level: at least this sure, by the binomial count of times below the median. None where n is too small, below 6 times
    for 95 %. Source: David and Nagaraja, Order Statistics, 2003, section 7.1.
    """
    ordered = np.sort(np.asarray(times, dtype=float))
    outside = 2 * binom.cdf(np.arange(ordered.size), ordered.size, 0.5)  # beyond the k-th from below and from above
    ranks = int((outside <= 1 - level).sum())
    return None if ranks == 0 else (float(ordered[ranks - 1]), float(ordered[-ranks]))


@dataclass(frozen=True)
class Repeats:
    """When a time is known well enough: its median's 95 % interval within `share` of it to either side, or `seconds`
    spent on it, though never before `least` times were taken, nor after `most`."""

    least: int = 6
    most: int = 30
    share: float = 0.03
    seconds: float = 60.0

    def settled(self, times) -> bool:
        """Whether the median of these times (ms) is known to `share`."""
        interval = median_interval(times)
        middle = float(np.median(times))
        return interval is not None and max(middle - interval[0], interval[1] - middle) <= self.share * middle

    def enough(self, times, seconds: float | None = None) -> bool:
        """Whether no further times (ms) are needed; seconds: that taking them took, their sum if it is not given."""
        if len(times) < max(1, self.least):
            return False
        spent = float(np.sum(times)) / 1e3 if seconds is None else seconds
        return len(times) >= self.most or spent >= self.seconds or self.settled(times)


def token_times(marks: np.ndarray) -> tuple[float, np.ndarray]:
    """Return (time to first token, times of the later tokens [n - 1]) from marks at the start and after each token.

    Their mean is the time per output token of the same run, TPOT = (total - TTFT) / (n - 1).
    """
    if len(marks) < 3:
        raise EdgelibError(f"time per output token needs at least 2 tokens, got {len(marks) - 1}")
    return float(marks[1] - marks[0]), np.diff(marks)[1:]


class Generation:
    """Greedy generation with a causal language model of transformers, its first and later tokens timed in one run.

    prompt: random tokens [batch, length] from a seed; times do not depend on which.
    """

    def __init__(self, model: nn.Module, *, batch: int = 1, prompt: int = 128, seed: int = 0):
        for name, count in (("batch", batch), ("prompt", prompt)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise EdgelibError(f"{name} must be a whole number of at least 1, got {count!r}")
        self.model, self.device = model, next(model.parameters()).device
        generator = torch.Generator().manual_seed(seed_number(seed))
        words = model.config.get_text_config().vocab_size
        self.prompt = torch.randint(words, (batch, prompt), generator=generator).to(self.device)
        self.cache: Any = None

    @torch.inference_mode()
    def run(self, new_tokens: int) -> np.ndarray:
        """Generate and return the marks in ms [1 + new_tokens]: 0, then the end of every token."""
        marks, tokens, self.cache = Marks(self.device), self.prompt, None
        marks.mark()
        for _ in range(new_tokens):
            out = self.model(input_ids=tokens, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
            tokens, self.cache = out.logits[:, -1:].argmax(dim=-1), out.past_key_values
            marks.mark()
        return marks.ms()

    def cache_bytes(self) -> int:
        """Return the bytes of keys and values after a run."""
        return sum(t.numel() * t.element_size() for layer in self.cache.layers for t in (layer.keys, layer.values))


class StepGeneration:
    """The same for a decoder of `edgelib.kernels.steps`, which reads its prompt in one step.

    kv_bytes: bytes of keys and values of so many tokens.
    """

    def __init__(
        self, decoder, vocabulary: int, kv_bytes: Callable[[int], float], *, batch: int = 1, prompt: int = 128
    ):
        self.decoder, self.kv_bytes, self.tokens = decoder, kv_bytes, 0
        self.prompt = torch.randint(vocabulary, (batch, prompt), generator=torch.Generator().manual_seed(0))

    def run(self, new_tokens: int) -> np.ndarray:
        """Generate and return the marks in ms [1 + new_tokens]: 0, then the end of every token."""
        marks, cache, length = Marks(), None, self.prompt.shape[1]
        marks.mark()
        tokens, position = self.prompt, 0
        for _ in range(new_tokens):
            logits, cache = self.decoder.step(tokens, position, cache)
            position += tokens.shape[1]
            tokens = logits.argmax(dim=-1, keepdim=True)
            marks.mark()
        self.tokens = len(self.prompt) * (length + new_tokens - 1)
        return marks.ms()

    def cache_bytes(self) -> int:
        """Return the bytes of keys and values after a run."""
        return int(self.kv_bytes(self.tokens))


def token_statistics(runs: Sequence[np.ndarray], batch: int) -> dict[str, float]:
    """Return the times of the first and later tokens in the same runs, in ms, and tokens per second.

    runs: the marks of each run. ttft_p50 and the like are over runs, tpot_p50 and the like over all later tokens of all
    runs; tpot is their mean, tokens_per_s counts all sequences of the batch.
    """
    times = [token_times(marks) for marks in runs]
    first, later = np.array([run[0] for run in times]), np.concatenate([run[1] for run in times])
    found = {f"ttft_{name}": value for name, value in percentiles(first).items()}
    found |= {f"tpot_{name}": value for name, value in percentiles(later).items()}
    return found | {"tpot": float(later.mean()), "tokens_per_s": batch * 1e3 / float(later.mean())}


def tensor_bytes(model: nn.Module) -> int:
    """Return the bytes of a model's parameters and buffers, shared storage once; of sessions those of their files."""
    if not isinstance(model, nn.Module):
        return model.bytes
    files = sum(part.bytes for part in model.modules() if isinstance(getattr(part, "bytes", None), int))
    tensors = [part for t in (*model.parameters(), *model.buffers()) for part in _parts(t)]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
    return files + sum(storage.nbytes() for storage in storages.values())


def _parts(tensor: Tensor) -> list[Tensor]:
    """The tensors that hold the data of one: itself, or codes, scales and so on of torchao's kinds."""
    if not hasattr(tensor, "__tensor_flatten__"):
        return [tensor]
    return [part for name in tensor.__tensor_flatten__()[0] for part in _parts(getattr(tensor, name))]


def memory_split(model: nn.Module, step: Callable[[], object], kept: Callable[[], int] = lambda: 0) -> dict[str, int]:
    """Return bytes of a step by use: weights, kv (what `kept` reports after it), activations, workspace.

    activations: the peak of what the framework allocates during the step beyond kv. workspace: what its libraries hold
    beyond that, on a GPU the reserved pool beyond the peak, on Linux the rise of the process's own peak; 0 elsewhere.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu")) if isinstance(model, nn.Module) else _CPU
    step()  # one-time buffers of libraries are no part of a step
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated(device)
        rise, workspace = peak - before, torch.cuda.max_memory_reserved(device) - peak
    else:
        with resident_peak() as resident:
            step()
        rise = allocated_peak(step)
        workspace = max(0, resident[0] - rise) if resident else 0
    kv = kept()
    return {"weights": tensor_bytes(model), "kv": kv, "activations": max(0, rise - kv), "workspace": int(workspace)}


def allocated_peak(step: Callable[[], object]) -> int:
    """Return the most bytes of CPU tensors that were alive at once during step(), beyond those that were before it."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its first start writes of GPUs that are not there
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(max(alive.max(initial=0), 0))


@contextmanager
def resident_peak() -> Iterator[list[int]]:
    """Yield a list that holds, after the block, the rise of the process's peak resident memory; empty off Linux."""
    rise: list[int] = []
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _status("VmRSS")
    except OSError:
        yield rise
        return
    yield rise
    rise.append(max(0, _status("VmHWM") - before))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))
