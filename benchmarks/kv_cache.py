"""Decode steps and memory of quantized caches beside transformers' own, at the size of scenes-vlm and of a 2B model.

A step is one token for every row of the batch. The figure is the median over steps of the fastest of several runs: on
the CPU the time of its one thread, which a busy machine does not lengthen, on a GPU that of the clock, synchronised.
The cache of the model's own dtype is the baseline. "bytes" is what the stored tokens take over what the
bits of the format say. The peer is transformers' own QuantizedCache (HQQ or optimum-quanto), where it is installed.

    python benchmarks/kv_cache.py [--quick] [length=32, of the prompt] [batch=8] [runs=4] [steps=24]
"""

from __future__ import annotations

import statistics
import time

import torch
from goals import Table, goal, machine, script
from transformers import DynamicCache, QuantizedCache, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from edgelib.ground.modules import converted
from edgelib.kv.cache import kv_cache
from edgelib.kv.calibrate import calibrate_kv

SCHEMES = (
    "e4m3-amax",
    "e4m3-channel",
    "e5m2-amax",
    "int8-amax",
    "int8-channel-mean",
    "int8-token",
    "int4-channel",
    "int4-token",
    "int4-kivi",
    "nvfp4-amax",
    "e4m3-amax-bias",
)
STATIC = ("e4m3-amax", "e5m2-amax", "int8-amax")  # one scale, known before the first token
TOKENS = dict(pad_token_id=0, bos_token_id=0, eos_token_id=None)
VISION = dict(depth=1, embed_dim=32, num_heads=2, mlp_ratio=2, patch_size=4)


def decoder(device: str, **text) -> Qwen2VLForConditionalGeneration:
    """A random Qwen2-VL in the usual dtype of the device."""
    sections = {16: [2, 3, 3], 32: [4, 6, 6], 128: [16, 24, 24]}[text["hidden_size"] // text["num_attention_heads"]]
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections}
    config = Qwen2VLConfig(
        text_config=text | dict(rope_parameters=rope, vocab_size=1024, **TOKENS),
        vision_config=VISION | dict(hidden_size=text["hidden_size"]),
        image_token_id=1,
        video_token_id=2,
    )
    model = Qwen2VLForConditionalGeneration(config).eval().requires_grad_(False)
    return converted(model, torch.float32 if device == "cpu" else torch.bfloat16).to(device)


def step_ms(model, inputs: dict, cache, steps: int) -> float:
    """Median time of a decode step, the prompt and the first steps left out."""
    on_gpu, stamps = model.device.type == "cuda", []

    def stamp(*_):
        if on_gpu:
            torch.cuda.synchronize()
        stamps.append(time.perf_counter() if on_gpu else time.thread_time())

    hook = model.register_forward_pre_hook(stamp)
    try:
        model.generate(**inputs, past_key_values=cache, max_new_tokens=steps, do_sample=False)
    finally:
        hook.remove()
    return 1e3 * statistics.median(b - a for a, b in zip(stamps[3:], stamps[4:], strict=False))


def peer(model, bits: int = 4):
    """transformers' own quantized cache, or None where no backend is installed."""
    try:
        return QuantizedCache(backend="quanto", config=model.config, nbits=bits)
    except (ImportError, ValueError):
        return None


def report(name: str, model, length: int, batch: int, runs: int, steps: int) -> None:
    """Print one line per cache."""
    ids = torch.randint(3, 1000, (batch, length), device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    seen = calibrate_kv(model, [inputs], text_only=True)
    plans = {scheme: kv_cache(model, scheme, seen) for scheme in SCHEMES}
    makers = {"baseline": DynamicCache} | plans
    if peer(model) is not None:
        makers["transformers int4"] = lambda: peer(model)
    print(f"\n{name}: batch {batch}, prompt {length}, {model.dtype} on {model.device}")
    best, table = dict.fromkeys(makers, float("inf")), Table(("run", 6, ""), ("cache", 20, ""), ("ms/step", 9, ".2f"))
    for run in range(1, runs + 1):
        for key, make in makers.items():
            milliseconds = step_ms(model, inputs, make(), steps)
            best[key] = min(best[key], milliseconds)
            table.row(run, key, milliseconds)
    print()
    table = Table(("", 22, ""), ("ms/step", 9, ".2f"), ("ratio", 8, ".2f"), ("bits", 8, ".2f"), ("bytes", 8, ".3f"))
    base = best["baseline"]
    table.row("baseline", base, 1.0, model.dtype.itemsize * 8, 1.0)
    ratios = {key: best[key] / base for key in plans}
    shares = {}
    for key, plan in plans.items():
        bits, shares[key] = storage(model, inputs, plan)
        table.row(key, best[key], ratios[key], bits, shares[key])
    for key in makers.keys() - plans.keys() - {"baseline"}:
        table.row(key, best[key], best[key] / base)
    goal(f"{name}: step with a static 8-bit cache", max(ratios[key] for key in STATIC), at_most=1.3)
    goal(f"{name}: step with the slowest cache", max(ratios.values()), at_most=1.3)
    goal(f"{name}: bytes over the format's bits", max(shares.values()), at_most=1.05)


def storage(model, inputs: dict, plan) -> tuple[float, float]:
    """Bits per element that a format says, and the bytes that its cache takes over those of the bits."""
    cache = plan()
    model(**inputs, past_key_values=cache, use_cache=True)
    decoder = plan.decoder
    elements = 2 * len(decoder.blocks) * decoder.kv_heads * decoder.head_dim * inputs["input_ids"].numel()
    bits = sum(plan.scheme.bits_per_element(decoder.head_dim, part) for part in "kv") / 2
    return bits, cache.nbytes / (elements * bits / 8)


def main(length: int = 32, batch: int = 8, runs: int = 4, steps: int = 24) -> None:
    """Print the embedded size on the CPU and, where there is a GPU, the shape of a 2B model on it."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(machine())
    small = dict(
        hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2
    )
    report("scenes-vlm", decoder("cpu", **small), length, batch, runs, steps)
    if torch.cuda.is_available():
        large = dict(
            hidden_size=1536,
            intermediate_size=8960,
            num_hidden_layers=28,
            num_attention_heads=12,
            num_key_value_heads=2,
        )
        for rows, context in ((1, 1024), (8, 4096)):
            report(f"2B, batch {rows}", decoder("cuda", **large), context, rows, runs, steps)


if __name__ == "__main__":
    with torch.no_grad():
        script(main, runs=1, steps=12)
