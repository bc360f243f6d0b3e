"""Real kernels against torch's fp32: an image tower, decoding token by token, and agreement with the simulation.

Architecture-true with random weights for speed (the arithmetic does not care); the embedded model for agreement. Models
take turns within a repeat, so that load on the machine hits all alike, and ratios are medians over repeats.

    python benchmarks/kernels.py [encoder|decoder|agreement ...] [repeats=9] [batch=1] [prompt=16]
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable

import onnxruntime
import torch

import edgelib
from edgelib.kernels.onnx_layers import saturates
from edgelib.kernels.roundings import computed_by
from edgelib.kernels.steps import decoder_of
from edgelib.kernels.table import Images, agreement, with_kernel

TOWER = ["vision_model.*", "visual_projection"]
ENCODERS = {
    "onnx-fp32": None,
    "onnx-int8": "w8a8-minmax",
    "onnx-int8-tensor": "w8a8-minmax",
    "onnx-int8-u8s8": "w8a8-minmax",
    "onnx-int4": "w4a16-minmax-g128",
}
DECODERS = {"torch-bf16": None, "onnx-int8": "w8a8-minmax", "onnx-int4": "w4a16-minmax-g32"}


def in_turns(steps: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Return `repeats` times in milliseconds of each step, taken in turns after one warm-up."""
    times = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def table(times: dict[str, list[float]], peers: list[str]) -> None:
    """Print median and best times, and how many times as fast as each peer."""
    print(f"{'':20}{'median ms':>11}{'best ms':>10}" + "".join(f"{'x ' + peer:>16}" for peer in peers))
    for name, values in times.items():
        ratios = [statistics.median(p / v for p, v in zip(times[peer], values, strict=True)) for peer in peers]
        print(f"{name:20}{statistics.median(values):11.1f}{min(values):10.1f}" + "".join(f"{r:16.2f}" for r in ratios))


@torch.inference_mode()
def encoder(repeats: int, batch: int, **_) -> None:
    """Time the image tower of CLIP ViT-B/32."""
    model = edgelib.architecture("clip-vit-base-patch32", device="cpu")
    pixels = torch.randn(batch, 3, 224, 224)
    steps = {"torch-fp32": lambda: Images(model)(pixels)}
    for kernel, scheme in ENCODERS.items():
        quantized = model if scheme is None else edgelib.quantize(model, {"preset": scheme, "targets": TOWER})
        real = with_kernel(Images(quantized), kernel, [pixels])
        steps[kernel] = lambda real=real: real(pixels)
    print(f"\nCLIP ViT-B/32 image tower, batch {batch} at 224 px, {repeats} repeats")
    table(in_turns(steps, repeats), ["torch-fp32"])


@torch.inference_mode()
def decoder(repeats: int, prompt: int, **_) -> None:
    """Time a step of a decoder shaped like Qwen2-0.5B, output layer included, after a prompt."""
    model = edgelib.architecture("qwen2-0.5b", device="cpu")
    ids = torch.randint(0, model.config.vocab_size, (1, prompt), generator=torch.Generator().manual_seed(0))
    decoders = {"torch-fp32": decoder_of(model)}
    for kernel, scheme in DECODERS.items():
        quantized = model if scheme is None else edgelib.quantize(model, scheme)
        decoders[kernel] = decoder_of(quantized, kernel)
        del quantized
        gc.collect()
    caches = {}
    for name, one in decoders.items():
        for position in range(prompt):
            _, caches[name] = one.step(ids[:, position : position + 1], position, caches.get(name))
    state = {name: [prompt, cache] for name, cache in caches.items()}

    def step(name: str) -> None:
        position, cache = state[name]
        state[name] = [position + 1, decoders[name].step(ids[:, :1], position, cache).cache]

    print(f"\nQwen2-0.5B shape, one token after {prompt}, batch 1, {repeats} repeats")
    table(in_turns({name: lambda name=name: step(name) for name in decoders}, repeats), ["torch-fp32", "torch-bf16"])


@torch.inference_mode()
def agreements(n: int = 400, **_) -> None:
    """Compare scores of the embedded CLIP on each kernel with those of its simulations.

    "own" is the simulation with the kernel's own rounding of activations; its floor is how far it moves when the pixels
    are multiplied by 1 + 1e-7, because rounding magnifies the last digits.
    """
    model, data = edgelib.load("scenes-clip"), edgelib.dataset("scenes", n=n)
    images = torch.cat([images for _, images in data.batches(100)])

    def scores(some, shift: float = 0.0):
        features = some.image_features(some.pixels(images) * (1 + shift))
        return features @ some.class_vectors(data.class_names, ["a photo of a {}."]).T

    print(f"\nscenes-clip, {n} images: relative difference of scores, and share of answers that change")
    heads = ("kernel", "to its own", "floor", "to simulation", "flips", "simulation to fp32", "flips")
    widths = (-20, 12, 10, 15, 8, 20, 8)
    print("".join(f"{head:{'<' if width < 0 else '>'}{abs(width)}}" for head, width in zip(heads, widths, strict=True)))
    baseline = scores(model)
    for kernel, scheme in {**ENCODERS, "onnx-int4": "w4a16-minmax-g32"}.items():
        quantized = model if scheme is None else edgelib.quantize(model, scheme)
        own = model if scheme is None else computed_by(quantized, kernel.replace("u8s8", "tensor"))
        simulated, real, ours = scores(quantized), scores(with_kernel(quantized, kernel)), scores(own)
        exact, floor = (agreement(ours, other)["relative_difference"] for other in (real, scores(own, 1e-7)))
        kernel_to, fp32_to = agreement(simulated, real), agreement(baseline, simulated)
        print(
            f"{kernel:20}{exact:12.1e}{floor:10.1e}{kernel_to['relative_difference']:15.1e}{kernel_to['flip_rate']:8.3f}"
            f"{fp32_to['relative_difference']:20.1e}{fp32_to['flip_rate']:8.3f}"
        )


PARTS = {"encoder": encoder, "decoder": decoder, "agreement": agreements}


def main(*words: str) -> None:
    """Run the parts that are named, all by default."""
    chosen = [word for word in words if word in PARTS] or list(PARTS)
    settings = {"repeats": 9, "batch": 1, "prompt": 16}
    settings |= {key: int(value) for key, _, value in (word.partition("=") for word in words) if value}
    versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    print(f"{machine}, {versions}, load {os.getloadavg()[0]:.1f} when started")
    print(f"uint8 times int8 {'overflows' if saturates() else 'is exact'} on this machine")
    for name in chosen:
        PARTS[name](**settings)


if __name__ == "__main__":
    main(*sys.argv[1:])
