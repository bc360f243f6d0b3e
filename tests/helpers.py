"""Where tests find the checkout and what other projects' code computed."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REFERENCE = ROOT / "tests" / "reference"


def extension(name: str):
    """An extension of the book, which is no module of the library: book/_ext/<name>.py."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "_ext" / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def group_is_alive(group: int) -> bool:
    """Whether a process of the group still runs; the dead that nobody has waited for do not count."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if pgrp == str(group) and state != "Z":
            return True
    return False
