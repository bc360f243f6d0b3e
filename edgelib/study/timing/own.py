"""Time a loaded model on this machine: both towers of a zero-shot model; of one that writes, encoder, first and later
tokens by image size and batch. Static and peak memory by its use, on every kernel that is asked for.

Kernels multiply the Linears: all of the towers of a zero-shot model and of a vision tower that is timed apart. Where a
model writes, those of its decoder but the head, as its schemes round them; its vision tower stays in 32 bits then,
or in 16 with the whole model. Networks that ONNX Runtime cannot take whole are multiplied layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial

import numpy as np
import pandas as pd
import torch

from edgelib.devices.machine import describe, memory_bytes
from edgelib.devices.measurements import COLUMNS, OWN, Measurements, ModelFacts
from edgelib.devices.profiling import memory_split, percentiles, tensor_bytes, times_ms, token_statistics
from edgelib.errors import EdgelibError
from edgelib.ground.separate import linears
from edgelib.kernels.layers import by_layer
from edgelib.kernels.runners import kernel_bits
from edgelib.kernels.table import KERNELS, ONNX, TORCH, with_kernel
from edgelib.models.generative import GenerativeModel
from edgelib.quant.quantize import quantize
from edgelib.study.machine import reached
from edgelib.study.store import CellStore
from edgelib.study.timing.answering import Answering
from edgelib.study.timing.asked import Asked, Case, check, modules_of
from edgelib.study.timing.identity import configuration, identity
from edgelib.study.timing.plan import LONGEST, plan, probe_of, tower_step
from edgelib.study.timing.session import Report, Session, doubt, in_turn, runs_of
from edgelib.study.timing.work import Counted

BY_LAYER = "ONNX Runtime in torch"  # the runtime of layers that are multiplied one by one
_COPIES = 3  # of a model's weights in 32 bits while it is made ready for a kernel: its own, rounded, the session's


def predicted(asked: Asked) -> list[Case]:
    """Return every case with its predicted time, without measuring them: from one step of each image size."""
    session = Session(__name__, {}, None, lambda line: None, megabytes=16, gemm=256)
    return plan(asked, session, probe_of(asked, session))


def measure_model(
    asked: Asked,
    *,
    name: str | None = None,
    store: CellStore | None = None,
    report: Report = lambda line: None,
    planned: Callable[[list[Case]], None] = lambda cases: None,
) -> Measurements:
    """Time a model with the threads torch has now and return its tables.

    name: of the machine in the book. store: where every case is kept as it is done. planned: called with all cases
    before the first. machine["model"] says whose times they are, machine["left_out"] what could not be measured and
    why, machine["unsettled"] which medians are uncertain.
    Raises EdgelibError as `check` does, and where no case could be measured.
    """
    check(asked)
    facts, machine = identity(asked.model), describe(name)
    session = Session(__name__, _spec(asked, facts, machine), store, report, megabytes=64, gemm=512)
    probe = probe_of(asked, session)
    cases = plan(asked, session, probe)
    planned(cases)
    rows = list(_measured(asked, session, cases, probe))
    found = {kind: [row for row in rows if row.get("table") == kind] for kind in COLUMNS}
    if not any(found.values()):
        reasons = "; ".join(row["left_out"] for row in rows if "left_out" in row)
        raise EdgelibError(f"no case of {asked.model.name} could be measured here: {reasons}")
    tables = {kind: pd.DataFrame(found[kind], columns=[*COLUMNS[kind], *OWN[kind]]) for kind in COLUMNS}
    tables = {kind: _kept(table) for kind, table in tables.items()}
    best = session.facts(rows, list(reached(tables)))
    named = {"model": facts.model_dump(), "images": asked.images.said}
    return Measurements(machine | named | best, **tables, config=configuration(asked.model))


def _kept(table: pd.DataFrame) -> pd.DataFrame:
    """Without columns that nothing was measured in."""
    return table.dropna(axis=1, how="all") if len(table) else table


def _spec(asked: Asked, facts: ModelFacts, machine: dict) -> dict:
    suite = asked.suite
    lengths = [suite.new_tokens, asdict(suite.repeats), asdict(suite.runs), LONGEST]
    return {"machine": machine, "model": facts.model_dump(), "images": asked.images.digest, "lengths": lengths}


def _measured(asked: Asked, session: Session, cases: Sequence[Case], probe: Mapping[str, dict]) -> Iterator[dict]:
    """Rows of all cases, and the reasons of those that have none."""

    @cache
    def build(part: str, kernel: str):
        if part == "decoder":  # one at a time: decoders are large, and a kernel meets all its cases before the next
            build.cache_clear()
        return _built(asked, part, kernel)

    for case in cases:
        work = probe.get(f"{case.part} {case.size}")
        if work is None:
            why = "its family encodes images only together with their prompt"
            yield {"left_out": f"{case.part} of {asked.model.name}: {why}"}
            continue
        measure = _decoder_case if case.part == "decoder" else _tower_case
        yield from session.case(case.what, partial(measure, asked, case, build, Counted(**work["work"])))


def _built(asked: Asked, part: str, kernel: str):
    """The model with a part multiplied by a kernel, and its runtime; a text that says why not."""
    model, chosen = asked.model, KERNELS[kernel]
    need = (_COPIES if chosen.runtime != TORCH else 2) * tensor_bytes(model.module)
    if need > memory_bytes():
        return f"{need / 2**30:.1f} GiB of copies, on the way to the kernel, do not fit", ""
    try:
        if isinstance(model, GenerativeModel):
            made = by_layer(model, kernel, model.towers()[part])
            return made, BY_LAYER if chosen.runtime == ONNX else chosen.runtime
        rounded = quantize(model, chosen.scheme, losses=False) if chosen.scheme else model
        try:
            return with_kernel(rounded, kernel), chosen.runtime
        except EdgelibError:
            if chosen.runtime != ONNX:
                raise
            return by_layer(model, kernel, linears(model.module)), BY_LAYER
    except EdgelibError as error:
        return str(error), ""


def _head(asked: Asked, case: Case, kernel: str, runtime: str) -> dict:
    chosen = KERNELS[kernel]
    return dict(
        model=asked.model.name,
        runtime=runtime,
        config=kernel,
        weight=chosen.weight,
        activation=chosen.activation,
        batch=case.batch,
        image="none" if case.part == "text" else case.size,
    )


def _left_out(case: Case, kernel: str, reason: str) -> dict:
    return {"left_out": f"{case.what.rpartition(', batch')[0]}, batch {case.batch}, {kernel}: {reason}"}


def _bytes(asked: Asked, case: Case, kernel: str, work: Counted) -> float:
    """Bytes that a step moves: weights once, all else for every item of the batch."""
    chosen, model = KERNELS[kernel], asked.model
    other = 16 if chosen.activation in ("bf16", "fp16") else 32
    layers = model.towers()[case.part] if isinstance(model, GenerativeModel) else linears(model.module)
    once = Counted(work.operations, work.weights, 0).bytes(frozenset(layers), kernel_bits(chosen), other)
    return once + case.batch * work.passed * other / 8


def _tower_case(asked: Asked, case: Case, build: Callable, work: Counted) -> list[dict]:
    rows, steps, made = [], {}, {}
    for kernel in case.kernels:
        model, runtime = build(case.part, kernel) if case.longest[kernel] <= LONGEST else (_predicted(case, kernel), "")
        if isinstance(model, str):
            rows.append(_left_out(case, kernel, model))
            continue
        made[kernel] = (model, runtime)
        steps[kernel] = tower_step(asked, model, case.part, case.size, case.batch)
    times = in_turn(steps, asked.suite.repeats)
    for kernel, (model, runtime) in made.items():
        row = _head(asked, case, kernel, runtime) | {"table": "encoders", "part": case.part}
        row |= percentiles(times[kernel])
        row |= {"operations": work.operations * case.batch, "bytes": _bytes(asked, case, kernel, work)}
        row |= memory_split(model.module, steps[kernel]) | {"weights": tensor_bytes(modules_of(model, case.part))}
        row |= doubt(
            f"{case.what.rpartition(', batch')[0]}, batch {case.batch}, {kernel}", times[kernel], asked.suite.repeats
        )
        if case.part == "vision":
            row["prepare_p50"] = _prepare_ms(asked, case)
        rows.append(row)
    return rows


def _predicted(case: Case, kernel: str) -> str:
    return f"a run is predicted to take {case.longest[kernel]:.0f} s"


def _prepare_ms(asked: Asked, case: Case) -> float:
    """Median time of making the inputs of a batch from its images, in ms."""
    images, model = asked.images.batch(case.size, case.batch), asked.model
    if isinstance(model, GenerativeModel):
        return float(np.median(times_ms(Answering(model, images).prepare, warmup=1, repeats=3)))
    return float(np.median(times_ms(lambda: model.pixels(torch.stack(images)), warmup=1, repeats=3)))


def _decoder_case(asked: Asked, case: Case, build: Callable, work: Counted) -> list[dict]:
    (kernel,) = case.kernels
    model, runtime = build("decoder", kernel) if case.longest[kernel] <= LONGEST else (_predicted(case, kernel), "")
    if isinstance(model, str):
        return [_left_out(case, kernel, model)]
    answering, suite = Answering(model, asked.images.batch(case.size, case.batch)), asked.suite
    answering.run(2)
    marks = runs_of(lambda: np.delete(answering.run(suite.new_tokens), 1), suite.runs)
    first = [float(run[1]) for run in marks]
    row = _head(asked, case, kernel, runtime) | {"table": "generation", "prompt": answering.tokens}
    row |= {"new_tokens": suite.new_tokens, "image_tokens": answering.image_tokens}
    row |= token_statistics(marks, case.batch)
    row |= {"operations": work.operations * case.batch, "bytes": _bytes(asked, case, kernel, work)}
    row |= memory_split(model.module, lambda: answering.run(2), answering.cache_bytes)
    row |= doubt(f"{case.what.rpartition(', batch')[0]}, batch {case.batch}, {kernel}, first token", first, suite.runs)
    row["bytes"] += row["kv"]
    row["prepare_p50"] = _prepare_ms(asked, case)
    if answering.apart:
        row["encode_p50"] = float(np.median(times_ms(answering.encode, warmup=0, repeats=3)))
    return [row]
