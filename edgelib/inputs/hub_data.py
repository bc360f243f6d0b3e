"""Data sets through the `datasets` package: hub ids, and folders written by save_to_disk. No script is ever run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgelib.errors import EdgelibError
from edgelib.inputs.arrow_data import huggingface_rows, read_arrow
from edgelib.inputs.columns import UNSPLIT, Source, canonical_split

HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?::(?P<config>[\w.-]+))?")
_SECONDS = 5.0  # how long the hub may take to answer the first request


def open_hub(name: str, offline: bool) -> Source:
    """Open "owner/name" or "owner/name:config" from the hub, or with `offline` from the local cache alone.

    Raises EdgelibError within seconds when the hub cannot be reached, and for an id that is not there, is gated, or
    is not in the cache.
    """
    import datasets

    match = HUB_ID.fullmatch(name)
    repo, config = match["repo"], match["config"]
    offline = offline or datasets.config.HF_HUB_OFFLINE
    if not offline:
        _knock(repo)
    try:
        with _offline_mode(offline):
            loaded = datasets.load_dataset(repo, config)
    except Exception as error:  # the package raises many types, from network to parsing
        source = "the local cache (offline)" if offline else "the hub"
        raise EdgelibError(
            f"data set {name!r} could not be loaded from {source} ({_first_line(error)}); {_local_hint(repo)}"
        ) from error
    return _source(name, loaded, Path.cwd())


def open_saved(path: Path) -> Source:
    """Open a folder written by `datasets.Dataset.save_to_disk` or by that of a `DatasetDict`."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:
        raise EdgelibError(
            f"cannot read the saved data set {path.name!r} ({_first_line(error)}); save it again"
        ) from error
    return _source(path.name, loaded, path)


def _source(name: str, loaded, folder: Path) -> Source:
    parts = loaded if isinstance(loaded, dict) else {str(loaded.split or UNSPLIT): loaded}
    parts = {canonical_split(split): part for split, part in parts.items()}
    return Source(
        name,
        {
            split: lambda options, s=split, p=part: read_arrow(huggingface_rows(p, folder), s, options, f"{name} ({s})")
            for split, part in parts.items()
        },
    )


def _knock(repo: str) -> None:
    """Ask the hub for the repository once, so that a dead network fails in seconds and not after minutes of retries."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(repo, timeout=_SECONDS)
    except GatedRepoError as error:
        raise EdgelibError(
            f"data set {repo!r} is gated: accept its terms on its hub page and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise EdgelibError(
            f"the hub has no public data set {repo!r}; check the spelling, or pass a local folder"
        ) from error
    except Exception as error:  # connection, name lookup, time-out, proxy: each has its own type
        raise EdgelibError(
            f"data set {repo!r} could not be reached on the hub ({_first_line(error)}), and no local folder has that "
            f"name; if it was loaded before, pass offline=True to use the cache; otherwise {_local_hint(repo)}"
        ) from error


def _local_hint(repo: str) -> str:
    folder = f"./{repo.split('/')[-1]}"
    return (
        f"download it on a connected machine (hf download --repo-type dataset {repo} --local-dir {folder}) "
        f"and pass that folder, as in dataset({folder!r})"
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else 'no details'}"


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
