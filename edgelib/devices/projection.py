"""Projected latency: roofline times, corrected by what published measurements reach of them, with an interval.

    t = sqrt((memory / u)^2 + (operations / v)^2 + (layers * c)^2) * deviation

memory, operations: least times by the roofline. u, v: the shares of peak bandwidth and rate that real kernels reach; v
is another one where narrow weights are decoded before a large matrix product. c: time to launch a layer's kernels;
eager runtimes pay more than compiled ones, and a pass over a prompt or an image more than a token. The three overlap,
the less the closer they are, which a root of squares says. These numbers are fitted to logarithms of published times,
robustly, each device weighing the same.
What is left over is partly shared: by a runtime, a device, its family of hardware, the two together, and the steps of
one model. Those deviations are crossed random effects (`published.effects`), so that a runtime or a device with many
points has its own, one with few leans on the population, and one without has the spread of the others as its interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from functools import cache, cached_property
from importlib.resources import as_file, files

import numpy as np
import pandas as pd
import yaml
from scipy import optimize, stats

from edgelib.devices.device import WIDE, Device
from edgelib.devices.published.effects import Effects, fit_effects
from edgelib.devices.roofline import roofline
from edgelib.devices.shapes import Encoder, decoder, encoder
from edgelib.devices.table import devices
from edgelib.devices.workload import Work, decode_work, encode_work, prefill_work
from edgelib.errors import EdgelibError, choose
from edgelib.stats.paired import check_level

RUNTIMES = ("eager", "compiled")
STEPS = ("decode", "prefill", "encode")
_NOISE = 0.15  # of the logarithm of one published time; residuals of more than this count linearly
_CONTEXT = 64  # tokens where a source names none: short prompts
# Medians of the priors of the spreads, of logarithms of times: each part a tenth to a fifth.
_SPREADS = {"engine": 0.2, "silicon": 0.15, "family": 0.2, "pair": 0.12, "case": 0.12}
_RESIDUAL = 0.2
_FEWEST = 2  # degrees of freedom of an interval where hardly any device has points of its kind


@dataclass(frozen=True)
class Efficiency:
    """Shares of the peaks that are reached, in (0, 1], and milliseconds per layer that launching takes.

    eager_ms: a call per kernel; compiled_ms: a token by a compiled runtime; pass_ms: its prompt or image.
    """

    bandwidth: float
    compute: float
    decoded: float
    eager_ms: float
    compiled_ms: float
    pass_ms: float


# Where nothing is known: half of the peaks within a factor of about two, launches within a factor of ten.
PRIOR = Efficiency(0.7, 0.4, 0.3, 0.15, 0.03, 0.06)
_SPREAD = Efficiency(0.5, 0.8, 0.8, 1.2, 1.2, 1.2)
# Once a population is known, a device of one's own differs from it by less, but for its host.
_DEVICE_SPREAD = Efficiency(0.2, 0.5, 0.5, 1.5, 1.5, 1.5)


@dataclass(frozen=True)
class Projection:
    """A projected time in ms with its interval, and what binds: "memory", "compute" or "launch"."""

    ms: float
    interval: tuple[float, float]
    level: float
    binds: str

    @property
    def factor(self) -> float:
        """By how much the interval extends either way."""
        return self.interval[1] / self.ms


@cache
def _published() -> dict:
    return yaml.safe_load(files("edgelib.devices.published").joinpath("points.yaml").read_text(encoding="utf-8"))


@cache
def _reference() -> Mapping[str, Device]:
    with as_file(files("edgelib.devices.published").joinpath("reference.yaml")) as path:
        return devices(path)


def _encoder(point: Mapping) -> Encoder:
    if "shape" in point:  # as many patches of one pixel as it has tokens
        shape = dict(point["shape"])
        return Encoder(**{k: v for k, v in shape.items() if k != "tokens"}, patch=1, image=1, extra=shape["tokens"] - 1)
    known = encoder(point["model"])
    return replace(known, image=point.get("image", known.image))


def published_points(table: Mapping[str, Device]) -> pd.DataFrame:
    """Return the published points as a table with their roofline times on the devices of `table`.

    device, device_name, silicon, family, model, step, weight, activation, bits, tokens (context, or length of the
    prompt or image), engine (the runtime by name), runtime (eager or compiled), ms, source, assumed; then memory_ms,
    compute_ms (0 where no rate is published), layers, kind.
    Devices that only lend their points need not be in `table`.
    """
    known, table = _published(), {**_reference(), **table}
    rows = []
    for point in known["points"]:
        weight, activation, bits = point["numbers"]
        step, tokens = point["step"], point.get("tokens", _CONTEXT)
        if step == "encode":
            shape = _encoder(point)
            work, tokens = encode_work(shape, bits, other_bits=32 if activation == "fp32" else 16), shape.tokens
        else:
            count = {"context": tokens} if step == "decode" else {"prompt": tokens}
            make = decode_work if step == "decode" else prefill_work
            work = make(decoder(point["model"]), bits, head_bits=point.get("head_bits", 16), **count)
        device = choose(table, point["device"], "device")
        rows.append(
            dict(
                device=device.key,
                device_name=device.name,
                silicon=device.silicon or device.key,
                family=device.family,
                model=point["model"],
                step=step,
                weight=weight,
                activation=activation,
                bits=float(bits),
                tokens=tokens,
                engine=point["runtime"],
                runtime=known["runtimes"][point["runtime"]],
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
    launch = np.where(points["runtime"] == "eager", 3, np.where(points["kind"] == "decode", 4, 5))
    return *number, np.where(points["kind"] == "decoded", 2, 1), launch


def _three_times(arrays: tuple[np.ndarray, ...], log_efficiency: np.ndarray) -> np.ndarray:
    """[n, 3] ms that memory, arithmetic and launching take."""
    memory, operations, layers, share, launch = arrays
    each = np.exp(log_efficiency)
    return np.column_stack([memory / each[0], operations / each[share], layers * each[launch]])


def projected_ms(points: pd.DataFrame, efficiency: Efficiency) -> np.ndarray:
    """Return the population's times [n] of points with columns memory_ms, compute_ms, layers, kind and runtime."""
    return np.sqrt((_three_times(_arrays(points), np.log(astuple(efficiency))) ** 2).sum(axis=1))


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
        times = np.log((_three_times(arrays, x) ** 2).sum(axis=1)) / 2
        return np.concatenate([alike * np.tanh((measured - times) / 2) * 2 / _NOISE, (x - center) / spread])

    bounds = (-np.inf, [0, 0, 0, np.inf, np.inf, np.inf])
    found = optimize.least_squares(residuals, np.minimum(center, -1e-9), bounds=bounds)
    return Efficiency(*np.exp(found.x).tolist())


