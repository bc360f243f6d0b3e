"""A store of outcomes: one file per cell of a grid, named by what it holds and checked whenever it is read."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from edgelib.source import code_version
from edgelib.study.store.folders import Files, Local, StoreError, files_at
from edgelib.study.store.sealed import Damaged, seal, spec_text, unseal

ENDING = ".parquet"
# Threads that read at once and cells that each takes at a time, from a folder of this machine and over a network: to
# hand over one cell of a folder takes as long as to read it.
_READERS = {True: (2, 64), False: (16, 1)}


class CellStore:
    """Cells under a folder or a URL. A spec (plain values) says what a cell is, and its SHA-256 is the cell's name.

    The spec's "code" is the `code_version` of what computes the cell; without one, it is that of the whole library.
    folder: of this machine or shared by several, or what fsspec knows, such as s3://bucket/results.
    damaged: what was found so far that is not the cell that it should be, by the place it lies at, with the reason.

    Raises StoreError at once when the folder is not there and cannot be made, or may not be (create=False). One that
    can only be read serves the cells that it has.
    """

    def __init__(self, folder: str | Path, *, create: bool = True):
        place = str(folder)
        cells = f"{place.rstrip('/')}/cells" if "://" in place else Path(place) / "cells"
        self.files: Files = files_at(cells, create=create)
        self.damaged: dict[str, str] = {}
        self._told: set[str] = set()

    @property
    def folder(self) -> Path:
        """The folder of the cells, for a store on this machine."""
        if not isinstance(self.files, Local):
            raise StoreError(f"{self.files.where('')} is no folder of this machine; ask for its names instead")
        return self.files.folder

    def path(self, spec: Mapping) -> Any:
        """Where the cell of this spec is or will be: a path, or a URL."""
        return self.files.where(self.name(spec))

    def name(self, spec: Mapping) -> str:
        """Name of the cell's file in the store: its key's first two digits / its key."""
        return name_of(spec_text(whole(spec)))

    def __contains__(self, spec: Mapping) -> bool:
        return self._load(spec) is not None

    def write(self, spec: Mapping, rows: pd.DataFrame) -> None:
        """Store the rows of a cell, on the disk when this returns; a reader or a crash never sees half a file.

        Raises StoreError when it cannot be written; what was stored before stays.
        """
        self.files.write(self.name(spec), seal(whole(spec), rows))

    def read(self, spec: Mapping) -> pd.DataFrame | None:
        """Return the rows of a cell, or None if it is not there; what is damaged counts as absent and is said once.

        Raises StoreError when the system cannot read the file now (permission, too many open files): it stays.
        """
        table = self._load(spec)
        self.tell()
        return None if table is None else table.to_pandas()

    def load(self, specs: Sequence[Mapping]) -> Iterator[pa.Table | None]:
        """The cells of several specs, in their order, as Arrow tables; None for those that are absent or damaged.

        What is damaged is in `damaged` then, and `tell` says it.
        """
        readers, at_once = _READERS[isinstance(self.files, Local)]
        parts = [specs[start : start + at_once] for start in range(0, len(specs), at_once)]
        with ThreadPoolExecutor(readers) as pool:
            for tables in pool.map(lambda some: [self._load(spec) for spec in some], parts):
                yield from tables

    def remove(self, spec: Mapping) -> None:
        """Take the cell of a spec away, if it is there."""
        self.files.remove(self.name(spec))

    def require_writable(self) -> None:
        """Raise StoreError, which says why, where nothing can be written."""
        if (reason := self.files.refusal()) is not None:
            raise StoreError(reason)

    def require_shared(self, executor: str) -> None:
        """Raise StoreError for a place that processes of their own could not write to: memory:// is this one's."""
        if executor in ("process", "ray") and str(self.files.where("")).startswith("memory:"):
            raise StoreError(
                f"cells at {self.files.where('')!r} are seen by this process alone; use executor serial or thread, or "
                "another store"
            )

    def tell(self) -> None:
        """Warn once of each damaged cell that was found since the last time."""
        new = {place: reason for place, reason in self.damaged.items() if place not in self._told}
        self._told.update(new)
        if new:
            shown = "; ".join(f"{place}: {reason}" for place, reason in list(new.items())[:3])
            warnings.warn(
                f"{len(new)} stored cell(s) damaged, which count as missing and are computed again: {shown}"
                + ("; ..." if len(new) > 3 else ""),
                stacklevel=3,
            )

    def _load(self, spec: Mapping) -> pa.Table | None:
        text = spec_text(whole(spec))
        name = name_of(text)
        try:
            data = self.files.read(name)
            return None if data is None else unseal(data, text)
        except Damaged as error:
            self.damaged[str(self.files.where(name))] = str(error)
            return None


def name_of(text: bytes) -> str:
    """Name of a cell's file, of the text of its whole spec."""
    key = hashlib.sha256(text).hexdigest()
    return f"{key[:2]}/{key}{ENDING}"


def whole(spec: Mapping) -> dict:
    """The spec with the code that computes the cell, by default the whole library."""
    return dict(spec) if "code" in spec else {**spec, "code": code_version("edgelib")}
