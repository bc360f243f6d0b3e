"""A store of outcomes: one parquet file per cell of a grid, named by what it holds, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from edgelib.errors import EdgelibError
from edgelib.ground.paths import from_home
from edgelib.source import code_version


class CellStore:
    """Cells under a folder. A spec (plain values) says what a cell is, and its SHA-256 is the cell's name.

    The spec's "code" is the `code_version` of what computes the cell; without one, it is that of the whole library.

    Raises EdgelibError at once when the folder cannot be written.
    """

    def __init__(self, folder: str | Path):
        self.folder = from_home(folder) / "cells"
        probe = self.folder / f".probe-{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
        except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
            reason = getattr(error, "strerror", None) or error
            raise EdgelibError(
                f"results cannot be written to {str(self.folder)!r} ({reason}); choose another folder with the "
                "parameter `results`, or make this one writable"
            ) from None

    def path(self, spec: Mapping) -> Path:
        """Where the cell of this spec is or will be."""
        key = hashlib.sha256(json.dumps({"code": code_version("edgelib"), **spec}, sort_keys=True).encode()).hexdigest()
        return self.folder / key[:2] / f"{key}.parquet"

    def __contains__(self, spec: Mapping) -> bool:
        return self.path(spec).is_file()

    def write(self, spec: Mapping, rows: pd.DataFrame) -> None:
        """Store the rows of a cell; a reader or a crash never sees half a file."""
        path = self.path(spec)
        table = pa.Table.from_pandas(rows, preserve_index=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"edgelib": json.dumps(spec).encode()})
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, temporary, compression="zstd")
            os.replace(temporary, path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise EdgelibError(
                f"cell {path} cannot be written ({error.strerror or error}); cells written before are kept"
            ) from None

    def read(self, spec: Mapping) -> pd.DataFrame | None:
        """Return the rows of a cell, or None if it is not there; a damaged file is removed and counts as absent.

        Raises EdgelibError when the system cannot read the file now (permission, too many open files): it stays.
        """
        path = self.path(spec)
        try:
            return pq.read_table(path).to_pandas()
        except FileNotFoundError:
            return None
        except (pa.ArrowInvalid, OSError) as error:
            if getattr(error, "errno", None) is not None:
                raise EdgelibError(
                    f"cell {path} cannot be read ({error.strerror or error}); mend that and run again"
                ) from None
            path.unlink(missing_ok=True)
            return None