def _labels(points: pd.DataFrame) -> pd.DataFrame:
    """What points share: a column per part of a deviation. Points that name no engine or family have their own."""
    silicon = points["silicon"].astype(str)
    lone = "of " + silicon + " alone"
    found = {name: points[name] if name in points else lone for name in ("engine", "family")}
    found = {name: column.where(column.astype(str) != "", lone).astype(str) for name, column in found.items()}
    pair = silicon + " | " + found["engine"]
    model = points["model"].astype(str) if "model" in points else pd.Series("", points.index)
    lone_case = pair + " | " + points.index.astype(str)
    case = (pair + " | " + model + " | " + points["step"].astype(str)).where(model != "", lone_case)
    return pd.DataFrame(dict(engine=found["engine"], silicon=silicon, family=found["family"], pair=pair, case=case))


@dataclass(frozen=True)
class Projector:
    """Projects steps onto devices, from measured points of several devices.

    measured: the points; effects: per step, what deviations share; devices: how many of them tell of each step.
    """

    efficiency: Efficiency
    measured: pd.DataFrame
    level: float
    effects: Mapping[str, Effects]
    devices: Mapping[str, int]

    @cached_property
    def errors(self) -> pd.DataFrame:
        """The errors that leaving devices out shows, as of `left_out`."""
        return left_out(self.measured, self.level)

    def points(self, points: pd.DataFrame) -> pd.DataFrame:
        """Return points with `projected` ms, and `low` and `high` of their interval at the level."""
        group, labels = points["step"].to_numpy(), _labels(points)
        deviation, half = np.zeros(len(points)), np.zeros(len(points))
        for name in np.unique(group):
            here = group == name
            deviation[here], spread = self.effects[name].predict(labels[here])
            half[here] = _quantile(self.devices[name], self.level) * spread
        ms = projected_ms(points, self.efficiency) * np.exp(deviation)
        return points.assign(projected=ms, low=ms * np.exp(-half), high=ms * np.exp(half))

    def __call__(
        self,
        work: Work,
        device: Device,
        weight: str,
        activation: str,
        *,
        step: str,
        runtime: str = "compiled",
        engine: str = "",
        model: str = "",
    ) -> Projection:
        """Return the projected time of a step on a device with its interval.

        step: "decode", "prefill" or "encode". runtime: "eager" or "compiled". engine: the runtime by name, as the
        points and `deploy.runtimes` name it; one without points, or none, has the spread of the others. model: by name,
        where points of it were measured on the device.
        Raises EdgelibError for formats that do not run on the device and facts that its row lacks, the rate among them
        unless memory binds every token of a decoder.
        """
        row = self._row(work, device, weight, activation, step, runtime, engine, model)
        times = _three_times(_arrays(row), np.log(astuple(self.efficiency)))[0]
        found = self.points(row).iloc[0]
        interval = (float(found["low"]), float(found["high"]))
        return Projection(
            float(found["projected"]), interval, self.level, ("memory", "compute", "launch")[times.argmax()]
        )

    def after_one(self, work: Work, device: Device, weight: str, activation: str, **step) -> float:
        """Return the factor either way that is left once this step of this model was timed on the device.

        step: the keywords of a projection. The step that was timed shares runtime, device and model with the projected
        one, but maybe not the numbers: unquantized, say. What a measurement tells does not depend on what it finds.
        """
        names = dict(runtime="compiled", engine="", model="the model that was timed") | step
        row = self._row(work, device, weight, activation, **names)
        group = row["step"].iloc[0]
        known = self.effects[group].with_values(_labels(row), [0.0])
        spread = known.predict(_labels(row))[1][0]
        return float(np.exp(_quantile(self.devices[group], self.level) * spread))

    def _row(self, work, device, weight, activation, step, runtime, engine, model) -> pd.DataFrame:
        choose(dict.fromkeys(STEPS), step, "step")
        choose(dict.fromkeys(RUNTIMES), runtime, "runtime")
        names = dict(silicon=device.silicon or device.key, family=device.family, engine=engine, model=model, step=step)
        return pd.DataFrame(
            [_terms(work, device, weight, activation, step) | names | {"runtime": runtime}], index=["new"]
        )


