"""Which runtime has a kernel for a configuration on a device: what "it runs" means.

An arithmetic unit alone runs nothing. runtimes.yaml names, with sources, what each runtime computes on each family of
hardware; the first that has a kernel is the one whose memory counts and whose command is shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import yaml
from pydantic import Field

from edgelib.devices.device import GGUF_TYPES, Device
from edgelib.errors import EdgelibError, choose
from edgelib.ground.records import Record, checked

Step = Literal["encode", "generate"]
NO_KERNEL = "no runtime is known to have a kernel"  # how the reason begins where nothing runs a configuration
STEPS: tuple[Step, ...] = ("encode", "generate")
_PRECISIONS = {
    "fp32": "--noTF32",
    "fp16": "--fp16",
    "bf16": "--bf16",
    "int8": "--int8 --fp16",
    "int4": "--fp16",
    "fp8_e4m3": "--fp8 --fp16",
    "nvfp4": "--fp16",
}


class RuntimeFacts(Record):
    """One runtime of runtimes.yaml as it is written there."""

    name: Annotated[str, Field(min_length=1)]
    steps: Annotated[list[Step], Field(min_length=1)]
    memory_mib: Annotated[float, Field(gt=0, le=65536)]
    kernels: Annotated[dict[str, list[str]], Field(min_length=1)]
    command: Annotated[str, Field(min_length=1)]
    sources: Annotated[list[str], Field(min_length=1)]
    unverified: list[str] = []


@dataclass(frozen=True)
class Runtime:
    """A runtime that has a kernel: its key and name, MiB that it holds beside the model, its command and sources."""

    key: str
    name: str
    memory_mib: float
    command: str
    sources: tuple[str, ...]


@cache
def runtimes() -> Mapping[str, RuntimeFacts]:
    """Return the runtimes by key, the preferred first. Raises EdgelibError for a file that is not as described."""
    text = files("edgelib.devices.deploy").joinpath("runtimes.yaml").read_text(encoding="utf-8")
    return {key: checked(RuntimeFacts, row, f"runtime {key!r}") for key, row in yaml.safe_load(text).items()}


_FACTS = {"memory_mib": "the memory that it holds", "command": "its command", "kernels": "its kernels"}


def doubts() -> dict[str, str]:
    """Return {name of a runtime: what no source was seen for, in words}, of those that have such a fact."""
    found = {facts.name: [_FACTS.get(fact, fact) for fact in facts.unverified] for facts in runtimes().values()}
    return {name: f"no source was seen for {' and '.join(what)}" for name, what in found.items() if what}


def kernel_of(weight: str, activation: str) -> str:
    """Return the name of a kernel: "int4/fp16". Block types of GGUF share one, and min-max and GPTQ codes do too."""
    if weight in GGUF_TYPES:
        return "gguf/fp16"
    narrow = weight not in ("fp32", "fp16", "bf16")
    # activations that a scheme leaves alone are computed in the 16 bits of the runtime
    return f"{weight}/{'fp16' if narrow and activation in ('fp32', 'bf16') else activation}"


def runtime_for(
    device: Device, weight: str, activation: str, step: Step, *, context: int = 0, families: Iterable[str] = ()
) -> Runtime:
    """Return the first runtime that has a kernel for numbers of these formats on the device.

    weight, activation: names of formats, such as "int4" and "fp16". step: "encode" or "generate". context: tokens, for
    the command. families: further families whose kernels the device runs.
    Raises EdgelibError where no runtime has one, naming the kernel and what the device does run.
    """
    choose(dict.fromkeys(STEPS), step, "step")
    kernel, own = kernel_of(weight, activation), (device.family, *families)
    able: dict[str, None] = {}
    for key, facts in runtimes().items():
        if step not in facts.steps:
            continue
        here = [name for family in own for name in facts.kernels.get(family, [])]
        able |= dict.fromkeys(here)
        if kernel in here:
            filled = facts.command.format(
                precision=_PRECISIONS.get(weight, ""),
                bits=8 if weight == "int8" else 4,
                weight=weight.upper(),
                context=context or 4096,
            )
            return Runtime(key, facts.name, facts.memory_mib, filled.strip(), tuple(facts.sources))
    known = ", ".join(able) if able else "nothing"
    raise EdgelibError(f"{NO_KERNEL} for {kernel} on {device.name}; with kernels there: {known}")
