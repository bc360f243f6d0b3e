"""Timing beside its peers: `times_ms` and torch's own benchmark timer, `Generation` and transformers' generate.

Both must agree on the same work: a difference is time that one of them adds, or does not see. Small random models.

    python benchmarks/profiling.py
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch.utils import benchmark
from transformers import Qwen2Config, Qwen2ForCausalLM

from edgelib.devices.profiling import Generation, percentiles, times_ms, token_times

NEW_TOKENS = 32


def tiny_decoder() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    shape = dict(hidden_size=256, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2)
    return Qwen2ForCausalLM(Qwen2Config(**shape, intermediate_size=1024, vocab_size=4096)).eval()


def main() -> None:
    """Print both timings of a matrix product and of a generation, with their ratios."""
    a = torch.rand(512, 512)
    ours = percentiles(times_ms(lambda: a @ a, warmup=5, repeats=50))
    timer = benchmark.Timer("a @ a", globals={"a": a}, num_threads=torch.get_num_threads())
    peer = 1e3 * timer.blocked_autorange(min_run_time=0.5).median
    print(
        f"512 x 512 product: times_ms {ours['p50']:.3f} ms, torch's timer {peer:.3f} ms, ratio {ours['p50'] / peer:.2f}"
    )

    model = tiny_decoder()
    generation = Generation(model, batch=1, prompt=32)
    generation.run(4)
    runs = [token_times(generation.run(NEW_TOKENS)) for _ in range(5)]
    total = np.median([first + later.sum() for first, later in runs])
    options = dict(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
    with torch.inference_mode():
        model.generate(generation.prompt, **options)
        whole = []
        for _ in range(5):
            start = time.perf_counter()
            model.generate(generation.prompt, **options)
            whole.append(1e3 * (time.perf_counter() - start))
    peer = np.median(whole)
    tpot = np.mean([later.mean() for _, later in runs])
    print(f"{NEW_TOKENS} tokens: Generation {total:.1f} ms, generate {peer:.1f} ms, ratio {total / peer:.2f}")
    print(f"TPOT from one run {tpot:.2f} ms; total / tokens, which counts the prompt, {total / NEW_TOKENS:.2f} ms")


if __name__ == "__main__":
    main()
