"""Measure this machine: ceilings, encoders and generation, as `edgelib measure` and a chapter with "here" do it.

Models have their public dimensions and random weights: how long a step takes does not depend on the values.
Configurations of one case take turns, round by round, so that whatever else the machine does meets all of them alike.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from edgelib.devices.machine import describe, memory_bytes
from edgelib.devices.measurements import COLUMNS, Measurements, load_measurements, save_measurements
from edgelib.devices.profiling import (
    Generation,
    Repeats,
    StepGeneration,
    memory_split,
    percentiles,
    times_ms,
    token_statistics,
)
from edgelib.devices.shapes import Decoder, Encoder, decoder, encoder
from edgelib.devices.workload import Work, decode_work, encode_work
from edgelib.errors import EdgelibError
from edgelib.kernels.runners import Runner, Tower, installed_runners
from edgelib.models.architectures import architecture
from edgelib.study.store import CellStore
from edgelib.study.timing.session import Session, doubt, in_turn, runs_of


@dataclass(frozen=True)
class Suite:
    """What is measured. encoders: {architecture: batches}; decoders: {architecture: ((batch, prompt), ...)}; new_tokens
    per run; repeats: of a step of an encoder, where configurations take turns; runs: of a generation; decode_by:
    kernels that decoders are measured with, None for all; megabytes and gemm: the size of the buffers and of the
    matrices that the ceilings are measured with."""

    encoders: Mapping[str, Sequence[int]]
    decoders: Mapping[str, Sequence[tuple[int, int]]]
    new_tokens: int = 12
    repeats: Repeats = Repeats(least=9, most=30, share=0.03, seconds=20)
    runs: Repeats = Repeats(least=3, most=9, share=0.05, seconds=20)
    decode_by: tuple[str, ...] | None = None
    megabytes: int = 256
    gemm: int = 512


QUICK_REPEATS = Repeats(least=3, most=12, share=0.05, seconds=2)
QUICK_RUNS = Repeats(least=2, most=6, share=0.1, seconds=3)
# (batch, prompt)
_CASES = ((1, 1), (1, 32), (1, 128), (1, 512), (4, 1), (4, 32), (16, 1), (16, 32), (32, 32))
FULL = Suite(
    encoders={"clip-vit-base-patch32": (1, 8, 32)},
    decoders={"qwen2-0.5b": _CASES, "qwen2-vl-2b": ((1, 1), (1, 32))},
)
QUICK = Suite(
    encoders={"clip-vit-base-patch32": (1,)},
    decoders={"qwen2-0.5b": ((1, 1), (1, 8))},
    new_tokens=4,
    repeats=QUICK_REPEATS,
    runs=QUICK_RUNS,
    # each other kernel exports half a billion weights again, for half a minute
    decode_by=("torch-fp32", "torch-bf16", "onnx-int4"),
    megabytes=64,
)
SUITES = {"full": FULL, "quick": QUICK}
_TOO_LONG = 15.0  # seconds that one run of a case may take, by the ceilings or in fact, before it is left out
_COPIES = 5  # of a decoder's weights: the model, its rounded copy, the exporter's, the exported one, the session's


def measure_machine(
    suite: Suite = FULL,
    runners: Sequence[Runner] | None = None,
    *,
    name: str | None = None,
    store: CellStore | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Measurements:
    """Measure this machine with the threads torch has now and return its tables.

    runners: ways to run a model, the baseline first; None for torch and every kernel that is installed. name: of the
    machine in the book. store: where every case is kept as it is done, so that a run that is killed goes on from there.
    Cases that would take minutes are left out and named in machine["left_out"]. machine["others"] is the share
    of the machine that other programs took meanwhile.
    Raises EdgelibError for a suite without cases.
    """
    if not suite.encoders or not suite.decoders:
        raise EdgelibError("a suite measures at least one encoder and one decoder")
    session = _Session(suite, installed_runners() if runners is None else tuple(runners), describe(), store, report)
    encoders = [row for model in suite.encoders for row in _encoder_rows(session, model)]
    generation = [row for model in suite.decoders for row in _generation_rows(session, model)]
    rows = [*encoders, *generation]
    left_out = [row["left_out"] for row in rows if "left_out" in row]
    tables = {}
    for kind, found in (("encoders", encoders), ("generation", generation)):
        measured = [row for row in found if "model" in row]
        if not measured:
            raise EdgelibError(f"no case of {kind} is short enough to measure here: {'; '.join(left_out)}")
        tables[kind] = pd.DataFrame(measured)[list(COLUMNS[kind])]
    machine = session.machine | ({} if name is None else {"name": name})
    return Measurements(machine | session.facts(rows, list(reached(tables))), **tables)


def some_runners(kernels: Sequence[str] | None) -> tuple[Runner, ...]:
    """Return the installed runners, or those of the kernels that are named."""
    every = installed_runners()
    return every if kernels is None else tuple(runner for runner in every if runner.config in kernels)


def case_names(suite: Suite, runners: Sequence[Runner]) -> list[str]:
    """Return what a suite measures with some runners, in order."""
    names = [_encoder_name(model, b, runners) for model, batches in suite.encoders.items() for b in batches]
    return names + [
        f"decoder {model} {runner.config} batch {batch} prompt {prompt}"
        for model, cases in suite.decoders.items()
        for runner in runners
        if runner.decode is not None and runner.config in (suite.decode_by or (runner.config,))
        for batch, prompt in cases
    ]


def _encoder_name(model: str, batch: int, runners: Sequence[Runner]) -> str:
    return f"encoder {model} batch {batch} with {', '.join(runner.config for runner in runners)}"


def reached(tables: Mapping[str, pd.DataFrame]) -> Iterator[dict[str, float]]:
    """The rates that models reached in each format they computed in: a roof that a model passes would be none."""
    for kind, time in (("encoders", "p50"), ("generation", "tpot_p50")):
        own = tables[kind][tables[kind]["weight"] == tables[kind]["activation"]]
        rates = own["operations"] / own[time] / 1e9
        yield {f"{format}_tops": rate for format, rate in rates.groupby(own["activation"]).max().items()}


def measurements_of(wanted: str | None, folder: str | Path) -> Measurements:
    """Return the measurements that a chapter's parameter names: None the published ones, "here" taken now, a folder.

    folder: where measurements that are taken now are kept. They are quick ones, and differ from run to run.
    """
    if wanted != "here":
        return load_measurements(wanted)
    return load_measurements(save_measurements(measure_machine(QUICK), folder))


class _Session(Session):
    """The measurement of a suite with some runners on one machine."""

    def __init__(self, suite: Suite, runners: Sequence[Runner], machine: dict, store: CellStore | None, report):
        self.suite, self.runners, self.machine = suite, runners, machine
        spec = {"machine": machine, "lengths": [suite.new_tokens, asdict(suite.repeats), asdict(suite.runs), _TOO_LONG]}
        super().__init__(__name__, spec, store, report, megabytes=suite.megabytes, gemm=suite.gemm)


def _too_long(operations: float, runner: Runner, limits: Mapping[str, float]) -> str | None:
    """Why a run of a case is not even begun, by the measured rate of its numbers; None where it may be."""
    rate = limits.get(f"{runner.activation}_tops")
    seconds = operations / rate / 1e12 if rate else 0.0
    return f"{seconds:.0f} s by the measured rate of {runner.activation}" if seconds > _TOO_LONG else None


def _slow(run_ms: float) -> str | None:
    """Why a case is not repeated after a first run, which warms it up and tells the time; None where it may be."""
    return f"a run takes {run_ms / 1e3:.0f} s" if run_ms / 1e3 > _TOO_LONG else None


def _head(model: str, runner: Runner, batch: int) -> dict:
    return dict(
        model=model,
        runtime=runner.runtime,
        config=runner.config,
        weight=runner.weight,
        activation=runner.activation,
        batch=batch,
    )


def _moved(work: Work) -> dict:
    return dict(operations=work.operations, bytes=work.bytes)


def _encoder_rows(session: _Session, model: str) -> Iterator[dict]:
    """Rows of an encoder: one per batch and runner, or the reason why there is none."""
    tower = encoder(model)

    @cache  # for the first case that is not kept already
    def build() -> dict[Runner, nn.Module]:
        plain = architecture(model, device="cpu").vision_model
        example = [torch.zeros(2, 3, tower.image, tower.image)]
        return {r: r.build(Tower(copy.deepcopy(plain)).eval(), example) for r in session.runners}

    for batch in session.suite.encoders[model]:
        yield from session.case(
            _encoder_name(model, batch, session.runners),
            partial(_encoder_case, session, model, tower, build, batch),
        )


def _encoder_case(session: _Session, model: str, tower: Encoder, build: Callable, batch: int) -> list[dict]:
    return _encoder_times(session, model, tower, build(), batch)


@torch.inference_mode()
def _encoder_times(
    session: _Session, model: str, tower: Encoder, built: Mapping[Runner, nn.Module], batch: int
) -> list[dict]:
    images = torch.rand(batch, 3, tower.image, tower.image, generator=torch.Generator().manual_seed(0))
    steps, rows = {}, []
    for runner, module in built.items():
        pixels = images.bfloat16() if runner.config == "torch-bf16" else images
        steps[runner] = lambda module=module, pixels=pixels: module(pixels)
    work = {r: encode_work(tower, r.bits, batch=batch, other_bits=r.other_bits) for r in built}
    for runner in built:
        reason = _too_long(work[runner].operations, runner, session.limits)
        reason = reason or _slow(times_ms(steps[runner], warmup=0, repeats=1)[0])
        if reason:
            rows.append({"left_out": f"{model} {runner.config} batch {batch}: {reason}"})
            del steps[runner]
    times = in_turn(steps, session.suite.repeats)
    for runner, step in steps.items():
        rows.append(
            _head(model, runner, batch)
            | percentiles(times[runner])
            | _moved(work[runner])
            | memory_split(built[runner], step)
            | doubt(f"{model} {runner.config} batch {batch}", times[runner], session.suite.repeats)
        )
    return rows


def _generation_rows(session: _Session, model: str) -> Iterator[dict]:
    """Rows of a decoder: one per runner, batch and prompt, or the reason why there is none."""
    dims = decoder(model)
    # One after the other, because a decoder of two billion weights is not held in memory several times.
    for runner in (runner for runner in session.runners if runner.decode is not None):
        what = f"{model} {runner.config}"
        able = session.suite.decode_by
        if able is not None and runner.config not in able:
            yield {"left_out": f"{what}: this suite decodes by {', '.join(able)} alone"}
            continue
        if runner.runtime != "torch" and _COPIES * 4 * (dims.body + dims.head + dims.embedding) > memory_bytes():
            copies = f"{_COPIES} copies in 32 bits, on the way to the kernel, do not fit"
            yield {"left_out": f"{what}: {copies}"}
            continue

        @cache
        def build(runner=runner):
            try:
                return runner.decode(architecture(model, device="cpu"))
            except EdgelibError as error:
                return str(error)

        for batch, prompt in session.suite.decoders[model]:
            yield from session.case(
                f"decoder {what} batch {batch} prompt {prompt}",
                partial(_generation_case, session, model, dims, runner, build, batch, prompt),
            )


def _generation_case(session, model: str, dims: Decoder, runner: Runner, build, batch: int, prompt: int) -> list[dict]:
    what, suite = f"{model} {runner.config}", session.suite
    case = f"{what} batch {batch} prompt {prompt}"
    reason = _too_long(2 * dims.body * batch * prompt, runner, session.limits)
    if reason:
        return [{"left_out": f"{case}: {reason}"}]
    module = build()
    if isinstance(module, str):
        return [{"left_out": f"{what}: {module}"}]
    generation = _generation(module, dims, batch, prompt)
    _, first, second = generation.run(2)
    reason = _slow(first + (second - first) * (suite.new_tokens - 1))
    if reason:
        return [{"left_out": f"{case}: {reason}"}]
    runs = runs_of(lambda: generation.run(suite.new_tokens), suite.runs)
    work = decode_work(
        dims,
        runner.bits,
        context=prompt + suite.new_tokens // 2,
        batch=batch,
        head_bits=runner.bits,
        kv_bits=runner.other_bits,
    )
    row = _head(model, runner, batch) | dict(prompt=prompt, new_tokens=suite.new_tokens) | _moved(work)
    memory = memory_split(module, lambda: generation.run(2), generation.cache_bytes)
    return [row | token_statistics(runs, batch) | memory | doubt(case, [run[1] for run in runs], suite.runs)]


def _generation(made, dims: Decoder, batch: int, prompt: int) -> Generation | StepGeneration:
    if isinstance(made, nn.Module):
        return Generation(made, batch=batch, prompt=prompt)
    return StepGeneration(made, dims.vocab, lambda tokens: dims.kv_bytes(tokens, 32), batch=batch, prompt=prompt)
