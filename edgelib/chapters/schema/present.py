"""What parameters name on this machine, looked at before any work: models, data sets, the folder for results."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgelib.errors import EdgelibError
from edgelib.ground.paths import from_home


@dataclass(frozen=True)
class Draw:
    """A calibration set that a chapter draws. scored: the parameter whose items are not drawn; mix, n and source: as
    `calibration_set` takes them; how: the rest of its arguments."""

    scored: str
    mix: str
    n: int
    source: str
    how: dict[str, Any] = field(default_factory=dict)


def is_here(name: str) -> bool:
    """Whether a name is for this machine to have, which a hub id that no folder is called by is not."""
    before = name.rpartition(":")[0]
    there = os.path.exists(from_home(name)) or (before and os.path.isdir(from_home(before)))
    return bool(there) or name.startswith((".", "/", "~")) or name.count("/") != 1


def require_model(name: str, offline: bool = False) -> None:
    """Raise EdgelibError for a model of this machine that is not there, or that its files tell cannot be loaded.

    offline: a hub id, too, is for this machine to have.
    """
    from edgelib.models.load import model_folder, require_loadable, require_readers

    if (offline or is_here(name)) and not (name.endswith(".gguf") and os.path.isfile(from_home(name))):
        folder = model_folder(name, offline=True)
        require_readers(folder, require_loadable(folder))


def require_data(name: str, load: Callable[[], Any], offline: bool = False) -> Any:
    """Return a data set of this machine, None for another; raises EdgelibError where `load` cannot read it as asked.

    No image is decoded. What is generated is always there. offline: a hub id, too, is for this machine to have.
    """
    from edgelib.data.scenes.sets import GENERATED

    return load() if name not in GENERATED and (offline or is_here(name)) else None


def require_generated(name: str, split: str | None) -> None:
    """Raise EdgelibError for a split that a generated set, by its name, does not have; None: not told."""
    from edgelib.data.readers.sources import Options
    from edgelib.data.scenes.sets import GENERATED

    if name in GENERATED and split is not None:
        GENERATED[name](2, 0).read(split, Options())


def require_classes(model: str, source: str, data: Any, prompts: str, offline: bool = False) -> None:
    """Raise EdgelibError for classes that a model of this machine cannot be asked for in these prompts.

    data: that of `source`, None where it was not loaded; generated ones have the same classes in every draw.
    """
    from edgelib.data.datasets import dataset
    from edgelib.data.prompts import templates
    from edgelib.data.scenes.sets import GENERATED
    from edgelib.models.load import model_folder, require_classes

    if data is None and source in GENERATED:
        data = dataset(source, n=2)
    if data is not None and (offline or is_here(model)):
        require_classes(model_folder(model, offline=True), data.class_names, templates(prompts), model)


def require_draw(draw: Draw, seed: int, scored: Any, offline: bool = False) -> None:
    """Raise EdgelibError for a calibration set that cannot be drawn from a data set of this machine.

    scored: the items that are left out, None where they are not known here.
    """
    from edgelib.data.calibration import require_calibration
    from edgelib.data.scenes.sets import GENERATED

    if draw.source in GENERATED or offline or is_here(draw.source):
        require_calibration(draw.mix, draw.n, seed, draw.source, exclude=scored, **draw.how)


def require_machine(device: str, executor: str | None) -> None:
    """Raise EdgelibError for a device that is not there, and for cells that are run by a package that is not."""
    from edgelib.models.load import require_device
    from edgelib.study.executors.cluster import require_ray

    require_device(device)
    if executor == "ray":
        require_ray()


def require_writable(folder: str) -> None:
    """Raise EdgelibError for a folder that cannot be made or written to."""
    place = Path(os.path.abspath(from_home(folder)))
    while not os.path.lexists(place):
        place = place.parent
    if not os.path.isdir(place) or not os.access(place, os.W_OK):
        why = "is no folder" if not os.path.isdir(place) else "may not be written to"
        raise EdgelibError(f"results = {folder!r}: {place} {why}; name another folder")
