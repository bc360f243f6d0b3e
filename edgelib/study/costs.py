"""What a configuration of an image encoder costs on a device: bytes of its file, projected time, or why it fails."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from torch import nn

from edgelib.decide.measured import with_measured
from edgelib.decide.record import DecisionRecord, DeviceOptions, Need, Option, Writer
from edgelib.devices.deploy.memory import MIB, memory_parts, system_bytes
from edgelib.devices.deploy.runtimes import Runtime, Step, runtime_for
from edgelib.devices.device import GIB, Device, reason_against
from edgelib.devices.measurements import load_measurements
from edgelib.devices.projection import Projector
from edgelib.devices.shapes import Decoder, Encoder
from edgelib.devices.workload import encode_work
from edgelib.errors import EdgelibError
from edgelib.files.parts import part_bytes
from edgelib.files.size import other_bits, stored_bytes, weight_bits
from edgelib.models.architectures import architecture
from edgelib.models.zero_shot import ZeroShotModel
from edgelib.quant.scheme import scheme
from edgelib.study.timing.identity import configuration


def costed(model: ZeroShotModel, cost_of: str | None) -> tuple[nn.Module, str]:
    """Return the network whose shapes cost, and what it is called: the model itself, or an architecture.

    cost_of: as `edgelib.models.architectures.architecture` takes it; None, and a configuration that is the model's own,
    mean the model. Raises EdgelibError as `architecture` does.
    """
    if cost_of is None:
        return model.module, model.name
    shapes = architecture(cost_of)
    return shapes, model.name if configuration(shapes) == configuration(model) else cost_of


def measured_too(record: DecisionRecord, folder: str | None, configs: Iterable[str]) -> DecisionRecord:
    """Return the record with the machine whose measurements lie in a folder; as it is for None.

    Raises EdgelibError as `with_measured` does.
    """
    if folder is None:
        return record
    numbers = {config: (scheme(config).weight, scheme(config).activation) for config in configs}
    return with_measured(record, load_measurements(folder), numbers, folder)


def deployment_costs(
    model: nn.Module,
    tower: nn.Module,
    shape: Encoder,
    configs: Sequence[str],
    devices: Iterable[Device],
    project: Projector,
    *,
    batch: int = 1,
) -> pd.DataFrame:
    """Return one row per device and configuration: bytes, latency_ms with low and high, binds, runtime, reason.

    bytes: of `stored_bytes`. model: what is packed and shipped; tower: the part that sees each image, of dimensions
    `shape`; both may be on the meta device. latency_ms: projected, of a batch through the tower. reason: why a
    configuration has no latency there, because its numbers do not run, because no runtime is known to have a kernel
    for them, or because a rate is not published; empty otherwise. runtime: key of the one that has a kernel.
    """
    bytes_of = {config: stored_bytes(model, config) for config in configs}
    within = next((f"{name}." for name, part in model.named_modules() if name and part is tower), "")
    work = {
        config: encode_work(shape, weight_bits(tower, config, within), batch=batch, other_bits=other_bits(config))
        for config in configs
    }
    rows = []
    for device in devices:
        for config in configs:
            units = scheme(config).units
            runtime, reason = runs(device, config, "encode")
            row = dict(device=device.key, config=config, bytes=bytes_of[config])
            row |= dict(latency_ms=np.nan, low=np.nan, high=np.nan, binds="")
            row |= dict(runtime="" if runtime is None else runtime.key, reason=reason)
            if not row["reason"]:
                try:
                    engine = "" if runtime is None else runtime.key
                    found = project(work[config], device, *units, step="encode", engine=engine)
                except EdgelibError as error:
                    row |= dict(runtime="", reason=str(error))
                else:
                    low, high = found.interval
                    row |= dict(latency_ms=found.ms, low=low, high=high, binds=found.binds)
            rows.append(row)
    return pd.DataFrame(rows)


def runs(device: Device, config: str, step: Step, *, context: int = 0) -> tuple[Runtime | None, str]:
    """Return (the runtime that runs a configuration on a device, ""), or (None, the reason why nothing does)."""
    made = scheme(config)
    reason = reason_against(device, *made.units)
    if reason:
        return None, reason
    try:
        return runtime_for(device, made.weight, made.activation, step, context=context), ""
    except EdgelibError as error:
        return None, str(error)


def deployment_memory(
    model: nn.Module,
    configs: Sequence[str],
    *,
    encoder: Encoder | None,
    decoder: Decoder | None = None,
    context: int = 0,
    batch: int = 1,
) -> dict[str, dict[str, float]]:
    """Return {config: {part: bytes}} of what a model holds in memory at once, without runtime and system.

    model: all of it, towers and connector, maybe on the meta device. context: tokens of text that a decoder keeps.
    Activations, keys and values are as wide as what the configuration does not quantize.
    """
    found = {}
    for config in configs:
        wide = other_bits(config)
        sizes = part_bytes(model, config)
        shapes: dict = dict(encoder=encoder, decoder=decoder)
        parts = memory_parts(sizes, bits=wide, kv_bits=wide, context=context, batch=batch, **shapes)
        parts.pop("runtime")
        found[config] = parts
    return found


def _whole(parts: dict[str, float], runtime: Runtime | None, device: Device) -> dict[str, float]:
    """Parts with those of runtime and system, as far as they are known."""
    known = device.memory_gib is not None and device.usable_gib is not None
    held = 0.0 if runtime is None else runtime.memory_mib * MIB
    return parts | {"runtime": held, "system": system_bytes(device) if known else 0.0}


def device_options(
    cost: pd.DataFrame, memory: dict[str, dict[str, float]], devices: Iterable[Device], spread: float
) -> list[DeviceOptions]:
    """Return what each configuration needs on each device, for a `DecisionRecord`.

    cost: of `deployment_costs`; memory: of `deployment_memory`; spread: `own_spread` of the projections.
    """
    found = []
    for device in devices:
        own = cost[cost["device"] == device.key].set_index("config")
        options = []
        for config, parts in memory.items():
            row = own.loc[config]
            runtime = None if row["reason"] else runs(device, config, "encode")[0]
            facts: dict = dict(config=config, memory=_whole(parts, runtime, device), reason=row["reason"])
            if runtime is not None:
                facts |= dict(runtime=runtime.name, command=runtime.command, source="projected", spread=spread)
                facts |= {name: float(row[name]) for name in ("latency_ms", "low", "high")}
            options.append(Option(**facts))
        memory_bytes = None if device.memory_gib is None else device.memory_gib * GIB
        most = max(device.power_w, default=None)
        found.append(
            DeviceOptions(key=device.key, name=device.name, memory_bytes=memory_bytes, power_w=most, options=options)
        )
    return found


def writer_needs(name: str, memory: dict[str, dict[str, float]], devices: Iterable[Device], context: int) -> Writer:
    """Return what a model that writes needs on each device, for a `DecisionRecord`; memory: of `deployment_memory`."""
    needs: dict[str, list[Need]] = {}
    for device in devices:
        needs[device.key] = []
        for config, parts in memory.items():
            runtime, reason = runs(device, config, "generate", context=context)
            facts: dict = dict(config=config, memory=_whole(parts, runtime, device), reason=reason)
            if runtime is not None:
                facts |= dict(runtime=runtime.name, command=runtime.command)
            needs[device.key].append(Need(**facts))
    return Writer(model=name, context=context, devices=needs)


def pack_command(model: str, config: str, mix: str, n: int) -> str:
    """Return the command that makes a configuration of a model and writes its packed folder.

    mix, n: the calibration images, for a configuration that looks at them.
    """
    images = f", e.calibration_set({json.dumps(mix)}, n={n})" if scheme(config).needs_calibration else ""
    made = f"e.quantize(e.load({json.dumps(model)}), {json.dumps(config)}{images})"
    return f"python -c {shlex.quote(f'import edgelib as e; e.save_packed({made}, {json.dumps(config)})')}"
