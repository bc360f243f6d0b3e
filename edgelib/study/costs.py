"""What a configuration of an image encoder costs on a device: bytes of its file, projected time, or why it fails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from torch import nn

from edgelib.devices.device import Device, reason_against
from edgelib.devices.projection import Projector
from edgelib.devices.shapes import Encoder
from edgelib.devices.workload import encode_work
from edgelib.errors import EdgelibError
from edgelib.files.size import other_bits, stored_bytes, weight_bits
from edgelib.quant.scheme import scheme


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
    """Return one row per device and configuration: bytes, latency_ms with low and high, binds, reason.

    bytes: of `stored_bytes`. model: what is packed and shipped; tower: the part that sees each image, of dimensions
    `shape`; both may be on the meta device. latency_ms: projected, of a batch through the tower. reason: why a
    configuration has no latency there, because its numbers do not run or because a rate is not published; empty
    otherwise.
    """
    bytes_of = {config: stored_bytes(model, config) for config in configs}
    work = {
        config: encode_work(shape, weight_bits(tower, config), batch=batch, other_bits=other_bits(config))
        for config in configs
    }
    rows = []
    for device in devices:
        for config in configs:
            units = scheme(config).units
            reason = reason_against(device, *units) or ""
            row = dict(device=device.key, config=config, bytes=bytes_of[config])
            row |= dict(latency_ms=np.nan, low=np.nan, high=np.nan, binds="", reason=reason)
            if not row["reason"]:
                try:
                    found = project(work[config], device, *units, step="encode")
                except EdgelibError as error:
                    row["reason"] = str(error)
                else:
                    low, high = found.interval
                    row |= dict(latency_ms=found.ms, low=low, high=high, binds=found.binds)
            rows.append(row)
    return pd.DataFrame(rows)
