"""Where the checkout is."""

from __future__ import annotations

import os
from pathlib import Path


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
