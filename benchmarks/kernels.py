"""Real kernels against torch: an image tower, a decoder's prompt and tokens, and agreement with the simulation.

torch, ONNX Runtime, OpenVINO and llama.cpp take turns in one run, as far as they are installed.

Architecture-true with random weights for speed (the arithmetic does not care); the embedded model for agreement. Models
take turns within a repeat, so that load on the machine hits all alike, and ratios are medians over repeats.

    python benchmarks/kernels.py [--quick] [parts=encoder,decoder,agreement] [repeats=9] [batch=1] [prompt=16]
"""

from __future__ import annotations

import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import onnxruntime
import torch
from goals import Table, goal, machine, script

import edgelib
from edgelib.files.gguf.write import save_gguf
from edgelib.kernels.llama_cpp.engine import Engine, why_no_engine
from edgelib.kernels.onnx_layers import saturates
from edgelib.kernels.roundings import computed_by
from edgelib.kernels.steps import decoder_of
from edgelib.kernels.table import Images, agreement, available_kernels, with_kernel

TOWER = ["vision_model.*", "visual_projection"]
ENCODERS = {
    "onnx-fp32": None,
    "onnx-int8": "w8a8-minmax",
    "onnx-int8-tensor": "w8a8-minmax",
    "onnx-int8-u8s8": "w8a8-minmax",
    "onnx-int4": "w4a16-minmax-g128",
    "openvino-fp32": None,
    "openvino-int8": "w8a16-minmax-g128",
    "openvino-int4": "w4a16-minmax-g128",
}
DECODERS = {"torch-bf16": None, "onnx-int8": "w8a8-minmax", "onnx-int4": "w4a16-minmax-g32"}
DECODERS |= {"openvino-int8": "w8a16-minmax-g32", "openvino-int4": "w4a16-minmax-g32"}
LATER = 8  # tokens of llama.cpp of which one time is the mean
FOUR_BITS = ("onnx-int4", "openvino-int4", "llama.cpp-q4_0", "llama.cpp-q4_k_m")
HERE = {row.kernel for row in available_kernels().itertuples() if row.available}


def installed(kernels: dict) -> dict:
    """Return those that run here."""
    return {kernel: scheme for kernel, scheme in kernels.items() if kernel in HERE}


