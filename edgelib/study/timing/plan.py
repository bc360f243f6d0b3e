"""Which cases timing a model has, and what each is predicted to take, from one step of each part and image size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch

from edgelib.devices.profiling import times_ms
from edgelib.models.generative import GenerativeModel
from edgelib.study.timing.answering import Answering
from edgelib.study.timing.asked import Asked, Case
from edgelib.study.timing.session import Session
from edgelib.study.timing.work import Counted, counted

LONGEST = 60.0  # seconds that one step or one answer may take, as predicted, before its case is left out
_TEXTS = ("a photo of a cat.", "a photo of a large red circle.")


def plan(asked: Asked, session: Session, probe: Mapping[str, dict]) -> list[Case]:
    """Every case, with what it is predicted to take from one step by torch in 32 bits at batch 1."""
    cases = []
    for size in asked.images.sizes:
        for part in asked.parts if size == next(iter(asked.images.sizes)) or asked.writes else ():
            sets = [(kernel,) for kernel in asked.kernels] if part == "decoder" else [asked.kernels]
            cases += [_case(asked, session, probe, part, s, size, b) for s in sets for b in asked.batches]
    # a kernel is built once and meets all its cases
    return sorted(cases, key=lambda case: (case.part == "decoder", case.kernels if case.part == "decoder" else ()))


def probe_of(asked: Asked, session: Session) -> dict[str, dict]:
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
        step = tower_step(asked, asked.model, part, size, 1)
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


def tower_step(asked: Asked, model, part: str, size: str, batch: int) -> Callable[[], object]:
    """One pass of a tower over a batch of inputs that are made ready before."""
    if isinstance(model, GenerativeModel):
        return Answering(model, asked.images.batch(size, batch)).encode
    if part == "text":
        texts = model.text_inputs([_TEXTS[i % 2] for i in range(batch)])
        return torch.inference_mode()(lambda: model.text_features(texts))
    pixels = model.pixels(torch.stack(asked.images.batch(size, batch)))
    return torch.inference_mode()(lambda: model.image_features(pixels))
