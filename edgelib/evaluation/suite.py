"""Measure this machine: ceilings, encoders and generation, as `edgelib measure` and a chapter with "here" do it.

Models have their public dimensions and random weights: how long a step takes does not depend on the values.
Configurations of one case take turns, round by round, so that whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import copy
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from edgelib.errors import EdgelibError
from edgelib.evaluation.costs import weight_bits
from edgelib.measure.ceilings import ceilings
from edgelib.measure.measurements import COLUMNS, Measurements, load_measurements, save_measurements
from edgelib.measure.profiling import Generation, StepGeneration, memory_split, percentiles, times_ms, token_statistics
from edgelib.measure.workload import Decoder, decode_work, decoder, encode_work, encoder
from edgelib.quant.architectures import architecture
from edgelib.quant.kernels import KERNELS, available_kernels, with_kernel
from edgelib.quant.quantize import quantize

_PACKAGES = ("torch", "transformers", "onnxruntime", "torchao")


@dataclass(frozen=True)
class Runner:
    """One way to run a model: a kernel, the numbers it computes with, and how to build it from the fp32 model.

    weight, activation: number formats; bits: per weight, scales included; head_bits, other_bits: of the output head,
    and of what else is stored and passed on. build: (module, example inputs) -> module that runs that way.
    decode: decoder -> what generates token by token, a model of transformers or a decoder with steps; None: cannot.
    """

    runtime: str
    config: str
    weight: str
    activation: str
    bits: float
    head_bits: float
    other_bits: float
    build: Callable[[nn.Module, list[Tensor]], nn.Module]
    decode: Callable[[nn.Module], object] | None = None


def _bf16(module: nn.Module) -> nn.Module:
    return module.to(torch.bfloat16)


TORCH = (
    Runner("torch", "torch-fp32", "fp32", "fp32", 32, 32, 32, lambda module, _: module, lambda module: module),
    Runner("torch", "torch-bf16", "bf16", "bf16", 16, 16, 16, lambda module, _: _bf16(module), lambda m: _bf16(m)),
)
# Numbers of the kernels of `edgelib.quant.kernels` that an encoder can be timed with: weights, activations, and bits
# per weight where the kernel quantizes by itself.
_NUMBERS = {
    "onnx-fp32": ("fp32", "fp32", 32.0), "onnx-int4": ("int4", "int8", None), "onnx-int8": ("int8", "int8", None),
    "onnx-int8-tensor": ("int8", "int8", None),
    "torchao-int8": ("int8", "fp32", 8.1), "torchao-int8-dynamic": ("int8", "int8", 8.1),
    "torchao-int4": ("int4", "bf16", 4.25), "torchao-fp8": ("fp8_e4m3", "fp8_e4m3", 8.1),
}  # fmt: skip


class Tower(nn.Module):
    """A vision encoder of transformers that takes pixels and returns one tensor, as kernels want it."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, pixels: Tensor) -> Tensor:
        return self.module(pixel_values=pixels).pooler_output


@dataclass(frozen=True)
class Suite:
    """What is measured. encoders: {architecture: (shape in architectures.yaml, batches)}; decoders: {architecture:
    (shape, ((batch, prompt), ...))}; new_tokens per run; rounds in which configurations take turns;
    megabytes and gemm: the size of the buffers and of the matrices that the ceilings are measured with."""

    encoders: Mapping[str, tuple[str, Sequence[int]]]
    decoders: Mapping[str, tuple[str, Sequence[tuple[int, int]]]]
    new_tokens: int = 12
    rounds: int = 3
    megabytes: int = 256
    gemm: int = 512


# (batch, prompt); those of one token are for decoders that read token by token
_CASES = ((1, 1), (1, 32), (1, 128), (1, 512), (4, 1), (4, 32), (16, 1), (16, 32), (32, 32))
FULL = Suite(
    encoders={"clip-vit-base-patch32": ("clip-vit-b32", (1, 8, 32))},
    decoders={"qwen2-0.5b": ("qwen2-0.5b", _CASES), "qwen2-vl-2b": ("qwen2-vl-2b", ((1, 32),))},
)
QUICK = Suite(
    encoders={"clip-vit-base-patch32": ("clip-vit-b32", (1,))},
    decoders={"qwen2-0.5b": ("qwen2-0.5b", ((1, 1), (1, 8)))},
    new_tokens=4, rounds=2, megabytes=64,
)  # fmt: skip
SUITES = {"full": FULL, "quick": QUICK}
_TOO_LONG = 15.0  # seconds that one run of a case may take, by the ceilings or in fact, before it is left out
_COPIES = 4  # of a decoder's weights: the model, its rounded copy, the exported one, the session's


