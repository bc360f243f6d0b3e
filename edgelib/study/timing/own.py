"""Time a loaded model on this machine: both towers of a zero-shot model; of one that writes, encoder, first and later
tokens by image size and batch. Static and peak memory by its use, on every kernel that is asked for.

Kernels multiply the Linears: all of the towers of a zero-shot model and of a vision tower that is timed apart. Where a
model writes, those of its decoder but the head, as its schemes round them; its vision tower stays in 32 bits then,
or in 16 with the whole model. Networks that ONNX Runtime cannot take whole are multiplied layer by layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property, partial

import numpy as np
import pandas as pd
import torch
from torch import nn

from edgelib.devices.machine import describe, memory_bytes
from edgelib.devices.measurements import COLUMNS, OWN, Measurements, ModelFacts
from edgelib.devices.profiling import memory_split, percentiles, tensor_bytes, times_ms, token_statistics
from edgelib.errors import EdgelibError
from edgelib.ground.separate import linears
from edgelib.kernels.layers import by_layer
from edgelib.kernels.runners import kernel_bits
from edgelib.kernels.table import KERNELS, ONNX, TORCH, with_kernel
from edgelib.models.generative import GenerativeModel
from edgelib.models.zero_shot import ClipModel, ZeroShotModel
from edgelib.quant.quantize import quantize
from edgelib.study.machine import FULL, QUICK, Suite, reached
from edgelib.study.store import CellStore
from edgelib.study.timing.answering import Answering
from edgelib.study.timing.identity import configuration, identity
from edgelib.study.timing.session import Report, Session, doubt, in_turn, runs_of
from edgelib.study.timing.shown import Shown, shown
from edgelib.study.timing.work import Counted, counted

LONGEST = 60.0  # seconds that one step or one answer may take, as predicted, before its case is left out
BY_LAYER = "ONNX Runtime in torch"  # the runtime of layers that are multiplied one by one
_COPIES = 3  # of a model's weights in 32 bits while it is made ready for a kernel: its own, rounded, the session's
_TEXTS = ("a photo of a cat.", "a photo of a large red circle.")
SUITES = {"quick": QUICK, "full": FULL}


@dataclass(frozen=True)
class Asked:
    """What is timed. kernels: names in `KERNELS`, the one to compare with first; batches: of images or answers; suite:
    how often, and how many tokens are written."""

    model: ZeroShotModel | GenerativeModel
    kernels: tuple[str, ...]
    batches: tuple[int, ...]
    images: Shown
    suite: Suite

    @property
    def writes(self) -> bool:
        """Whether the model writes."""
        return isinstance(self.model, GenerativeModel)

    @cached_property
    def parts(self) -> dict[str, nn.ModuleList]:
        """The modules of each part that is timed apart, by its name: vision, text, decoder."""
        return {part: _modules(self.model, part) for part in self._names}

    @property
    def _names(self) -> tuple[str, ...]:
        if isinstance(self.model, GenerativeModel):
            return ("vision", "decoder")
        return ("vision", "text") if isinstance(self.model, ClipModel) else ("vision",)


@dataclass(frozen=True)
class Case:
    """One entry of the store: kernels that take turns on one part, image size and batch; seconds: predicted."""

    what: str
    part: str
    kernels: tuple[str, ...]
    size: str
    batch: int
    seconds: float
    longest: Mapping[str, float]


def check(asked: Asked) -> None:
    """Raise EdgelibError for image sizes whose prompts are too long for the model, before anything is timed."""
    model = asked.model
    if not isinstance(model, GenerativeModel):
        return
    for size in asked.images.sizes:
        tokens = Answering(model, asked.images.batch(size, 1)).tokens + asked.suite.new_tokens
        if tokens > model.context:
            raise EdgelibError(
                f"an image of {size} and {asked.suite.new_tokens} new tokens make {tokens} tokens, and "
                f"{model.name} reads {model.context}; choose smaller images by --images"
            )


def usual_images(model: ZeroShotModel | GenerativeModel, suite: Suite, most: int) -> Shown:
    """Return drawn images of the sizes that a model is shown if nothing else is asked: what its towers take, or those
    among 448, 224, 112 and so on that its context holds, one of them in the quick suite and two in the full one."""
    if not isinstance(model, GenerativeModel):
        height, width = model.preprocess.size
        return shown(f"{height}x{width}", most)
    sides = [side for side in (448, 224, 112, 56, 28) if _fits(model, suite, side)]
    if not sides:
        raise EdgelibError(f"no image of 28 pixels and more fits into the {model.context} tokens of {model.name}")
    return shown(",".join(map(str, sides[: 1 if suite is QUICK else 2])), most)


def _fits(model: GenerativeModel, suite: Suite, side: int) -> bool:
    images = shown(str(side), 1).batch(f"{side}x{side}", 1)
    return Answering(model, images).tokens + suite.new_tokens <= model.context


def predicted(asked: Asked) -> list[Case]:
    """Return every case with its predicted time, without measuring them: from one step of each image size."""
    session = Session(__name__, {}, None, lambda line: None, megabytes=16, gemm=256)
    return plan(asked, session, _probe(asked, session))


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
    probe = _probe(asked, session)
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


def plan(asked: Asked, session: Session, probe: Mapping[str, dict]) -> list[Case]:
    """Every case, with what it is predicted to take from one step by torch in 32 bits at batch 1."""
    cases = []
    for size in asked.images.sizes:
        for part in asked.parts if size == next(iter(asked.images.sizes)) or asked.writes else ():
            sets = [(kernel,) for kernel in asked.kernels] if part == "decoder" else [asked.kernels]
            cases += [_case(asked, session, probe, part, s, size, b) for s in sets for b in asked.batches]
    # a kernel is built once and meets all its cases
    return sorted(cases, key=lambda case: (case.part == "decoder", case.kernels if case.part == "decoder" else ()))


def _probe(asked: Asked, session: Session) -> dict[str, dict]:
    """Of each part and size: seconds of a step by torch in 32 bits, of a later token, and what they compute."""

    def measured() -> list[dict]:
        found: dict[str, dict] = {}
        for size in asked.images.sizes:
            if isinstance(asked.model, GenerativeModel):
                found |= _probe_writer(asked.model, asked, size)
            else:
                found |= _probe_towers(asked, size)
        return [found]

    (found,) = session.case(f"one step of {asked.model.name} by torch-fp32 for each size", measured)
    return found


def _probe_towers(asked: Asked, size: str) -> dict[str, dict]:
    found = {}
    for part in asked.parts:
        step = _tower_step(asked, asked.model, part, size, 1)
        work = counted(asked.model.module, step)
        seconds = float(times_ms(step, warmup=0, repeats=1)[0]) / 1e3
        found[f"{part} {size}"] = {"seconds": seconds, "work": asdict(work)}
    return found


def _probe_writer(model: GenerativeModel, asked: Asked, size: str) -> dict[str, dict]:
    answering = Answering(model, asked.images.batch(size, 1))
    both = counted(model.module, lambda: answering.run(2))
    one = counted(model.module, lambda: answering.run(1))
    layers = {*model.towers()["decoder"], *model.towers()["head"]}
    read = {name: n for name, n in both.weights.items() if name in layers}
    token = Counted(max(1.0, both.operations - one.operations), read, max(0, both.passed - one.passed))
    start, encoded, first, second = answering.run(2)
    found = {
        f"decoder {size}": {
            "seconds": (first - start) / 1e3,
            "token": (second - first) / 1e3,
            "work": asdict(token),
            "tokens": answering.tokens,
        }
    }
    if answering.apart:
        encode = counted(model.module, answering.encode)
        found[f"vision {size}"] = {"seconds": (encoded - start) / 1e3, "work": asdict(encode)}
    return found


def _case(
    asked: Asked,
    session: Session,
    probe: Mapping[str, dict],
    part: str,
    kernels: tuple[str, ...],
    size: str,
    batch: int,
) -> Case:
    one = probe.get(f"{part} {size}", {"seconds": 0.0})
    writes = part == "decoder"
    repeats = asked.suite.runs if writes else asked.suite.repeats
    total, longest = 0.0, {}
    for kernel in kernels:
        factor = _slower(kernel, session.limits)
        step = one["seconds"] * batch * factor
        if writes:
            step += one["token"] * (asked.suite.new_tokens - 1) * max(1.0, batch / 4) * factor
        longest[kernel] = step
        count = min(repeats.most, max(repeats.least, repeats.seconds / max(step, 1e-6)))
        total += 0.0 if step > LONGEST else step * (count * (1 if writes else 4 / 3) + 4)
    told = f"images of {size}" if part != "text" else "texts"
    where = f"{part} of {asked.model.name}, {told}, batch {batch}"
    return Case(f"{where}, {', '.join(kernels)}", part, kernels, size, batch, total, longest)


def _slower(kernel: str, limits: Mapping[str, float]) -> float:
    """How much longer a kernel of torch takes than torch in 32 bits, by the ceilings; 1 for all others."""
    if kernel != "torch-bf16" or not limits.get("bf16_tops"):
        return 1.0
    return max(1.0, limits["fp32_tops"] / limits["bf16_tops"])


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
        steps[kernel] = _tower_step(asked, model, case.part, case.size, case.batch)
    times = in_turn(steps, asked.suite.repeats)
    for kernel, (model, runtime) in made.items():
        row = _head(asked, case, kernel, runtime) | {"table": "encoders", "part": case.part}
        row |= percentiles(times[kernel])
        row |= {"operations": work.operations * case.batch, "bytes": _bytes(asked, case, kernel, work)}
        row |= memory_split(model.module, steps[kernel]) | {"weights": tensor_bytes(_modules(model, case.part))}
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


def _tower_step(asked: Asked, model, part: str, size: str, batch: int) -> Callable[[], object]:
    """One pass of a tower over a batch of inputs that are made ready before."""
    if isinstance(model, GenerativeModel):
        return Answering(model, asked.images.batch(size, batch)).encode
    if part == "text":
        texts = model.text_inputs([_TEXTS[i % 2] for i in range(batch)])
        return torch.inference_mode()(lambda: model.text_features(texts))
    pixels = model.pixels(torch.stack(asked.images.batch(size, batch)))
    return torch.inference_mode()(lambda: model.image_features(pixels))


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


def _modules(model: ZeroShotModel | GenerativeModel, part: str) -> nn.ModuleList:
    """The modules of a part, for the bytes of its weights."""
    module = model.module
    if isinstance(model, GenerativeModel):
        head = module.get_output_embeddings()
        texts = [*model.family.text_parts(module), *([] if head is None else [head])]
        return nn.ModuleList(texts if part == "decoder" else _outside(module, texts))
    begins = {"vision": ("vision", "visual", "images"), "text": ("text",)}[part]
    own = [child for name, child in module.named_children() if name.startswith(begins)]
    return nn.ModuleList(own or [module])


def _outside(module: nn.Module, excluded: Sequence[nn.Module]) -> Iterator[nn.Module]:
    """The largest modules that hold none of the excluded ones."""
    inside = set(module.modules())
    if module in excluded:
        return
    if not any(part in inside for part in excluded):
        yield module
        return
    for child in module.children():
        yield from _outside(child, excluded)
