"""What is installed of what edgelib needs, from its own list of requirements."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata, version

from packaging.requirements import Requirement

from edgelib import __version__
from edgelib.doctor.finding import Finding
from edgelib.errors import EdgelibError
from edgelib.ground.paths import find_root

USES = {
    "book": "executes and builds the book",
    "test": "runs the tests",
    "kernels": "real kernels on the processor, checkpoints for other runtimes",
    "openvino": "kernels of OpenVINO on the processor",
    "torchao": "kernels of torchao",
    "gguf": "GGUF files",
    "llama-cpp": "llama.cpp, which runs GGUF files",
    "families": "tokenizers and processors of some families",
    "ray": "grids on many machines",
    "lint": "checks style and types",
    "bench": "peers that benchmarks time",
    "dev": "helpers of committers",
}


def required() -> Iterator[Finding]:
    """One line for edgelib and one for each package that it cannot do without: its version, or how to get it."""
    yield Finding("edgelib", __version__)
    for need in _requirements(""):
        lacks = _lacks(need)
        fix = f"pip install '{need.name}{need.specifier}'" if lacks else ""
        yield Finding(need.name, lacks or version(need.name), fix, fault=bool(lacks))


def extras() -> Iterator[Finding]:
    """One line for each optional extra: what it is for, and the command that installs what is missing of it."""
    for extra in metadata("edgelib").get_all("Provides-Extra") or []:
        missing = [need.name for need in _requirements(extra) if _lacks(need)]
        use = USES.get(extra, "optional")
        text = f"{use}: " + (f"{', '.join(missing)} missing" if missing else "installed")
        yield Finding(f"extra {extra}", text, install(extra) if missing else "")


def install(extra: str) -> str:
    """The command that installs an extra, in a checkout or anywhere."""
    inside = (find_root() / "pyproject.toml").is_file()
    return f"pip install -e '.[{extra}]'" if inside else f"pip install 'edgelib[{extra}]'"


@cache
def _requirements(extra: str) -> tuple[Requirement, ...]:
    """What edgelib itself ("") or an extra alone asks for on this machine."""
    try:
        lines = metadata("edgelib").get_all("Requires-Dist") or []
    except PackageNotFoundError:
        raise EdgelibError(
            "edgelib runs from a folder and is not installed, so its list of packages is not known; in the checkout: "
            "pip install -e ."
        ) from None
    found = [Requirement(line) for line in lines]
    if not extra:
        return tuple(need for need in found if need.marker is None or need.marker.evaluate({"extra": ""}))
    return tuple(n for n in found if n.marker and n.marker.evaluate({"extra": extra}) and not _always(n))


def _always(need: Requirement) -> bool:
    return need.marker is None or need.marker.evaluate({"extra": ""})


def _lacks(need: Requirement) -> str:
    """Why a requirement is not met; empty if it is."""
    try:
        found = version(need.name)
    except PackageNotFoundError:
        return "not installed"
    met = not need.specifier or need.specifier.contains(found, prereleases=True)
    return "" if met else f"{found}, but {need.specifier} is needed"