def measure_machine(
    suite: Suite = FULL, runners: Sequence[Runner] | None = None, *, name: str | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Measurements:  # fmt: skip
    """Measure this machine with the threads torch has now and return its tables.

    runners: ways to run a model, the baseline first; None for torch and every kernel that is installed. name: of the
    machine in the book. Cases that would take minutes are left out and named in machine["left_out"].
    Raises EdgelibError for a suite without cases.
    """
    if not suite.encoders or not suite.decoders:
        raise EdgelibError("a suite measures at least one encoder and one decoder")
    runners = installed_runners() if runners is None else runners
    before = ceilings(megabytes=suite.megabytes, size=suite.gemm)
    left_out: list[str] = []
    encoders, generation = [], []
    for model, (shape, batches) in suite.encoders.items():
        report(f"encoder {model}")
        encoders += _encoder_rows(model, shape, batches, runners, suite, before, left_out)
    for model, (shape, cases) in suite.decoders.items():
        report(f"decoder {model}")
        generation += _generation_rows(model, shape, cases, runners, suite, before, left_out)
    for kind, rows in (("encoders", encoders), ("decoders", generation)):
        if not rows:
            raise EdgelibError(f"no case of {kind} is short enough to measure here: {'; '.join(left_out)}")
    after = ceilings(megabytes=suite.megabytes, size=suite.gemm)
    # Other work only takes away, so the better of two readings is nearer to what the machine can do.
    best = {key: float(max(before[key], after[key])) for key in before}
    return Measurements(
        machine=describe(name) | {"ceilings": {k: float(f"{v:.4g}") for k, v in best.items()}, "left_out": left_out},
        encoders=pd.DataFrame(encoders)[list(COLUMNS["encoders"])],
        generation=pd.DataFrame(generation)[list(COLUMNS["generation"])],
    )


def installed_runners() -> tuple[Runner, ...]:
    """Return torch's runners and one for every other kernel that can run here."""
    kernels = available_kernels()
    usable = kernels.loc[kernels["available"] & kernels["kernel"].isin(list(_NUMBERS)), "kernel"]
    return (*TORCH, *(_kernel_runner(name) for name in usable))


def _kernel_runner(kernel: str) -> Runner:
    weight, activation, bits = _NUMBERS[kernel]
    scheme = KERNELS[kernel].scheme
    if bits is None:
        bits = weight_bits(architecture("clip-vit-base-patch32").vision_model, scheme)

    def build(module: nn.Module, inputs: list[Tensor]) -> nn.Module:
        made = quantize(module, scheme) if scheme else module
        return with_kernel(made, kernel, None if kernel.startswith("torchao") else inputs)

    def decode(module: nn.Module):
        from edgelib.quant.decoder import decoder_of

        if kernel.startswith("torchao"):
            return with_kernel(module, kernel)
        return decoder_of(quantize(module, scheme) if scheme else module, kernel)

    runtime = {"onnx": "ONNX Runtime", "torchao": "torchao"}[kernel.split("-")[0]]
    return Runner(runtime, kernel, weight, activation, bits, bits, 32, build, decode)


def measurements_of(wanted: str | None, folder: str | Path) -> Measurements:
    """Return the measurements that a chapter's parameter names: None the published ones, "here" taken now, a folder.

    folder: where measurements that are taken now are kept. They are quick ones, and differ from run to run.
    """
    if wanted != "here":
        return load_measurements(wanted)
    return load_measurements(save_measurements(measure_machine(QUICK), folder))


def describe(name: str | None = None) -> dict:
    """Return what a reader needs to know about this machine: processor, threads, memory, versions, was it busy."""
    processor, cores = _processor(), os.cpu_count() or 1
    busy = os.getloadavg()[0] > 0.5 * cores + torch.get_num_threads()
    return {
        "name": name or f"{processor}, {cores} cores", "processor": processor, "cores": cores,
        "threads": torch.get_num_threads(), "memory_gib": round(_memory_bytes() / 2**30, 1), "family": _family(),
        "busy": bool(busy), "versions": {package: _version(package) for package in _PACKAGES},
    }  # fmt: skip


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _family() -> str:
    return {"x86_64": "x86", "amd64": "x86", "aarch64": "armv8", "arm64": "armv8"}.get(
        platform.machine().lower(), "cpu"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _case(model: str, runner: Runner, batch: int) -> dict:
    return dict(
        model=model, runtime=runner.runtime, config=runner.config, weight=runner.weight, activation=runner.activation,
        batch=batch,
    )  # fmt: skip


def _too_long(operations: float, runner: Runner, limits: Mapping[str, float], case: str, left_out: list[str]) -> bool:
    rate = limits.get(f"{runner.activation}_tops")
    seconds = operations / rate / 1e12 if rate else 0.0
    if seconds > _TOO_LONG:
        left_out.append(f"{case}: {seconds:.0f} s by the measured rate of {runner.activation}")
    return seconds > _TOO_LONG


def _slow(first_ms: Callable[[], float], case: str, left_out: list[str]) -> bool:
    """Whether the first run of a case, which warms it up, takes longer than a run may."""
    seconds = first_ms() / 1e3
    if seconds > _TOO_LONG:
        left_out.append(f"{case}: its first run took {seconds:.0f} s")
    return seconds > _TOO_LONG


@torch.inference_mode()
def _encoder_rows(model, shape, batches, runners, suite, limits, left_out) -> list[dict]:
    rows, tower = [], encoder(shape)
    example = [torch.zeros(2, 3, tower.image, tower.image)]
    plain = architecture(model, device="cpu").vision_model
    built = {runner: runner.build(Tower(copy.deepcopy(plain)).eval(), example) for runner in runners}

    def case(runner: Runner, batch: int) -> str:
        return f"{model} {runner.config} batch {batch}"

    for batch in batches:
        images = torch.rand(batch, 3, tower.image, tower.image, generator=torch.Generator().manual_seed(0))
        steps, times = {}, {}
        for runner, module in built.items():
            work = encode_work(tower, runner.bits, batch=batch, other_bits=runner.other_bits)
            if not _too_long(work.operations, runner, limits, case(runner, batch), left_out):
                pixels = images.bfloat16() if runner.config == "torch-bf16" else images
                steps[runner] = lambda module=module, pixels=pixels: module(pixels)
                times[runner] = []
        for runner in list(steps):
            if _slow(lambda step=steps[runner]: times_ms(step, warmup=0, repeats=1)[0], case(runner, batch), left_out):
                del steps[runner]
        for _ in range(suite.rounds):
            for runner, step in steps.items():
                times[runner].append(times_ms(step, warmup=1, repeats=3))
        for runner, step in steps.items():
            work = encode_work(tower, runner.bits, batch=batch, other_bits=runner.other_bits)
            rows.append(
                _case(model, runner, batch) | percentiles(np.concatenate(times[runner]))
                | dict(operations=work.operations, bytes=work.bytes) | memory_split(built[runner], step)
            )  # fmt: skip
    return rows


def _generation_rows(model, shape, cases, runners, suite, limits, left_out) -> list[dict]:
    rows, dims = [], decoder(shape)
    # One after the other, because a decoder of two billion weights is not held in memory several times.
    for runner in [runner for runner in runners if runner.decode is not None]:
        module = None
        if runner.runtime != "torch" and _COPIES * 4 * (dims.body + dims.head + dims.embedding) > _memory_bytes():
            left_out.append(
                f"{model} {runner.config}: {_COPIES} copies in 32 bits, on the way to the kernel, do not fit"
            )
            continue
        for batch, prompt in cases:
            case = f"{model} {runner.config} batch {batch} prompt {prompt}"
            if _too_long(2 * dims.body * batch * prompt, runner, limits, case, left_out):
                continue
            if module is None:
                try:
                    module = runner.decode(architecture(model, device="cpu"))
                except EdgelibError as error:
                    left_out.append(f"{model} {runner.config}: {error}")
                    break
            generation = _generation(module, dims, batch, prompt)
            if isinstance(generation, StepGeneration) and prompt > 1:
                reason = f"{model} {runner.config}, prompts of several tokens: this decoder reads one token at a time"
                left_out += [reason] if reason not in left_out else []
                continue
            if _slow(lambda g=generation: float(g.run(2)[-1]), case, left_out):
                continue
            runs = [generation.run(suite.new_tokens) for _ in range(suite.rounds)]
            rows.append(_case(model, runner, batch) | _token_row(runs, dims, runner, batch, prompt, suite.new_tokens)
                        | memory_split(module, lambda g=generation: g.run(2), generation.cache_bytes))  # fmt: skip
    return rows


def _generation(made, dims: Decoder, batch: int, prompt: int) -> Generation | StepGeneration:
    if isinstance(made, nn.Module):
        return Generation(made, batch=batch, prompt=prompt)
    return StepGeneration(made, dims.vocab, lambda tokens: dims.kv_bytes(tokens, 32), batch=batch, prompt=prompt)


def _token_row(runs, dims, runner, batch: int, prompt: int, new_tokens: int) -> dict:
    work = decode_work(
        dims, runner.bits, context=prompt + new_tokens // 2, batch=batch, head_bits=runner.head_bits,
        kv_bits=runner.other_bits,
    )  # fmt: skip
    row = dict(prompt=prompt, new_tokens=new_tokens, operations=work.operations, bytes=work.bytes)
    return row | token_statistics(runs, batch)
