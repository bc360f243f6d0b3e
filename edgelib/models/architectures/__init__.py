"""Models described by their public dimensions: what size and speed depend on, without any weights.

An architecture is a Hugging Face config.json with a "source" beside it; each file of this folder is one.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from edgelib.errors import EdgelibError, did_you_mean

FOLDER = Path(__file__).parent


def architectures() -> list[str]:
    """Names of the architectures that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def architecture(
    name_or_path: str | Path, *, device: str = "meta", dtype: torch.dtype = torch.float32, seed: int = 0
) -> nn.Module:
    """Return the model of a named architecture or of a config.json, built by transformers' own class.

    name_or_path: a name in `architectures()`, a config.json, or a folder that holds one. device: "meta" makes shapes
    only, in milliseconds and without memory; any other device gets random weights that depend on the seed and the
    device, drawn as transformers initialises them, in evaluation mode.
    Raises EdgelibError for an unknown name, a file that is no configuration, and a class that transformers lacks.
    """
    path = Path(name_or_path).expanduser()
    path = path / "config.json" if path.is_dir() else path
    named = FOLDER / f"{name_or_path}.json"
    if not named.is_file() and not path.is_file():
        hint = f"{did_you_mean(name_or_path, architectures())}; choose from {', '.join(architectures())}"
        raise EdgelibError(f"unknown architecture {str(name_or_path)!r}{hint}, or pass the path of a config.json")
    path = named if named.is_file() else path
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EdgelibError(f"{path.name} is not valid JSON ({error})") from None
    build = model_class(facts.get("architectures") if isinstance(facts, dict) else None, path.name)
    facts.pop("source", None)
    with torch.random.fork_rng(devices=[] if device in ("meta", "cpu") else None), torch.device(device):
        torch.manual_seed(seed)
        config = build.config_class.from_dict(facts)
        module = build._from_config(config, dtype=dtype)
    return module.eval().requires_grad_(False)


def model_class(names: object, where: str) -> type:
    """Return transformers' own class named in the "architectures" of a configuration; raises EdgelibError."""
    import transformers

    name = names[0] if isinstance(names, list) and names else None
    build = getattr(transformers, name, None) if isinstance(name, str) else None
    if not (isinstance(build, type) and issubclass(build, transformers.PreTrainedModel)):
        raise EdgelibError(
            f'{where}: "architectures" is {names!r}, but must name a model class of transformers, such as ["CLIPModel"]'
        )
    return build
