"""The command `edgelib`: examine, check, choose, run grids, publish, measure machines, graft, train, verify stores.

One file per command; to add one, write its file and name it here.
"""

from __future__ import annotations

import io
import sys

from edgelib.cli import check, choose, doctor, graft, measure, nature, publish, sweep, train, verify_store
from edgelib.cli.base import app

__all__ = [
    "app",
    "check",
    "choose",
    "doctor",
    "graft",
    "main",
    "measure",
    "nature",
    "publish",
    "sweep",
    "train",
    "verify_store",
]


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may be no text
    app()