def in_turns(steps: dict[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Return `repeats` times in milliseconds of each step, taken in turns after one warm-up; print each turn.

    A step that returns a float has timed itself.
    """
    times = {name: [] for name in steps}
    table = Table(("ms", 10, ""), *((name, len(name) + 3, ".1f") for name in steps))
    for repeat in range(repeats + 1):
        turn = []
        for step in steps.values():
            start = time.perf_counter()
            own = step()
            turn.append(own if isinstance(own, float) else 1e3 * (time.perf_counter() - start))
        table.row(f"turn {repeat}" if repeat else "warm-up", *turn)
        for name, one in zip(times, turn, strict=True):
            times[name] += [one] if repeat else []
    print()
    return times


def summary(times: dict[str, list[float]], peers: list[str]) -> dict[str, list[float]]:
    """Print median and best times, and return how many times as fast as each peer every step is."""
    columns = [(f"x {peer}", 16, ".2f") for peer in peers]
    table = Table(("", 20, ""), ("median ms", 11, ".1f"), ("best ms", 10, ".1f"), *columns)
    found = {}
    for name, values in times.items():
        ratios = [statistics.median(p / v for p, v in zip(times[peer], values, strict=True)) for peer in peers]
        table.row(name, statistics.median(values), min(values), *ratios)
        found[name] = ratios
    return found


@torch.inference_mode()
def encoder(repeats: int, batch: int, **_) -> None:
    """Time the image tower of CLIP ViT-B/32."""
    model = edgelib.architecture("clip-vit-base-patch32", device="cpu")
    pixels = torch.randn(batch, 3, 224, 224)
    steps = {"torch-fp32": lambda: Images(model)(pixels)}
    for kernel, scheme in installed(ENCODERS).items():
        quantized = model if scheme is None else edgelib.quantize(model, {"preset": scheme, "targets": TOWER})
        real = with_kernel(Images(quantized), kernel, [pixels])
        steps[kernel] = lambda real=real: real(pixels)
    print(f"\nCLIP ViT-B/32 image tower, batch {batch} at 224 px, {repeats} repeats")
    peers = ["torch-fp32", *(name for name in ("openvino-fp32",) if name in HERE)]
    ratios = summary(in_turns(steps, repeats), peers)
    exact = [ratios[kernel][0] for kernel, scheme in ENCODERS.items() if scheme == "w8a8-minmax"]
    goal("image tower, fastest w8a8 kernel over fp32", max(exact), at_least=2.5)
    goal("image tower, 4-bit weights over fp32", ratios["onnx-int4"][0], at_least=1.2)
    if "openvino-int8" in HERE:
        goal("image tower, OpenVINO int8 over torch fp32", ratios["openvino-int8"][0], at_least=3.3)
        goal("image tower, OpenVINO int8 over its own fp32", ratios["openvino-int8"][1], at_least=1.8)


@torch.inference_mode()
def decoder(repeats: int, prompt: int, layers: int, **_) -> None:
    """Time a prompt at once and a token after it, of a decoder shaped like Qwen2-0.5B, output layer included."""
    model = edgelib.architecture("qwen2-0.5b", device="cpu")
    model.model.layers, model.config.num_hidden_layers = model.model.layers[:layers], layers
    decoders = {"torch-fp32": decoder_of(model)}
    for kernel, scheme in installed(DECODERS).items():
        quantized = model if scheme is None else edgelib.quantize(model, scheme)
        decoders[kernel] = decoder_of(quantized, kernel)
        del quantized
        gc.collect()
    draws = torch.Generator().manual_seed(0)
    state = {}

    def words() -> torch.Tensor:
        return torch.randint(0, model.config.vocab_size, (1, prompt), generator=draws)

    def first(name: str) -> None:
        state[name] = [prompt, decoders[name].step(words(), 0).cache]

    def later(name: str) -> None:
        position, cache = state[name]
        state[name] = [position + 1, decoders[name].step(words()[:, :1], position, cache).cache]

    prompts = {name: lambda name=name: first(name) for name in decoders}
    tokens = {name: lambda name=name: later(name) for name in decoders}
    with ExitStack() as opened:
        for name, engine in llama_cpp(model, prompt, opened).items():
            prompts[name] = lambda engine=engine: float(engine.answer(words()[0].tolist(), stop=False).prompt_ms)
            tokens[name] = lambda engine=engine: (
                engine.answer(words()[0].tolist(), tokens=LATER + 1, stop=False).decode_ms / LATER
            )
        print(f"\nQwen2-0.5B shape, {layers} layers, to the first token after {prompt} at once, {repeats} repeats")
        summary(in_turns(prompts, repeats), ["torch-fp32", "torch-bf16"])
        print(f"\nQwen2-0.5B shape, {layers} layers, one token after {prompt}, batch 1, {repeats} repeats")
        ratios = summary(in_turns(tokens, repeats), ["torch-fp32", "torch-bf16"])
    by_bf16 = [ratios[name][1] for name in FOUR_BITS if name in ratios]
    goal("decoder's token, fastest 4 bits over torch bf16", max(by_bf16), at_least=3)


def llama_cpp(model, prompt: int, opened: ExitStack) -> dict[str, Engine]:
    """Return llama.cpp on 4-bit files of a decoder, closed with `opened`; nothing where it is not installed."""
    if why_no_engine():
        return {}
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
    files = {mix: save_gguf(model, folder / f"{mix}.gguf", mix) for mix in ("q4_0", "q4_k_m")}
    settings = dict(context=prompt + LATER + 8, threads=torch.get_num_threads())
    return {f"llama.cpp-{mix}": opened.enter_context(Engine(file, **settings)) for mix, file in files.items()}


@torch.inference_mode()
def agreements(images: int, **_) -> None:
    """Compare scores of the embedded CLIP on each kernel with those of its simulations.

    "own" is the simulation with the kernel's own rounding of activations; its floor is how far it moves when the pixels
    are multiplied by 1 + 1e-7, because rounding magnifies the last digits.
    """
    model, data = edgelib.load("scenes-clip"), edgelib.dataset("scenes", n=images)
    pixels = torch.cat([some for _, some in data.batches(100)])

    def scores(some, shift: float = 0.0):
        features = some.image_features(some.pixels(pixels) * (1 + shift))
        return features @ some.class_vectors(data.class_names, ["a photo of a {}."]).T

    print(f"\nscenes-clip, {images} images: relative difference of scores, and share of answers that change")
    flips, form = ("flips", 8, ".3f"), ".1e"
    columns = (("to its own", 12, form), ("floor", 10, form), ("to simulation", 15, form), flips)
    table = Table(("kernel", 20, ""), *columns, ("simulation to fp32", 20, form), flips)
    baseline, changed = scores(model), []
    for kernel, scheme in {**installed(ENCODERS), "onnx-int4": "w4a16-minmax-g32"}.items():
        quantized = model if scheme is None else edgelib.quantize(model, scheme)
        own = model if scheme is None else computed_by(quantized, kernel.replace("u8s8", "tensor"))
        simulated, real, ours = scores(quantized), scores(with_kernel(quantized, kernel)), scores(own)
        exact, floor = (agreement(ours, other)["relative_difference"] for other in (real, scores(own, 1e-7)))
        kernel_to, fp32_to = agreement(simulated, real), agreement(baseline, simulated)
        shown = [part[key] for part in (kernel_to, fp32_to) for key in ("relative_difference", "flip_rate")]
        table.row(kernel, exact, floor, *shown)
        changed.append(kernel_to["flip_rate"])
    goal("answers that a kernel changes, at most", 100 * max(changed), at_most=1, unit="%")


PARTS = {"encoder": encoder, "decoder": decoder, "agreement": agreements}


def main(
    parts: str = ",".join(PARTS),
    repeats: int = 9,
    batch: int = 1,
    prompt: int = 16,
    layers: int = 24,
    images: int = 400,
) -> None:
    """Run the parts that are named, all by default."""
    print(f"{machine()}, onnxruntime {onnxruntime.__version__}, load {os.getloadavg()[0]:.1f} when started")
    print(f"uint8 times int8 {'overflows' if saturates() else 'is exact'} on this machine")
    for name in parts.split(","):
        PARTS[name](repeats=repeats, batch=batch, prompt=prompt, layers=layers, images=images)


if __name__ == "__main__":
    script(main, repeats=2, prompt=16, layers=1, images=100)
