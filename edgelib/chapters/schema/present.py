"""What parameters name on this machine, looked at before any work: models, data sets, the folder for results."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgelib.errors import EdgelibError
from edgelib.ground.paths import from_home


def is_here(name: str) -> bool:
    """Whether a name is for this machine to have, which a hub id that no folder is called by is not."""
    before = name.rpartition(":")[0]
    there = os.path.exists(from_home(name)) or (before and os.path.isdir(from_home(before)))
    return bool(there) or name.startswith((".", "/", "~")) or name.count("/") != 1


def require_model(name: str) -> None:
    """Raise EdgelibError for a model of this machine that is not there, or that its files tell cannot be loaded."""
    from edgelib.models.load import model_folder, require_loadable

    if is_here(name) and not (name.endswith(".gguf") and os.path.isfile(from_home(name))):
        require_loadable(model_folder(name, offline=True))


def require_data(name: str, load: Callable[[], Any]) -> None:
    """Raise EdgelibError for a data set of this machine that `load` cannot read as it is asked for.

    No image is decoded. What is generated is always there.
    """
    from edgelib.data.scenes.sets import GENERATED

    if name not in GENERATED and is_here(name):
        load()


def require_writable(folder: str) -> None:
    """Raise EdgelibError for a folder that cannot be made or written to."""
    place = Path(os.path.abspath(from_home(folder)))
    while not os.path.lexists(place):
        place = place.parent
    if not os.path.isdir(place) or not os.access(place, os.W_OK):
        why = "is no folder" if not os.path.isdir(place) else "may not be written to"
        raise EdgelibError(f"results = {folder!r}: {place} {why}; name another folder")
