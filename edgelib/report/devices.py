"""What the chapter on efficiency shows of sizes, machines and devices, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from edgelib.devices.device import GIB, Device
from edgelib.devices.projection import Projector
from edgelib.devices.shapes import decoder, encoder, has_encoder
from edgelib.devices.validation import WIDE, calibrated, speedups
from edgelib.devices.workload import Work
from edgelib.errors import EdgelibError
from edgelib.files.size import stored_bytes
from edgelib.models.architectures import architecture
from edgelib.quant.scheme import scheme
from edgelib.report.claims.devices import projection_text
from edgelib.report.figures.palette import label
from edgelib.report.tables import Column, interval, number
from edgelib.study.costs import deployment_memory, writer_needs


def size_table(architectures: Iterable[str], configs: Sequence[str]) -> pd.DataFrame:
    """Return a row per public architecture and configuration: model, config, bytes of the packed file (predicted), what
    is not quantized in 16 bits (`edgelib.files.size.stored_bytes`)."""
    rows = []
    for name in architectures:
        model = architecture(name)
        rows += [{"model": name, "config": c, "bytes": stored_bytes(model, c)} for c in configs]
    return pd.DataFrame(rows)


def machine_facts(machine: Mapping) -> dict[str, object]:
    """Return what a reader should know of the machine that was measured: load, ceilings with units, versions."""
    others = f"{machine['others']:.1%}" if "others" in machine else "not recorded"
    facts = {"machine": machine["name"], "threads": machine["threads"], "used by others meanwhile": others}
    for name, rate in machine["ceilings"].items():
        facts[name.replace("_gb_s", ", GB/s").replace("_tops", " product, Tops/s")] = f"{rate:g}"
    return facts | machine.get("versions", {})


def device_facts(devices: Iterable[Device], measured: Device) -> pd.DataFrame:
    """Return a line per device: memory, bandwidth, rates, power; a star marks what no source of the vendor confirms."""

    def star(device: Device, fact: str) -> str:
        return "*" if fact in device.unverified else ""

    def rates(device: Device) -> str:
        return ", ".join(f"{u} {rate:g}" if rate else f"{u} ?" for u, rate in device.rates.items()) + star(
            device, "rates"
        )

    return pd.DataFrame(
        [
            {
                "Device": d.name + (" (measured)" if d is measured else ""),
                "Memory, GiB": f"{d.memory_gib:g}" if d.memory_gib else "unknown",
                "Usable, GiB": f"{d.usable_gib:g}{star(d, 'usable_gib')}" if d.usable_gib else "unknown",
                "GB/s": f"{d.bandwidth_gb_s:g}",
                "Rates, 1e12/s": rates(d),
                "Power, W": " ".join(f"{watts:g}" for watts in d.power_w),
            }
            for d in devices
        ]
    )


def fit_table(name: str, configs: Sequence[str], devices: Iterable[Device], context: int) -> pd.DataFrame:
    """Return a row per device and configuration of a model that writes: need_gib, usable_gib, free_gib, fits, legal.

    Everything that is in memory at once counts, as in the record of a decision: towers, connector, embeddings, head,
    cache of `context` tokens, image, activations and the runtime that has a kernel. legal: whether one has. Devices
    whose usable memory is not known are left out.
    """
    sees = encoder(name) if has_encoder(name) else None
    memory = deployment_memory(architecture(name), configs, encoder=sees, decoder=decoder(name), context=context)
    places = [device for device in devices if device.usable_gib is not None]
    rows = []
    for device in places:
        for need in writer_needs(name, memory, [device], context).devices[device.key]:
            taken = (need.total - need.memory["system"]) / GIB
            free = device.fact("usable_gib") - taken
            row = dict(device=device.key, config=need.config, need_gib=taken, usable_gib=device.usable_gib)
            rows.append(row | dict(free_gib=free, fits=free >= 0, legal=not need.reason))
    return pd.DataFrame(rows)


def fit() -> Column:
    """Whether a configuration fits, from `fit_table`: "3.2 fits", "0.8 short"."""

    def cells(rows: pd.DataFrame) -> list[str]:
        words = [f"{r.need_gib:.1f} fits" if r.fits else f"{-r.free_gib:.1f} short" for r in rows.itertuples()]
        return [word if legal else "does not run" for word, legal in zip(words, rows["legal"], strict=True)]

    return Column(cells, numeric=False)


def projected_times(
    project: Projector, works: Mapping[str, Work], devices: Sequence[Device], step: str
) -> pd.DataFrame:
    """Return a line per device with the projected time of a step (ms, with interval) under the label of each config.

    works: config -> work of the step. "no" where a configuration does not run or lacks a published rate.
    """

    def text(device: Device, config: str) -> str:
        try:
            return projection_text(project(works[config], device, *scheme(config).units, step=step))
        except EdgelibError:
            return "no"

    table = {"Device": [device.name for device in devices]}
    return pd.DataFrame(table | {label(c): [text(device, c) for device in devices] for c in works})


def skipped_cases(machine: Mapping) -> pd.DataFrame:
    """Return a line per case that was stopped early or not measured: Case, Why."""
    lines = [(f"{line} (stopped)", "its median was not settled") for line in machine.get("unsettled", [])]
    for line in machine.get("left_out", []):
        case, _, why = str(line).partition(": ")
        lines.append((case, why))
    return pd.DataFrame(lines, columns=["Case", "Why"])


def ratio_columns() -> dict[str, str | Column]:
    """What a table of `speed_ratios` shows; `device` is its name."""

    def inside(rows: pd.DataFrame) -> list[str]:
        held = rows["measured"].between(rows["low"], rows["high"])
        return ["inside" if yes else "outside" for yes in held]

    columns: dict[str, str | Column] = {"Model": "model", "Weights": "weight", "Device": "device"}
    columns |= {"Measured": number("measured", "{:.2f}"), "Projected": interval("projected", 1, 2)}
    return columns | {"Interval": Column(inside, numeric=False), "Calibrated": number("calibrated", "{:.2f}")}


def speed_ratios(points: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Return the measured and projected speed-ups of narrow weights, with `calibrated`, low and high.

    points: of a `Validation`; published: those that it validated on. calibrated: what the unquantized time on the
    device itself lets one project. low, high: projected by the widest factor of an interval for tokens on that device.
    """
    ratios = speedups(points)
    timed = published[published["weight"].isin(WIDE)]
    known = speedups(pd.concat([timed.assign(projected=timed["ms"]), calibrated(published)]))
    tokens = points[points["step"] == "decode"]
    factor = (tokens["high"] / tokens["projected"]).groupby(tokens["device"]).max()
    widest = ratios["device"].map(factor)
    spread = {"low": ratios["projected"] / widest, "high": ratios["projected"] * widest}
    return ratios.assign(calibrated=known["projected"], **spread)
