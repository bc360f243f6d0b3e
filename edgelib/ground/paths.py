"""Where the checkout is, and files that are there whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgelib.errors import EdgelibError


def find_root(start: str | Path | None = None) -> Path:
    """Return the checkout of edgelib around `start`, else the one edgelib is imported from, else the current folder."""
    start = Path.cwd() if start is None else Path(start).resolve()
    for folder in [start, *start.parents, Path(__file__).resolve().parents[2]]:
        if (folder / "pyproject.toml").is_file() and (folder / "edgelib" / "errors.py").is_file():
            return folder
    return start


def from_home(path: str | os.PathLike) -> Path:
    """Return the path with ~ as one's home; the home of an unknown user stays as it is written."""
    return Path(os.path.expanduser(path))


def require_ordinary(path: str | os.PathLike) -> None:
    """Raise EdgelibError for what is neither a file nor a folder, such as a pipe: to read it may never end."""
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise EdgelibError(f"{path} is a pipe, a socket or a device, which is not read here; name a file or a folder")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a place beside `path` to write a file to, which takes the place of `path` at once when the block ends.

    Whoever reads meanwhile finds the old file whole, and so it stays where the block raises. The folder is made. The
    place is nobody else's, in whatever thread or container.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()
