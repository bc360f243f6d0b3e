"""Models built from their public dimensions: what size and speed depend on, without any weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgelib.devices.shapes import read_architecture
from edgelib.errors import EdgelibError
from edgelib.ground.checks import seed_number
from edgelib.ground.hub import first_line


def architecture(
    name_or_path: str | Path, *, device: str = "meta", dtype: torch.dtype = torch.float32, seed: int = 0
) -> nn.Module:
    """Return the model of a named architecture or of a config.json, built by transformers' own class.

    name_or_path: as in `edgelib.devices.shapes.read_architecture`. device: "meta" makes shapes only, in milliseconds
    and without memory; any other device gets random weights that depend on the seed and the device, drawn as
    transformers initialises them, in evaluation mode.
    Raises EdgelibError for an unknown name, a file that is no configuration, a class that transformers lacks, and
    dimensions that it cannot build.
    """
    config = read_architecture(name_or_path)
    build = model_class(config.get("architectures"), Path(name_or_path).name)
    with torch.random.fork_rng(devices=[] if device in ("meta", "cpu") else None), torch.device(device):
        torch.manual_seed(seed_number(seed))
        try:
            module = build._from_config(build.config_class.from_dict(config), dtype=dtype)
        except Exception as error:  # any type may come out of a configuration that transformers does not expect
            what = f"no {build.__name__} can be built from its configuration"
            raise EdgelibError(f"{Path(name_or_path).name}: {what} ({first_line(error)})") from None
    return module.eval().requires_grad_(False)


def model_class(names: object, where: str) -> Any:
    """Return transformers' own class named in the "architectures" of a configuration; raises EdgelibError."""
    import transformers

    name = names[0] if isinstance(names, list) and names else None
    build = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(build, type) and issubclass(build, transformers.PreTrainedModel)):
        raise EdgelibError(
            f'{where}: "architectures" is {names!r}, but must name a model class of transformers, such as '
            '["CLIPModel"]; copy config.json from the model\'s repository'
        )
    return build
