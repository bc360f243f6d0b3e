"""Timing beside its peers: `times_ms` and torch's own benchmark timer, `Generation` and transformers' generate.

Both must agree on the same work: a difference is time that one of them adds, or does not see. Small random models.

    python benchmarks/profiling.py [--quick] [runs=5]
"""

from __future__ import annotations

import time

import numpy as np
import torch
from goals import Table, goal, machine, script
from torch.utils import benchmark
from transformers import Qwen2Config, Qwen2ForCausalLM

from edgelib.devices.profiling import Generation, percentiles, times_ms, token_times

NEW_TOKENS = 32


def tiny_decoder() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    shape = dict(hidden_size=256, num_hidden_layers=4, num_attention_heads=8, num_key_value_heads=2)
    return Qwen2ForCausalLM(Qwen2Config(**shape, intermediate_size=1024, vocab_size=4096)).eval()


def main(runs: int = 5) -> None:
    """Print both timings of a matrix product and of a generation, with their ratios."""
    print(machine())
    table = Table(("", 38, ""), ("edgelib ms", 12, ".3f"), ("peer ms", 12, ".3f"), ("ratio", 8, ".2f"))
    a = torch.rand(512, 512)
    ours = percentiles(times_ms(lambda: a @ a, warmup=5, repeats=10 * runs))["p50"]
    timer = benchmark.Timer("a @ a", globals={"a": a}, num_threads=torch.get_num_threads())
    peer = 1e3 * timer.blocked_autorange(min_run_time=0.1 * runs).median
    table.row("512 x 512 product, torch's timer", ours, peer, ours / peer)
    goal("a product's time over that of torch's timer", ours / peer, at_most=1.1)

    model = tiny_decoder()
    generation = Generation(model, batch=1, prompt=32)
    generation.run(4)
    times = [token_times(generation.run(NEW_TOKENS)) for _ in range(runs)]
    total = np.median([first + later.sum() for first, later in times])
    options = dict(max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
    with torch.inference_mode():
        model.generate(generation.prompt, **options)
        whole = []
        for _ in range(runs):
            start = time.perf_counter()
            model.generate(generation.prompt, **options)
            whole.append(1e3 * (time.perf_counter() - start))
    peer = np.median(whole)
    table.row(f"{NEW_TOKENS} tokens, generate", total, peer, total / peer)
    goal("a generation's time over that of generate", total / peer, at_most=1.1)
    tpot = np.mean([later.mean() for _, later in times])
    table.row("a later token, total / tokens", tpot, total / NEW_TOKENS, tpot * NEW_TOKENS / total)


if __name__ == "__main__":
    script(main, runs=2)
