"""What a configuration of an image encoder costs on a device: bytes of its file, projected time, or why it fails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from edgelib.errors import EdgelibError
from edgelib.measure.edge import Device, reason_against
from edgelib.measure.projection import Projector
from edgelib.measure.workload import Encoder, encode_work
from edgelib.quant.packed_size import packed_size
from edgelib.quant.scheme import scheme

_WIDE_BITS = {"fp32": 32, "fp16": 16, "bf16": 16}


def weight_bits(module: nn.Module, config: str) -> float:
    """Return the bits per weight of a model's Linear layers in a configuration, scales and zero points included."""
    weights = sum(layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))
    if not weights:
        raise EdgelibError(f"{type(module).__name__} has no nn.Linear layer whose weights could be counted")
    if scheme(config).weight in _WIDE_BITS:
        return float(_WIDE_BITS[scheme(config).weight])
    classes = packed_size(module, config)["by_class"]
    return 8 * sum(classes.get(kind, 0) for kind in ("linear_weights", "scales", "zero_points")) / weights


def _other_bits(config: str) -> int:
    """Bits of what a configuration does not quantize: of its activations, where those are wide."""
    plan = scheme(config)
    return _WIDE_BITS.get(plan.weight, 32 if plan.activation == "fp32" else 16)


def stored_bytes(model: nn.Module, config: str) -> int:
    """Return the bytes of a model's packed file, everything that is not quantized in the width it computes in."""
    other = torch.float32 if _other_bits(config) == 32 else torch.float16
    return packed_size(model, config, other_dtype=other)["total"]


def deployment_costs(
    model: nn.Module, tower: nn.Module, shape: Encoder, configs: Sequence[str], devices: Iterable[Device],
    project: Projector, *, batch: int = 1,
) -> pd.DataFrame:  # fmt: skip
    """Return one row per device and configuration: bytes, latency_ms with low and high, binds, reason.

    bytes: of `stored_bytes`. model: what is packed and shipped; tower: the part that sees each image, of dimensions
    `shape`; both may be on the meta device. latency_ms: projected, of a batch through the tower. reason: why a
    configuration has no latency there, because its numbers do not run or because a rate is not published; empty
    otherwise.
    """
    bytes_of = {config: stored_bytes(model, config) for config in configs}
    work = {
        config: encode_work(shape, weight_bits(tower, config), batch=batch, other_bits=_other_bits(config))
        for config in configs
    }
    rows = []
    for device in devices:
        for config in configs:
            plan = scheme(config)
            reason = reason_against(device, plan.weight, plan.activation) or ""
            row = dict(device=device.key, config=config, bytes=bytes_of[config])
            row |= dict(latency_ms=np.nan, low=np.nan, high=np.nan, binds="", reason=reason)
            if not row["reason"]:
                try:
                    found = project(work[config], device, plan.weight, plan.activation, step="encode")
                except EdgelibError as error:
                    row["reason"] = str(error)
                else:
                    low, high = found.interval
                    row |= dict(latency_ms=found.ms, low=low, high=high, binds=found.binds)
            rows.append(row)
    return pd.DataFrame(rows)
