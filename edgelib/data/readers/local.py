"""Data sets in a local file or folder, opened by what it holds."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from edgelib.data.readers.folders import class_folders, sub_folders
from edgelib.data.readers.hub import open_saved
from edgelib.data.readers.layouts.files import ARCHIVES, to_unpack
from edgelib.data.readers.layouts.table import LAYOUT_NAMES, kinds, recognised
from edgelib.data.readers.npz import open_npz
from edgelib.data.readers.parquet import open_parquet
from edgelib.data.readers.sources import Source
from edgelib.errors import EdgelibError

_LAYOUTS = (
    "an .npz with images, labels and class_names; parquet files as on the hub; a .csv, .tsv or .jsonl of image, "
    "question and answer, or of image and label; sub-folders of images named by class, if wanted inside train and test "
    f"folders; a folder written by datasets.save_to_disk; or the files of {LAYOUT_NAMES} as they are downloaded"
)


def open_path(path: Path, config: str | None = None) -> Source:
    """Open a file or folder by what it holds.

    config: which of the configurations of parquet files, or of the benchmarks whose files lie in one folder ("pope").
    A folder of the hub's cache is read as its snapshot.

    Raises EdgelibError naming the accepted layouts if there is none, and what a folder looks like that is part of one.
    """
    path = _snapshot(found_at(path))
    if path in (*Path.cwd().parents, Path.home()):
        raise EdgelibError(
            f"the folder {str(path)!r} holds the one in which this process works, or is a home; a data set lies in a "
            "folder of its own: point to that"
        )
    if not path.is_file() and ((path / "dataset_dict.json").exists() or (path / "dataset_info.json").exists()):
        return open_saved(path)
    files = [path] if path.is_file() else sorted(path.glob("*.npz"))
    tables = [f for f in ([path] if path.is_file() else visible(path, "*.parquet")) if f.suffix.lower() == ".parquet"]
    arrays = [file for file in files if file.suffix.lower() == ".npz"]
    if tables and arrays:
        raise _mixed(path, [*arrays, *tables])
    if tables:
        return open_parquet(tables, path, config)
    if config is not None:
        asked = recognised(path, config) if config in kinds() else None
        if asked is not None:
            return asked
        raise EdgelibError(
            f"{path.name!r} holds no parquet files, so it has no configuration {config!r}, and no files of a benchmark "
            f"of that name ({', '.join(kinds())}); leave it out"
        )
    if arrays:
        return open_npz(arrays, path)
    found = recognised(path)
    if found is not None:
        return found
    found = None if path.is_file() else class_folders(path)
    if found is not None:
        return found
    if path.is_file():
        raise _mixed(path, files)
    there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
    script = f"{path.name}.py"
    never_run = (
        f"{script} is a script that loads data, which is never run: download what it names, or what the hub made of it "
        "(hf download --revision refs/convert/parquet); "
    )
    raise EdgelibError(
        f"folder {path.name!r} holds no data set (found: {there}); {to_unpack(path)}"
        f"{never_run if (path / script).is_file() else ''}expected {_LAYOUTS}"
    )


def found_at(path: Path) -> Path:
    """A path without links to folders; a file keeps its name, which tells what it is, also where it is a link."""
    return path.parent.resolve() / path.name if path.is_file() else path.resolve()


def _snapshot(path: Path) -> Path:
    """What a folder of the hub's cache (blobs, refs, snapshots) shows; any other path as it is.

    Raises EdgelibError where that is none or one of several.
    """
    if not (path / "snapshots").is_dir() or not (path / "refs").is_dir():
        return path
    there, main = sorted(sub_folders(path / "snapshots")), path / "refs" / "main"
    named = path / "snapshots" / main.read_text(encoding="ascii", errors="replace").strip() if main.is_file() else path
    chosen = [named] if named in there else there
    if len(chosen) != 1:
        held = ", ".join(folder.name for folder in there) or "nothing"
        raise EdgelibError(
            f"{path.name!r} is a folder of the hub's cache with the snapshots {held}; point to one, as in "
            f"{path.name}/snapshots/..., or download the data set again"
        )
    return chosen[0]


def visible(root: Path, pattern: str) -> list[Path]:
    """Files of a pattern below a folder, sorted, without those in hidden folders such as `.cache`."""
    return sorted(f for f in root.rglob(pattern) if not any(p.startswith(".") for p in f.relative_to(root).parts))


def _mixed(root: Path, files: Sequence[Path]) -> EdgelibError:
    found = ", ".join(file.name for file in files[:4])
    if root.is_file() and root.name.lower().endswith(ARCHIVES):
        return EdgelibError(f"{root.name!r} is an archive; unpack it, and point to the folder that comes out of it")
    return EdgelibError(f"cannot tell how to read {root.name!r}, which holds {found}; point to one of: {_LAYOUTS}")


def missing_path(path: Path) -> EdgelibError:
    """The error for a path that does not exist: how far it is right, and the closest name there."""
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    wrong = path.relative_to(parent).parts[0]
    present = sorted(entry.name for entry in parent.iterdir()) if parent.is_dir() else []
    close = difflib.get_close_matches(wrong, present, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it holds {', '.join(present[:8]) or 'nothing'}"
    return EdgelibError(
        f"data set path {str(path)!r} does not exist: there is no {wrong!r} in {str(parent.resolve())!r}; {hint}"
    )
