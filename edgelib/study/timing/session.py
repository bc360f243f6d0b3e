"""One measurement of a machine: its cases in turn, kept as they are done, and what others took meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from edgelib.devices.ceilings import ceilings
from edgelib.devices.machine import Watch
from edgelib.devices.profiling import Repeats, median_interval, times_ms
from edgelib.source import code_version
from edgelib.study.store import CellStore

Report = Callable[[str], None]


class Session:
    """What is known of a measurement so far, and where its finished cases are kept.

    spec: plain values that every case depends on, with the "code" that computes it. megabytes, gemm: of the ceilings.
    report: called with the name of each case that is begun now, and not with those that were kept.
    """

    def __init__(
        self, module: str, spec: Mapping, store: CellStore | None, report: Report, *, megabytes: int, gemm: int
    ):
        self.spec = {"code": code_version(module), **spec}
        self.store, self.report, self.sizes = store, report, (megabytes, gemm)
        self.seconds: list[tuple[float, float]] = []  # of processors, per case: what others took, and what there was
        self.limits = self.ceilings("before")

    def ceilings(self, when: str) -> dict:
        """What memory and arithmetic reach, read once before the cases and once after."""
        buffer, matrix = self.sizes
        what = f"ceilings {when} of {buffer} megabytes and {matrix} rows"
        (found,) = self.case(what, lambda: [ceilings(megabytes=buffer, size=matrix)])
        return found

    def case(self, what: str, make: Callable[[], list[dict]]) -> list[dict]:
        """The rows of a case, from the store or made now."""
        spec = {"measured": what, **self.spec}
        kept = None if self.store is None else self.store.read(spec)
        if kept is None:
            self.report(what)
            watch = Watch()
            rows = make()
            kept = pd.DataFrame({"row": [json.dumps(row, default=np.generic.item) for row in rows]})
            kept["others"], kept["seconds"] = watch.seconds()
            if self.store is not None:
                self.store.write(spec, kept)
        self.seconds += kept[["others", "seconds"]].iloc[:1].itertuples(index=False, name=None)
        return [json.loads(row) for row in kept["row"]]

    def facts(self, rows: Sequence[Mapping], reached: Sequence[Mapping[str, float]]) -> dict:
        """What machine.yaml says at the end: the share that others took, the best ceilings that were seen, cases that
        were left out, and those whose median stayed uncertain; reached: rates that models reached."""
        # Other work only takes away, so the best of all readings is nearest to what the machine can do.
        readings = [self.limits, self.ceilings("after"), *reached]
        best = {key: float(f"{max(reading.get(key, 0) for reading in readings):.4g}") for key in self.limits}
        others, whole = map(sum, zip(*self.seconds, strict=True))
        said = {key: list(dict.fromkeys(row[key] for row in rows if key in row)) for key in ("left_out", "unsettled")}
        return {"others": round(others / whole, 4), "ceilings": best, **said}


def in_turn(steps: Mapping[Any, Callable[[], object]], repeats: Repeats) -> dict[Any, np.ndarray]:
    """Times of steps in ms: each warmed up and run three times in its turn, until its times are enough."""
    times: dict[Any, np.ndarray] = {key: np.empty(0) for key in steps}
    while going := [key for key in steps if not repeats.enough(times[key])]:
        for key in going:
            count = min(3, max(1, repeats.least - len(times[key])))
            times[key] = np.append(times[key], times_ms(steps[key], warmup=1, repeats=count))
    return times


def runs_of(run: Callable[[], np.ndarray], repeats: Repeats) -> list[np.ndarray]:
    """Marks of generations in ms, repeated until the times to the first token are enough."""
    runs: list[np.ndarray] = []
    while not repeats.enough([marks[1] for marks in runs], sum(float(marks[-1]) for marks in runs) / 1e3):
        runs.append(run())
    return runs


def doubt(case: str, times, repeats: Repeats) -> dict[str, str]:
    """{"unsettled": a sentence} for a case that was stopped before its median was known to the share that was asked."""
    if repeats.settled(times):
        return {}
    interval, middle = median_interval(times), float(np.median(times))
    if interval is None:
        return {"unsettled": f"{case}: {len(times)} times are too few to say how well their median is known"}
    share = max(interval[1] / middle - 1, 1 - interval[0] / middle)
    return {"unsettled": f"{case}: after {len(times)} times their median is known to {share:.0%}"}


class Progress:
    """Says each case as it begins, with the time that is left by what was predicted and by how true that was so far.

    predicted: {case: seconds} of all cases in order; what is not among them counts as nothing.
    """

    def __init__(self, predicted: Mapping[str, float], say: Callable[[str], None], clock=time.monotonic):
        self.predicted, self.say, self.clock = dict(predicted), say, clock
        self.last: tuple[str, float] | None = None
        self.hoped = self.took = 0.0

    def __call__(self, what: str) -> None:
        """Begin a case."""
        now = self.clock()
        if self.last is not None and self.predicted.get(self.last[0]):
            self.hoped += self.predicted[self.last[0]]
            self.took += now - self.last[1]
        self.last = (what, now)
        names = list(self.predicted)
        if what not in self.predicted:
            self.say(what)
            return
        at = names.index(what)
        left = sum(list(self.predicted.values())[at:]) * (self.took / self.hoped if self.hoped else 1.0)
        self.say(f"[{at + 1}/{len(names)}] {what}; about {clock_text(left)} left")


def clock_text(seconds: float) -> str:
    """Seconds as minutes and seconds, "1:05"; hours where there are any."""
    whole = max(0, round(seconds))
    minutes, rest = divmod(whole, 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