def _quantile(devices: int, level: float) -> float:
    return float(stats.t.isf((1 - level) / 2, max(devices - 1, _FEWEST)))


def _fitted(points: pd.DataFrame, level: float, own: pd.DataFrame | None = None) -> Projector:
    """A projector; own: points of one device that move no spread."""
    efficiency = fit(points)
    known, groups = points.reset_index(drop=True), points["step"].to_numpy()
    labels, deviations = _labels(known), np.log(known["ms"] / projected_ms(known, efficiency)).to_numpy()
    effects, counts = {}, {}
    for name in STEPS:
        here = groups == name
        effects[name] = fit_effects(labels[here], deviations[here], _SPREADS, _RESIDUAL)
        counts[name] = int(known.loc[here, "silicon"].nunique())
        if own is not None and (mine := own[own["step"] == name].reset_index(drop=True)).size:
            added = np.log(mine["ms"] / projected_ms(mine, efficiency))
            effects[name] = effects[name].with_values(_labels(mine), added)
    return Projector(efficiency, points, check_level(level), effects, counts)


def left_out(points: pd.DataFrame, level: float = 0.9) -> pd.DataFrame:
    """Return the points with `projected` ms from a fit to all other devices, low, high, log_error = log(ms/projected).

    A device and the same silicon in another power mode are left out together; so the intervals have not seen it either.
    """
    if points["silicon"].nunique() < 2:
        raise EdgelibError("leaving a device out needs measured points of at least 2 devices")
    parts = []
    for silicon in points["silicon"].unique():
        own = points["silicon"] == silicon
        parts.append(_fitted(points[~own], level).points(points[own]))
    table = pd.concat(parts).loc[points.index]
    return table.assign(log_error=np.log(table["ms"] / table["projected"]))


def projector(points: pd.DataFrame, level: float = 0.9, device_points: Iterable | pd.DataFrame = ()) -> Projector:
    """Return a Projector fitted to all points.

    device_points: points of the device one projects to, in the same columns, to calibrate it by.
    """
    own = pd.DataFrame(device_points)
    if len(own) and not (own["ms"] > 0).all():
        raise EdgelibError(f"measured times must be above 0 ms, got {own['ms'].min():g}")
    return _fitted(points, level, own if len(own) else None)
