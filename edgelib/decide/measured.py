"""A measured machine as a device of a decision: its own times instead of projected ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from edgelib.decide.record import DecisionRecord, DeviceOptions, Option
from edgelib.devices.deploy.memory import MIB
from edgelib.devices.deploy.runtimes import kernel_of, runtimes
from edgelib.devices.device import GIB
from edgelib.devices.measurements import Measurements, machine_device
from edgelib.errors import EdgelibError

KEY = "measured"
_QUARTILES = 1.349  # standard deviations of a normal distribution between its quartiles


def timed_rows(measured: Measurements, costs: str, folder: str | Path = "") -> pd.DataFrame:
    """Return the times of the image encoder of the model `costs`, one image at a time; arguments as `with_measured`.

    Raises EdgelibError where there are none, naming what was timed.
    """
    timed = measured.machine.get("model")
    name = timed["name"] if timed is not None and Path(costs).name == Path(folder).name else costs
    table = measured.encoders
    table = table[(table["model"] == name) & (table["batch"] == 1)]
    if "part" in table:
        table = table[table["part"] == "vision"]  # texts are read once for all images
    if not len(table):
        known = ", ".join(map(str, dict.fromkeys(measured.encoders["model"])))
        raise EdgelibError(
            f"the measurements of {measured.machine['name']} have no {costs} one image at a time, but {known}; "
            f"time it, edgelib measure FOLDER --model {costs}, or run the chapter pareto with costs of what was "
            "timed (cost_of)"
        )
    return table


def with_measured(
    record: DecisionRecord, measured: Measurements, numbers: dict[str, tuple[str, str]], folder: str | Path = ""
) -> DecisionRecord:
    """Return the record with one more device, "measured": what its own times of the same encoder say.

    numbers: {config: (weight format, activation format)}. folder: of the measurements; a record whose costs are those
    of that folder is of the model that was timed. Of several runtimes the fastest counts. A configuration whose kernel
    was not timed does not run there. latency_ms: the median; low and high: quartile and 95 % of the runs.
    Raises EdgelibError where the encoder of the record was not timed one image at a time.
    """
    table = timed_rows(measured, record.costs, folder)
    kernels = [kernel_of(w, a) for w, a in zip(table["weight"], table["activation"], strict=True)]
    table = table.assign(kernel=kernels).sort_values("p50", kind="stable")
    machine = machine_device(measured, KEY)
    held = {"ONNX Runtime": runtimes()["onnxruntime-cpu"].memory_mib * MIB}
    system = ((machine.memory_gib or 0) - (machine.usable_gib or 0)) * GIB
    options = []
    for option in record.devices[0].options:
        weight, activation = numbers[option.config]
        rows = table[table["kernel"] == kernel_of(weight, activation)]
        parts = {part: size for part, size in option.memory.items() if part not in ("runtime", "system")}
        if not len(rows):
            reason = f"no kernel for {kernel_of(weight, activation)} was timed on {machine.name}"
            options.append(Option(config=option.config, memory=parts | {"runtime": 0, "system": system}, reason=reason))
            continue
        row = rows.iloc[0]
        spread = math.log(row["p75"] / row["p25"]) / _QUARTILES if row["p25"] > 0 else 0.0
        options.append(
            Option(
                config=option.config,
                memory=parts | {"runtime": held.get(str(row["runtime"]), 0.0), "system": system},
                runtime=str(row["runtime"]),
                command=f"kernel {row['config']}",
                source="measured",
                latency_ms=float(row["p50"]),
                low=float(row["p25"]),
                high=float(np.maximum(row["p95"], row["p50"])),
                spread=spread,
            )
        )
    memory = None if machine.memory_gib is None else machine.memory_gib * GIB
    name = f"{machine.name}, measured"
    device = DeviceOptions(key=KEY, name=name, memory_bytes=memory, power_w=None, options=options)
    return record.model_copy(update={"devices": [*(d for d in record.devices if d.key != KEY), device]})
