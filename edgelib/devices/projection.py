"""Projected latency: roofline times, corrected by what published measurements reach of them, with an interval.

    t = max(memory / u, operations / v, layers * c)

memory, operations: least times by the roofline. u, v: the shares of peak bandwidth and rate that real kernels reach; v
is another one where narrow weights are decoded before a large matrix product. c: time to launch a layer's kernels,
which overlaps with them, so that it only shows when they are short; eager runtimes pay more than compiled ones.
The five numbers are fitted to logarithms of published times, robustly, each device weighing the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd
import yaml
from scipy import optimize, stats

from edgelib.devices.device import WIDE, Device
from edgelib.devices.roofline import roofline
from edgelib.devices.shapes import decoder, encoder
from edgelib.devices.workload import Work, decode_work, encode_work, prefill_work
from edgelib.errors import EdgelibError, choose
from edgelib.stats.paired import check_level

RUNTIMES = ("eager", "compiled")
_NOISE = 0.15  # of the logarithm of one published time; residuals of more than this count linearly
_CONTEXT = 64  # tokens where a source names none: short prompts


@dataclass(frozen=True)
class Efficiency:
    """Shares of the peaks that are reached, in (0, 1], and milliseconds per layer that launching takes."""

    bandwidth: float
    compute: float
    decoded: float
    eager_ms: float
    compiled_ms: float


# Where nothing is known: half of the peaks within a factor of about two, launches within a factor of ten.
PRIOR = Efficiency(0.7, 0.4, 0.3, 0.15, 0.03)
_SPREAD = Efficiency(0.5, 0.8, 0.8, 1.2, 1.2)
# Once a population is known, a device of one's own differs from it by less, but for its host.
_DEVICE_SPREAD = Efficiency(0.2, 0.5, 0.5, 1.5, 1.5)


@dataclass(frozen=True)
class Projection:
    """A projected time in ms with its interval, and what binds: "memory", "compute" or "launch"."""

    ms: float
    interval: tuple[float, float]
    level: float
    binds: str


@cache
def _published() -> dict:
    return yaml.safe_load(files("edgelib.devices").joinpath("published_points.yaml").read_text(encoding="utf-8"))


def published_points(table: Mapping[str, Device]) -> pd.DataFrame:
    """Return the published points as a table with their roofline times on the devices of `table`.

    device, silicon, model, step, weight, activation, bits, tokens, runtime, ms, source, assumed; then memory_ms,
    compute_ms (0 where no rate is published), layers, kind.
    """
    known = _published()
    rows = []
    for point in known["points"]:
        weight, activation, bits = point["numbers"]
        step, tokens = point["step"], point.get("tokens", _CONTEXT)
        if step == "encode":
            work = encode_work(encoder(point["model"]), bits, other_bits=16)
        else:
            count = {"context": tokens} if step == "decode" else {"prompt": tokens}
            make = decode_work if step == "decode" else prefill_work
            work = make(decoder(point["model"]), bits, head_bits=point.get("head_bits", 16), **count)
        device = choose(table, point["device"], "device")
        rows.append(
            dict(
                device=device.key,
                silicon=device.silicon or device.key,
                model=point["model"],
                step=step,
                weight=weight,
                activation=activation,
                bits=float(bits),
                tokens=tokens,
                runtime=point["runtime"],
                ms=float(point["ms"]),
                source=known["sources"][point["said"]],
                assumed=point.get("assumed", ""),
                **_terms(work, device, weight, activation, step),
            )
        )
    return pd.DataFrame(rows)


def kind_of(step: str, weight: str, activation: str) -> str:
    """Return which share of the peaks a step is limited by: "decode", "compute" or "decoded" (narrow weights first)."""
    if step == "decode":
        return "decode"
    return "decoded" if activation in WIDE and weight not in WIDE else "compute"


def _terms(work: Work, device: Device, weight: str, activation: str, step: str) -> dict:
    # Memory binds every token of a decoder, so a rate that nobody publishes is no hindrance there.
    bound = roofline(work, device, weight, activation, strict=step != "decode")
    compute = 0.0 if np.isnan(bound.compute_ms) else bound.compute_ms
    kind = kind_of(step, weight, activation)
    return dict(memory_ms=bound.memory_ms, compute_ms=compute, layers=work.layers, kind=kind)


def _arrays(points: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """(memory [n], operations [n], layers [n], which compute share [n], which launch time [n])."""
    number = [points[column].to_numpy(float) for column in ("memory_ms", "compute_ms", "layers")]
    return *number, np.where(points["kind"] == "decoded", 2, 1), np.where(points["runtime"] == "eager", 3, 4)


def _three_times(arrays: tuple[np.ndarray, ...], log_efficiency: np.ndarray) -> np.ndarray:
    """[n, 3] ms that memory, arithmetic and launching take."""
    memory, operations, layers, share, launch = arrays
    each = np.exp(log_efficiency)
    return np.column_stack([memory / each[0], operations / each[share], layers * each[launch]])


def projected_ms(points: pd.DataFrame, efficiency: Efficiency) -> np.ndarray:
    """Return the projected times [n] of points with columns memory_ms, compute_ms, layers, kind and runtime."""
    return _three_times(_arrays(points), np.log(astuple(efficiency))).max(axis=1)


def fit(points: pd.DataFrame, prior: Efficiency | None = None) -> Efficiency:
    """Return the efficiency that explains measured points (columns of `published_points`), each device weighing alike.

    prior: None for a population of devices; the population's efficiency to calibrate it to one device by a few points
    of that device, from which it then departs as far as they demand.
    Raises EdgelibError for times that are not above 0.
    """
    if not (points["ms"] > 0).all():
        raise EdgelibError(f"measured times must be above 0 ms, got {points['ms'].min():g}")
    center = np.log(astuple(PRIOR if prior is None else prior))
    spread = np.array(astuple(_SPREAD if prior is None else _DEVICE_SPREAD))
    if len(points) == 0:
        return Efficiency(*np.exp(center))
    measured, arrays = np.log(points["ms"].to_numpy(float)), _arrays(points)
    alike = np.sqrt(1 / points.groupby("silicon")["ms"].transform("size").to_numpy()) if prior is None else 1.0

    def residuals(x):
        # A root of a sum of high powers: the maximum, with a slope wherever two terms are close.
        times = np.log((_three_times(arrays, x) ** 8).sum(axis=1)) / 8
        return np.concatenate([alike * np.tanh((measured - times) / 2) * 2 / _NOISE, (x - center) / spread])

    found = optimize.least_squares(residuals, center, bounds=(-np.inf, [0, 0, 0, np.inf, np.inf]))
    return Efficiency(*np.exp(found.x).tolist())


def left_out(points: pd.DataFrame) -> pd.DataFrame:
    """Return the points with `projected` ms from a fit to all other devices, and log_error = log(measured/projected).

    A device and the same silicon in another power mode are left out together.
    """
    if points["silicon"].nunique() < 2:
        raise EdgelibError("leaving a device out needs measured points of at least 2 devices")
    parts = []
    for silicon in points["silicon"].unique():
        own = points["silicon"] == silicon
        parts.append(points[own].assign(projected=projected_ms(points[own], fit(points[~own]))))
    table = pd.concat(parts).loc[points.index]
    return table.assign(log_error=np.log(table["ms"] / table["projected"]))


def error_factor(errors: pd.DataFrame, kind: str, level: float) -> float:
    """Return the factor by which an interval extends both ways: t quantile over devices times their rms log error.

    The devices are those with errors of this kind. Two tell too little of a third, so where they are fewer than 3, all
    devices count, each with the kind that is projected worst onto it.
    """
    squares = (errors["log_error"] ** 2).groupby([errors["kind"], errors["silicon"]]).mean()
    same = squares.get(kind, squares[:0])
    squares = same if len(same) > 2 else squares.groupby("silicon").max()
    devices = len(squares)
    quantile = stats.t.isf((1 - check_level(level)) / 2, devices - 1)
    return float(np.exp(quantile * np.sqrt(squares.mean() * (1 + 1 / devices))))


@dataclass(frozen=True)
class Projector:
    """Projects steps onto devices, from measured points of several devices."""

    efficiency: Efficiency
    errors: pd.DataFrame
    level: float = 0.9

    def __call__(
        self, work: Work, device: Device, weight: str, activation: str, *, step: str, runtime: str = "compiled"
    ) -> Projection:
        """Return the projected time of a step on a device with its interval.

        step: "decode", "prefill" or "encode". Raises EdgelibError for formats that do not run on the device and facts
        that its row lacks, the rate among them unless memory binds every token of a decoder.
        """
        choose(dict.fromkeys(("decode", "prefill", "encode")), step, "step")
        choose(dict.fromkeys(RUNTIMES), runtime, "runtime")
        row = pd.DataFrame([_terms(work, device, weight, activation, step) | {"runtime": runtime}])
        times = _three_times(_arrays(row), np.log(astuple(self.efficiency)))[0]
        ms, factor = float(times.max()), error_factor(self.errors, row["kind"][0], self.level)
        return Projection(ms, (ms / factor, ms * factor), self.level, ("memory", "compute", "launch")[times.argmax()])


def projector(points: pd.DataFrame, level: float = 0.9, device_points: Iterable | pd.DataFrame = ()) -> Projector:
    """Return a Projector fitted to all points, with the errors that leaving devices out shows.

    device_points: points of the device one projects to, in the same columns, to calibrate it by.
    """
    efficiency = fit(points)
    own = pd.DataFrame(device_points)
    return Projector(fit(own, efficiency) if len(own) else efficiency, left_out(points), check_level(level))
