"""Whose times they are: what is written of a model beside its measurements, and compared with the model of a page."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from edgelib.devices.measurements import ModelFacts
from edgelib.models.generative import GenerativeModel
from edgelib.models.zero_shot import ZeroShotModel, fingerprint_of
from edgelib.observe.calibrate import module_of

_INCIDENTAL = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # say nothing of what is computed


def configuration(model: ZeroShotModel | GenerativeModel) -> dict | None:
    """Return a loaded model's configuration as plain values, without what differs between two copies; None without."""
    config = getattr(module_of(model), "config", None)
    return None if config is None else _settings(json.loads(json.dumps(config.to_dict(), default=str)))


def identity(model: ZeroShotModel | GenerativeModel) -> ModelFacts:
    """Return what tells a loaded model from others: its name, kind, parameters, and two digests.

    architecture: SHA-256 of its configuration and of the names and shapes of its tensors. weights: of the values of all
    tensors as they were loaded, and of the architecture.
    """
    module = module_of(model)
    settings = configuration(model)
    shapes = [(name, list(tensor.shape)) for name, tensor in module.state_dict().items()]
    wiring = json.dumps([type(module).__name__, settings, shapes], sort_keys=True)
    return ModelFacts(
        name=model.name,
        kind="generative" if isinstance(model, GenerativeModel) else "zero-shot",
        parameters=sum(p.numel() for p in module.parameters()),
        architecture=hashlib.sha256(wiring.encode()).hexdigest(),
        weights=fingerprint_of(module, []),
    )


def _settings(value: Any) -> Any:
    """A configuration without what may differ between two copies of one model."""
    if isinstance(value, Mapping):
        return {key: _settings(part) for key, part in value.items() if key not in _INCIDENTAL}
    return [_settings(part) for part in value] if isinstance(value, list) else value
