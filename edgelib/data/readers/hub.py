"""Data sets through the `datasets` package: hub ids, and folders written by save_to_disk. No script is ever run."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from edgelib.data.question_tables import Asked, is_question_table
from edgelib.data.readers.arrow import ArrowRows, huggingface_rows, read_arrow
from edgelib.data.readers.sources import UNSPLIT, Labelled, Options, Source, canonical_split, role_names
from edgelib.errors import EdgelibError
from edgelib.ground.hub import ask_hub, first_line, local_hint
from edgelib.tasks.benchmarks import task_of

LONG = 20_000  # rows of a split that is read whole
_BATCH = 100  # rows that a stream hands over at once
HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(?::(?P<config>[\w.-]+))?")


def open_hub(name: str, offline: bool) -> Source:
    """Open "owner/name" or "owner/name:config" from the hub, or with `offline` from the local cache alone.

    Of the hub, one split is read as a stream: its plain columns, then the images that are drawn. A split of more than
    `LONG` rows is read to the last image that the caller can draw, and draws are its beginning. Raises EdgelibError
    within seconds when the hub cannot be reached, and for an id that is not there, is gated, or is not in the cache.
    """
    import datasets

    repo, config = _parts(name)
    offline = offline or datasets.config.HF_HUB_OFFLINE
    if not offline:
        ask_hub(repo, "dataset")
    with _explained(name, repo, offline):
        if offline:
            with _offline_mode(offline):
                return _source(name, datasets.load_dataset(repo, config), Path.cwd())
        found = datasets.get_dataset_split_names(repo, config)
    return Source(name, {canonical_split(s): partial(_read_stream, name, repo, config, s) for s in found})


def downloaded(name: str) -> tuple[Path, str | None] | None:
    """Folder and configuration of a hub id whose files `hf download` left in the cache; None if it did not."""
    from huggingface_hub import snapshot_download

    repo, config = _parts(name)
    try:
        folder = Path(snapshot_download(repo, repo_type="dataset", local_files_only=True))
    except Exception:  # not there, or no name of a repository: the caller says so
        return None
    return (folder, config) if any(folder.rglob("*.parquet")) else None


def _parts(name: str) -> tuple[str, str | None]:
    match = HUB_ID.fullmatch(name)
    if match is None:
        raise EdgelibError(f"{name!r} is no hub id; write it as owner/name or owner/name:config")
    return match["repo"], match["config"]


@contextmanager
def _explained(name: str, repo: str, offline: bool = False) -> Iterator[None]:
    """Turn whatever `datasets` raises, from network to parsing, into one paragraph."""
    try:
        yield
    except EdgelibError:
        raise
    except Exception as error:
        source = "the local cache (offline)" if offline else "the hub"
        several = "; name one as owner/name:config" if "onfig" in str(error) and "missing" in str(error) else ""
        raise EdgelibError(
            f"data set {name!r} could not be loaded from {source} ({first_line(error)}){several}; "
            f"{local_hint(repo, 'dataset')}"
        ) from error


def _read_stream(name: str, repo: str, config: str | None, split: str, options: Options) -> Labelled | Asked:
    """Read one split of a hub's data set to its end, or a long one to the last image that can be drawn."""
    import datasets

    where = f"{name} ({canonical_split(split)})"

    def stream(columns: list[str] | None = None):
        whole = datasets.load_dataset(repo, config, split=split, streaming=True)
        if columns is None:
            return whole
        try:  # of parquet, other columns are then not even fetched
            return datasets.load_dataset(repo, config, split=split, streaming=True, columns=columns)
        except (ValueError, TypeError):
            return whole.select_columns(columns)

    with _explained(name, repo):
        first = stream()
        features = first.features or first._resolve_features().features
        table, long = streamed_rows(stream, features.arrow_schema, options, where)
        read = read_arrow(table, canonical_split(split), options, where)
    if not long:
        return read
    if isinstance(read, Labelled):
        _refuse_sorted(read, where, repo)
    return replace(read, beginning=True)


def streamed_rows(
    stream: Callable[[list[str] | None], Any], schema: pa.Schema, options: Options, where: str
) -> tuple[ArrowRows, bool]:
    """The rows of a stream, as a table that reads them again whenever it is asked, and whether it was cut.

    stream: (columns) -> an iterable data set of them, from its start. More than `LONG` rows are cut after the last row
    of the image number `options.most`, rows of one image standing together as they do on the hub.
    """
    names = schema.names
    called = role_names(names, options.columns, where) if options.columns else dict(zip(names, names, strict=True))
    ids = None
    if is_question_table(called.values(), options):
        task = task_of(called.values(), where)
        ids = next((name for name in names if called[name] == task.image_id), None)
    told = ids or next(name for name in names if not pa.types.is_struct(schema.field(name).type))
    values = _column(stream, told, LONG + 1)
    length, long = len(values), len(values) > LONG
    if long and options.most is None:
        raise EdgelibError(f"{where} has more than {LONG:,} rows, which are not fetched whole; say how many with n=...")
    if long and options.most is not None:
        length = options.most if ids is None else _rows_of(stream, told, options.most)
    seen: dict[tuple[str, int], Any] = {}

    def cells(positions: np.ndarray, column: str) -> list[Any]:
        wanted = {int(p) for p in positions if (column, int(p)) not in seen}
        start = 0
        for batch in _batches(stream, [column]) if wanted else ():
            for place in [p for p in wanted if start <= p < start + len(batch)]:
                seen[column, place] = batch[column][place - start].as_py()
            start += len(batch)
            if start > max(wanted):
                break
        return [seen[column, int(p)] for p in positions]

    def columns(wanted: list[str]) -> pa.Table:
        parts, start = [], 0
        for batch in _batches(stream, list(wanted)):
            parts.append(batch.select(list(wanted)).slice(0, length - start))
            start += len(batch)
            if start >= length:
                break
        return pa.concat_tables(parts)

    return ArrowRows(schema, columns, cells, Path.cwd()), long


def _batches(stream: Callable[[list[str] | None], Any], columns: list[str]) -> Iterator[pa.Table]:
    yield from stream(columns).with_format("arrow").iter(batch_size=_BATCH)


def _column(stream: Callable[[list[str] | None], Any], name: str, most: int) -> list[Any]:
    values: list[Any] = []
    for batch in _batches(stream, [name]):
        values += batch[name].to_pylist()
        if len(values) >= most:
            break
    return values[:most]


def _rows_of(stream: Callable[[list[str] | None], Any], name: str, images: int) -> int:
    """How many rows come before the first of image number `images` + 1, or all that there are."""
    seen: set[Any] = set()
    row = 0
    for batch in _batches(stream, [name]):
        for value in batch[name].to_pylist():
            seen.add(value)
            if len(seen) > images:
                return row
            row += 1
    return row


def _refuse_sorted(read: Labelled, where: str, repo: str) -> None:
    """Raise EdgelibError if the beginning of a long split holds far fewer classes than a random part would."""
    classes, n = len(read.class_names), len(read.rows)
    expected = classes * (1 - (1 - 1 / classes) ** n)
    held = read.rows["label"].nunique()
    if held < expected / 2:
        raise EdgelibError(
            f"{where} is sorted by class: its first {n} rows hold {held} of {classes} classes, and the rest is not "
            f"fetched; {local_hint(repo, 'dataset')}"
        )


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
