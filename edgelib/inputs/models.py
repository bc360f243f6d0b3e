"""Load a model by hub id, local folder or embedded name; all three end in the same folder of safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from edgelib.errors import EdgelibError, did_you_mean
from edgelib.inputs.hub import ask_hub, first_line, local_hint
from edgelib.inputs.preprocess import from_timm, from_transformers
from edgelib.inputs.zero_shot_model import ClipModel, TimmClassifier, ZeroShotModel

EMBEDDED = Path(__file__).parent / "embedded"  # each folder in it is a model named after the folder
_DUAL_ENCODERS = ("clip", "siglip", "siglip2")
_WANTED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")


def embedded_models() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(p.name for p in EMBEDDED.iterdir() if (p / "config.json").is_file())


def load(
    name_or_path: str | Path, *, device: str = "cpu", dtype: torch.dtype | None = None, offline: bool = False
) -> ZeroShotModel:
    """Return the model called `name_or_path`: a hub id, a local Hugging Face or timm folder, or an embedded name.

    Weights are read from safetensors only, checked to be finite and kept in `dtype` (float32 if None).
    With `offline` a hub id is looked up in the local cache only. Raises EdgelibError for a name that leads nowhere,
    a hub that cannot be reached, pickled or damaged weights, weights that are not finite, and unsupported families.
    """
    folder = model_folder(str(name_or_path), offline=offline)
    config = _read_config(folder)
    _require_safetensors(folder)
    # What tables and figures call it: never a machine's path.
    name = folder.resolve().name if Path(name_or_path).is_dir() else str(name_or_path)
    if "architecture" in config:
        model = _load_timm(name, folder, config)
    elif config.get("model_type") in _DUAL_ENCODERS:
        model = _load_dual_encoder(name, folder, config)
    else:
        raise EdgelibError(
            f"{folder} holds a {config.get('model_type', 'model of unknown type')!r}; zero-shot classification needs "
            f"one of {', '.join(_DUAL_ENCODERS)}, or a timm classifier (config.json with 'architecture')"
        )
    _require_finite(model.module, folder)
    module = model.module.to(device=device, dtype=dtype or torch.float32).eval().requires_grad_(False)
    return model.with_module(module)


def model_folder(name: str, *, offline: bool = False) -> Path:
    """Return the local folder of a model: embedded, given, or fetched from the hub into its cache."""
    if (EMBEDDED / name / "config.json").is_file():
        return EMBEDDED / name
    if Path(name).is_dir():
        return Path(name)
    if "/" not in name or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise EdgelibError(
            f"no model {name!r}{did_you_mean(name, embedded_models())}: it is neither an embedded model "
            f"({', '.join(embedded_models())}) nor an existing folder; a hub id reads owner/name"
        )
    return _hub_folder(name, offline)


def _hub_folder(name: str, offline: bool) -> Path:
    from huggingface_hub import constants, snapshot_download

    offline = offline or constants.HF_HUB_OFFLINE
    if not offline:
        ask_hub(name, "model")
    try:
        return Path(snapshot_download(name, allow_patterns=list(_WANTED_FILES), local_files_only=offline))
    except Exception as error:  # the package raises many types, from network to disk
        where = "is not in the local cache" if offline else "could not be fetched from the hub"
        raise EdgelibError(f"model {name!r} {where} ({first_line(error)}); {local_hint(name, 'model')}") from None


def _read_config(folder: Path) -> dict:
    path = folder / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise EdgelibError(f"{folder} is not a model folder: it has no config.json") from None
    except json.JSONDecodeError as error:
        raise EdgelibError(f"{path} is not valid JSON: {error}") from None


def _require_safetensors(folder: Path) -> None:
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"))
        found = (
            f"it has {', '.join(others)}, pickled weights that can run code when read"
            if others
            else "it has no weights"
        )
        raise EdgelibError(
            f"{folder} has no .safetensors file: {found}. Convert them on a machine you trust with "
            "model.save_pretrained(folder, safe_serialization=True)"
        )
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise EdgelibError(f"{file} is damaged or cut short ({error}); fetch it again") from None


def _require_finite(module: nn.Module, folder: Path) -> None:
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise EdgelibError(
                f"{folder}: tensor {name} has {bad} values that are NaN or infinite; the file is damaged"
            )


def _load_dual_encoder(name: str, folder: Path, config: dict) -> ClipModel:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        module, info = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise EdgelibError(
            f"{folder} does not load as a {config['model_type']} model: {str(error).splitlines()[0]}"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:5])
        raise EdgelibError(f"{folder} lacks weights that its config.json asks for ({missing}); they would be random")
    return ClipModel(name=name, module=module, preprocess=from_transformers(folder), tokenizer=tokenizer)


def _load_timm(name: str, folder: Path, config: dict) -> TimmClassifier:
    import timm

    try:
        module = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True)
    except (RuntimeError, OSError, KeyError, TypeError) as error:
        raise EdgelibError(f"{folder} does not load as a timm model: {str(error).splitlines()[0]}") from None
    labels = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names")
    descriptions = config.get("label_descriptions") or {}
    if not labels:
        raise EdgelibError(
            f"{folder / 'config.json'} has no label_names, so its outputs have no meaning here; "
            'add "label_names": [...] in the order of the outputs'
        )
    names = [labels[str(i)] if isinstance(labels, dict) else labels[i] for i in range(len(labels))]
    names = tuple(descriptions.get(n, n) for n in names)
    preprocess = from_timm(timm.data.resolve_model_data_config(module))
    return TimmClassifier(name=name, module=module, preprocess=preprocess, label_names=names)
