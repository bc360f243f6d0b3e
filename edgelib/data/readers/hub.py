"""Data sets through the `datasets` package: hub ids, and folders written by save_to_disk. No script is ever run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgelib.data.readers.arrow import huggingface_rows, read_arrow
from edgelib.data.readers.sources import UNSPLIT, Options, Source, canonical_split
from edgelib.errors import EdgelibError
from edgelib.ground.hub import ask_hub, first_line, local_hint

HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?::(?P<config>[\w.-]+))?")


def open_hub(name: str, offline: bool) -> Source:
    """Open "owner/name" or "owner/name:config" from the hub, or with `offline` from the local cache alone.

    Raises EdgelibError within seconds when the hub cannot be reached, and for an id that is not there, is gated, or
    is not in the cache.
    """
    import datasets

    match = HUB_ID.fullmatch(name)
    if match is None:
        raise EdgelibError(f"{name!r} is no hub id; write it as owner/name or owner/name:config")
    repo, config = match["repo"], match["config"]
    offline = offline or datasets.config.HF_HUB_OFFLINE
    if not offline:
        ask_hub(repo, "dataset")
    try:
        with _offline_mode(offline):
            loaded = datasets.load_dataset(repo, config)
    except Exception as error:  # the package raises many types, from network to parsing
        source = "the local cache (offline)" if offline else "the hub"
        raise EdgelibError(
            f"data set {name!r} could not be loaded from {source} ({first_line(error)}); {local_hint(repo, 'dataset')}"
        ) from error
    return _source(name, loaded, Path.cwd())


def open_saved(path: Path) -> Source:
    """Open a folder written by `datasets.Dataset.save_to_disk` or by that of a `DatasetDict`."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:
        raise EdgelibError(
            f"cannot read the saved data set {path.name!r} ({first_line(error)}); save it again"
        ) from error
    return _source(path.name, loaded, path)


def _source(name: str, loaded, folder: Path) -> Source:
    parts = loaded if isinstance(loaded, dict) else {str(loaded.split or UNSPLIT): loaded}
    parts = {canonical_split(split): part for split, part in parts.items()}

    def reader(split: str) -> Callable[[Options], Any]:
        return lambda options: read_arrow(huggingface_rows(parts[split], folder), split, options, f"{name} ({split})")

    return Source(name, {split: reader(split) for split in parts})


@contextmanager
def _offline_mode(offline: bool) -> Iterator[None]:
    """Keep the `datasets` package off the network while the block runs."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or offline
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
