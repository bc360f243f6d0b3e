"""Where the numbers of a chapter come from: its code, libraries, machine, parameters, and the models and data it names.

Nothing here tells where files lie on a machine, so that a page that shows it can be published.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edgelib.source import code_version

LIBRARIES = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "tokenizers",
    "safetensors",
    "datasets",
    "pillow",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
)
_READ_WHOLE = 2**30  # bytes below which all files of a data set are hashed
_PIECE = 2**20


def provenance(parameters: Any) -> dict[str, Any]:
    """Return plain values that say what a chapter's numbers were made from; parameters: a `Parameters` of its schema.

    edgelib: version of the package. code: SHA-256 of the code that the chapter's study can run. libraries: versions.
    device, machine: of torch, and its processor or GPU. seed. sources: of every model and data set that a parameter
    names, its `origin`. parameters: all of them, folders of this machine by their last name.
    """
    models = {name for name, _ in parameters.model_marks()}
    sources = {}
    for name in parameters.sources():
        for key, value in _named(name, getattr(parameters, name)):
            sources[key] = f"{_public(value)}: {origin(value, model=name in models)}"
    return {
        "edgelib": _version("edgelib"),
        "code": code_version(type(parameters).__module__),
        "libraries": {"python": platform.python_version()} | {name: _version(name) for name in LIBRARIES},
        "device": parameters.device,
        "machine": _machine(parameters.device),
        "seed": parameters.seed,
        "sources": sources,
        "parameters": _public(parameters.model_dump(mode="json")),
    }


def origin(name: str, *, model: bool = False) -> str:
    """What is known of a model (`model`) or a data set called so, in words that need no path.

    A folder with safetensors tells the SHA-256 of its weights (of one file, what sha256sum prints; of several, of their
    lines of digest and name); other files a SHA-256 of names and contents, or from 1 GiB on of names and sizes. A hub
    id tells the revision in the local cache. What ships with the package or is drawn by it is told by the code.
    """
    from edgelib.models.load import EMBEDDED

    embedded = EMBEDDED / name
    path = embedded if (embedded / "config.json").is_file() else Path(os.path.expanduser(name))
    if os.path.exists(path):
        return _of_files(path)
    for kind in ("model", "dataset") if model else ("dataset", "model"):
        if (found := _revision(name, kind)) is not None:
            revision, folder = found
            weights = f", {_of_files(folder)}" if kind == "model" and folder.is_dir() else ""
            return f"revision {revision}{weights}"
    return "of this version of edgelib" if "/" not in name else "revision unknown"


def _named(parameter: str, value: Any) -> Iterator[tuple[str, str]]:
    """(what it is called, name) of each source that a parameter names."""
    if isinstance(value, str):
        yield parameter, value
    elif isinstance(value, Mapping):
        yield from ((f"{parameter}: {key}", name) for key, name in value.items())
    else:
        yield from ((f"{parameter} {number}", name) for number, name in enumerate(value or (), start=1))


def _public(value: Any) -> Any:
    """Values without the place of a folder on this machine."""
    if isinstance(value, Mapping):
        return {key: _public(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_public(part) for part in value]
    if isinstance(value, str) and os.path.isabs(os.path.expanduser(value)):
        return Path(value).name or value
    return value


def _of_files(path: Path) -> str:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] != ".")
    weights = [p for p in files if p.suffix in (".safetensors", ".gguf")]
    if len(weights) == 1:
        return f"weights {_sha256(weights[0])}"
    if weights:
        return f"weights {_digest(path, weights)} of {len(weights)} files"
    if len(files) == 1:
        return _sha256(files[0])
    if sum(p.stat().st_size for p in files) < _READ_WHOLE:
        return f"{_digest(path, files)} of {len(files):,} files"
    sizes = "".join(f"{p.stat().st_size}  {p.relative_to(path).as_posix()}\n" for p in files)
    return f"{hashlib.sha256(sizes.encode()).hexdigest()} of the names and sizes of {len(files):,} files"


def _digest(folder: Path, files: list[Path]) -> str:
    lines = (f"{_sha256(p)}  {p.relative_to(folder).as_posix()}\n" for p in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _revision(name: str, kind: str) -> tuple[str, Path] | None:
    """Commit of a hub id in the local cache and its folder there; None where it has none."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    repo = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name.partition(":")[0], repo_type=kind))
    try:
        revision = (repo / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    return revision, repo / "snapshots" / revision


def _machine(device: str) -> str:
    import torch

    from edgelib.devices.machine import describe

    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return f"{describe()['processor']}, {platform.system()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
