"""The seal of a packed folder: packing.json holds a SHA-256 of every file and of itself, so no byte changes unseen.

A seal finds damage, not malice: who can write into the folder can seal it again. That loading runs no code of a folder
and asks nobody whether it may does not rest on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from edgelib.errors import EdgelibError
from edgelib.ground.records import Record, checked
from edgelib.models.preprocess import read_object

DESCRIPTION = "packing.json"
FORMAT = "edgelib packed 2"
_WITHOUT_DIGESTS = "edgelib packed 1"
_MEND = "copy the whole folder again, or pack the model again with save_packed"


class _File(Record):
    bytes: int
    sha256: str


def seal(folder: Path, facts: Mapping[str, object]) -> None:
    """Write packing.json: the facts, plain values by name, and the digests of all files that lie in the folder."""
    files = {name: _File(bytes=path.stat().st_size, sha256=_digest(path)) for name, path in _files(folder).items()}
    listed = {name: file.model_dump() for name, file in files.items()}
    known = json.loads(json.dumps({**facts, "format": FORMAT, "files": listed}))  # as it will be read
    known["sha256"] = _digest_of(known)
    (folder / DESCRIPTION).write_text(json.dumps(known, indent=1), encoding="utf-8")


def unsealed(folder: Path) -> dict:
    """Return the facts that `seal` wrote.

    Hidden files and *.md beside the packed ones are left alone. Raises EdgelibError for a folder that holds no packed
    model or one without digests, and, naming the file, where one changed, is missing or was added.
    """
    if not (folder / DESCRIPTION).is_file():
        raise EdgelibError(f"{folder.name!r} holds no packed model: it has no {DESCRIPTION}; write it with save_packed")
    known = read_object(folder / DESCRIPTION)
    if known.get("format") == _WITHOUT_DIGESTS:
        raise EdgelibError(
            f"{folder.name!r} was packed by an earlier version of edgelib, without digests of its files, so nobody can "
            "tell whether it is whole: quantize the baseline again and pack it with save_packed"
        )
    if known.get("format") != FORMAT:
        raise EdgelibError(
            f"{folder.name!r} holds no packed model of this version of edgelib: the format in {DESCRIPTION} is not "
            f"{FORMAT!r}; pack the model again with save_packed"
        )
    if known.pop("sha256", None) != _digest_of(known):
        raise EdgelibError(f"{DESCRIPTION} of {folder.name!r} is damaged: it is not what was written; {_MEND}")
    del known["format"]
    listed = known.pop("files", None)
    if not isinstance(listed, dict):
        raise EdgelibError(f"{DESCRIPTION} of {folder.name!r} is damaged: it lists no files; {_MEND}")
    _check_files(folder, {name: checked(_File, file, f"{DESCRIPTION}, {name!r}") for name, file in listed.items()})
    return known


def _check_files(folder: Path, listed: Mapping[str, _File]) -> None:
    here = _files(folder)
    if missing := listed.keys() - here.keys():
        raise EdgelibError(f"{folder.name!r} lacks {_names(missing)}, missing since it was packed; {_MEND}")
    if added := here.keys() - listed.keys():
        raise EdgelibError(
            f"{folder.name!r} holds {_names(added)}, which was not packed with it and might change what is loaded: "
            "move it elsewhere"
        )
    for name, file in listed.items():
        fault = None
        try:
            if (held := here[name].stat().st_size) != file.bytes:
                fault = f"damaged or cut short: it has {held:,} bytes where {file.bytes:,} were packed"
            elif _digest(here[name]) != file.sha256:
                fault = "damaged: it is not the file that was packed (its SHA-256 differs)"
        except OSError as error:
            fault = f"not readable ({error.strerror})"
        if fault:
            raise EdgelibError(f"{name} of {folder.name!r} is {fault}; {_MEND}")


def _files(folder: Path) -> dict[str, Path]:
    """Return what a loader could read: all files but packing.json, hidden ones and *.md, by name from the folder."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: path
        for name, path in paths.items()
        if name != DESCRIPTION and path.suffix != ".md" and not any(part[0] == "." for part in name.split("/"))
    }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(known: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode("ascii")).hexdigest()


def _names(names) -> str:
    first = sorted(names)
    return ", ".join(map(repr, first[:5])) + (f" and {len(first) - 5} more" if len(first) > 5 else "")
