"""The table of a decision: all that choosing needs, computed once, checked on reading, the same for page and command.

A record holds, for every device, what each configuration needs of memory and time there and whether a runtime runs
it; and for every pair of configurations, how much worse one can be. `edgelib.decide.decision` compares; it computes
nothing of its own, so a page that reads the same file gives the same answer.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from edgelib.errors import EdgelibError
from edgelib.ground.paths import require_ordinary, whole_file
from edgelib.ground.records import Record, checked, one_line

VERSION = 1
CLEAN, CORRUPTED = "clean", "corrupted"


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"must be a finite number, got {value}")
    return value


Finite = Annotated[float, AfterValidator(_finite)]
Share = Annotated[Finite, Field(ge=0, le=1)]
Bytes = Annotated[Finite, Field(ge=0)]
Milliseconds = Annotated[Finite, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


class Accuracy(Record):
    """Accuracy under one criterion with its interval, fractions."""

    value: Share
    low: Share
    high: Share


class Caveat(Record):
    """What another chapter found of a configuration.

    kind: "twin" (a model with planted outliers) or "mix" (calibration images of another kind); where: which one. drop:
    accuracy lost, a fraction; value and instead_of: the score there and without the trouble, where both are known.
    """

    kind: Literal["twin", "mix"]
    where: Text
    drop: Share
    value: Share | None = None
    instead_of: Share | None = None
    chapter: Text


class Configuration(Record):
    """A configuration: how it is called, how it is made, what it scores (by criterion), what to beware of."""

    key: Text
    label: Text
    command: Text
    accuracy: dict[str, Accuracy]
    caveats: list[Caveat] = []


class Option(Record):
    """A configuration on a device. Without a runtime it does not run there, and reason says why.

    memory: {part: bytes} of all that is in memory at once, the system's share included where it is known.
    latency_ms with low and high: of one image; source says whether it was measured or projected. spread: standard
    deviation of the logarithm of what this time does not share with the others of the device.
    """

    config: Text
    memory: dict[str, Bytes]
    runtime: str = ""
    command: str = ""
    reason: str = ""
    source: Literal["projected", "measured", ""] = ""
    latency_ms: Milliseconds | None = None
    low: Milliseconds | None = None
    high: Milliseconds | None = None
    spread: Annotated[Finite, Field(ge=0)] = 0.0

    @property
    def total(self) -> float:
        """Bytes of all parts together."""
        return math.fsum(self.memory.values())

    @model_validator(mode="after")
    def _runs_or_says_why(self) -> Option:
        if bool(self.reason) == bool(self.runtime):
            raise ValueError(f"{self.config} needs either a runtime or the reason why it has none")
        times = (self.low, self.latency_ms, self.high)
        if self.runtime and None in times:
            raise ValueError(f"{self.config} runs, so it needs latency_ms with low and high")
        if None not in times and not self.low <= self.latency_ms <= self.high:  # type: ignore[operator]
            raise ValueError(f"{self.config} has a latency outside its own interval")
        return self


class Need(Record):
    """What a configuration of a model that writes needs on a device: {part: bytes}, and what runs it or why nothing."""

    config: Text
    memory: dict[str, Bytes]
    runtime: str = ""
    command: str = ""
    reason: str = ""

    @property
    def total(self) -> float:
        """Bytes of all parts together."""
        return math.fsum(self.memory.values())


class Writer(Record):
    """A model that writes: what it needs with so many tokens of context, by device."""

    model: Text
    context: Annotated[int, Field(ge=1)]
    devices: dict[str, list[Need]]


class DeviceOptions(Record):
    """A device and what each configuration needs there. power_w: of its highest mode, None where it is not known."""

    key: Text
    name: Text
    memory_bytes: Bytes | None = None
    power_w: Annotated[Finite, Field(gt=0)] | None = None
    options: Annotated[list[Option], Field(min_length=1)]


class DecisionRecord(Record):
    """All that a decision needs.

    criteria: "clean", "corrupted" (the mean over corruptions) and each corruption. bounds: {criterion: {config: {other:
    the one-sided lower bound of config minus other}}}. draws: {criterion: {config: [mean of each resampling, in
    hundredths of a point]}}. alpha: of the bounds. model: whose accuracies these are; costs: whose bytes and times;
    synthetic: whether the images are drawn, not photographed. writer: what a model that writes needs beside it.
    unverified: {runtime: what no source was seen for}.
    """

    version: Literal[1] = 1
    model: Text
    costs: Text
    n_images: Annotated[int, Field(ge=1)]
    n_draws: Annotated[int, Field(ge=1)]
    alpha: Annotated[Finite, Field(gt=0, lt=0.5)]
    level: Annotated[Finite, Field(gt=0, lt=1)]
    latency_level: Annotated[Finite, Field(gt=0, lt=1)]
    simulated: bool = True
    synthetic: bool = False
    not_available: list[str] = []
    unverified: dict[str, Text] = {}
    criteria: Annotated[list[Text], Field(min_length=2)]
    configs: Annotated[list[Configuration], Field(min_length=2)]
    bounds: dict[str, dict[str, dict[str, Finite]]]
    effects: dict[str, dict[str, dict[str, Finite]]]
    draws: dict[str, dict[str, list[int]]]
    devices: Annotated[list[DeviceOptions], Field(min_length=1)]
    writer: Writer | None = None

    @model_validator(mode="after")
    def _complete(self) -> DecisionRecord:
        keys = [config.key for config in self.configs]
        if len(set(keys)) != len(keys):
            raise ValueError("a configuration stands twice")
        if {CLEAN, CORRUPTED} - set(self.criteria):
            raise ValueError(f"criteria must hold {CLEAN!r} and {CORRUPTED!r}")
        for criterion in self.criteria:
            for config in self.configs:
                if criterion not in config.accuracy:
                    raise ValueError(f"{config.key} has no accuracy of {criterion!r}")
                if len(self.draws.get(criterion, {}).get(config.key, ())) != self.n_draws:
                    raise ValueError(f"{config.key} needs {self.n_draws} draws of {criterion!r}")
                others = set(keys) - {config.key}
                for name, table in (("bounds", self.bounds), ("effects", self.effects)):
                    if set(table.get(criterion, {}).get(config.key, {})) != others:
                        raise ValueError(f"{name} of {criterion!r} must name every other configuration of {config.key}")
        for device in self.devices:
            if [option.config for option in device.options] != keys:
                raise ValueError(f"{device.key} must have an option for each configuration, in order")
        return self


def read_record(path: str | Path) -> DecisionRecord:
    """Return the record of a decision in a JSON file.

    Raises EdgelibError for a file that cannot be read, is no JSON, or does not hold a record, naming field and value.
    """
    require_ordinary(path)
    try:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EdgelibError(f"cannot read the decision record {path} ({one_line(error)}); publish pareto anew") from None
    return checked(DecisionRecord, facts, f"the decision record {path}")


def write_record(record: DecisionRecord, path: str | Path) -> Path:
    """Write a record as one JSON file, whole at any moment; the same bytes for the same record."""
    path = Path(path)
    text = json.dumps(record.model_dump(), separators=(",", ":"), allow_nan=False)
    with whole_file(path) as place:
        place.write_text(text + "\n", encoding="utf-8", newline="\n")
    return path
