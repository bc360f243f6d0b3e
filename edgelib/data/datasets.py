"""Labelled images, or questions about images, from a generated world, a local file or folder, or the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from edgelib.data.labelled import Dataset
from edgelib.data.question_tables import Asked
from edgelib.data.questions import QuestionSet
from edgelib.data.readers.hub import HUB_ID, downloaded, open_hub
from edgelib.data.readers.layouts.texts import SUFFIXES as TEXTS
from edgelib.data.readers.local import missing_path, open_path
from edgelib.data.readers.sources import (
    Labelled,
    Options,
    Source,
    canonical_split,
    source_name,
)
from edgelib.data.scenes.sets import DEFAULT_LENGTH, GENERATED
from edgelib.errors import EdgelibError, did_you_mean
from edgelib.ground.checks import seed_number, whole_number
from edgelib.ground.paths import from_home, require_ordinary
from edgelib.ground.randomness import address, keys_for, uniform


def dataset(
    name_or_path: str | os.PathLike,
    split: str = "test",
    n: int | None = None,
    seed: int = 0,
    *,
    offline: bool = False,
    label_column: str | None = None,
    image_column: str | None = None,
    class_names: Sequence[str] | Mapping | None = None,
    columns: Mapping[str, str] | None = None,
    images: str | os.PathLike | None = None,
) -> Dataset | QuestionSet:
    """Load labelled images by a generated set's name ("scenes"), a local path or a hub id ("owner/name[:config]").

    A path may be an npz (images, labels, class_names), parquet files as on the hub ("path:config" where there are
    several data sets), a .csv, .tsv or .jsonl, class folders of images (inside split folders or not), a folder written
    by `datasets`, or the files of a benchmark's own site as they are downloaded (`edgelib.data.readers.layouts`). A
    source without splits is its own "test" split; those of CIFAR-10-C and ImageNet-C are named as conditions, "fog:3".
    Questions with the columns of a benchmark of `edgelib.tasks.benchmarks` (lmms-lab/VQAv2, lmms-lab/POPE,
    lmms-lab/MME, lmms-lab/textvqa), questions with an answer, and "scenes-vqa", "scenes-pope" and "scenes-mme" give a
    `QuestionSet`. Of a hub id one split is read, and of a long one no more than its beginning (`readers.hub`).
    n: how many items, in the order of `drawing_order`, so that the first k rows of a draw are the draw of k; None is
        the whole split in its own order (of a generated set, the first 1000). Of questions, how many images: all
        questions about an image come along, and the sub-tasks of MME take turns.
    seed: which items are drawn, or for a generated set which world.
    offline: never ask the hub, use what its local cache holds.
    label_column, image_column: column names, where the usual ones do not fit.
    class_names: names in label order, or folder -> name for class folders, instead of the source's own.
    columns: what columns are called, role -> column, such as {"question": "q", "answer": "gt", "image": "path"}.
    images: folder of the image files that the questions name, where it lies neither below nor beside them.

    Raises EdgelibError, naming what is there and the fix, for an unknown name, path, split or column, for images or
    labels of a wrong kind, for missing class names, for n below 1 or beyond what there is, and for an unreachable hub.
    """
    count = None if n is None else whole_number(n, "n", at_least=1)
    seed = seed_number(seed)
    name = source_name(name_or_path)
    options = options_of(name, image_column, label_column, class_names, columns, images)
    options = replace(options, most=count)
    if name in GENERATED:
        source = GENERATED[name](count or DEFAULT_LENGTH, seed)
        table = source.read(split, options)
        return _chosen(source, table, split, np.arange(_length(table)))
    source = open_source(name, offline)
    table = source.read(split, options)
    total = _length(table)
    if total == 0:
        raise EdgelibError(f"split {split!r} of data set {source.name!r} is empty; choose another split or data set")
    if count is None:
        return _chosen(source, table, split, np.arange(total))
    if count > total:
        raise EdgelibError(
            f"n={count} {'images' if isinstance(table, Asked) else 'items'} were asked of {source.name!r}, whose split "
            f"{split!r} has {total}; ask for at most {total}"
        )
    if table.beginning:
        return _chosen(source, table, split, np.arange(count))
    strata = table.strata if isinstance(table, Asked) else table.rows["label"].to_numpy()
    return _chosen(source, table, split, drawing_order(strata, seed)[:count])


def options_of(
    name: str,
    image_column: str | None,
    label_column: str | None,
    class_names: Sequence[str] | Mapping | None = None,
    columns: Mapping[str, str] | None = None,
    images: str | os.PathLike | None = None,
) -> Options:
    """What the caller says about a source; arguments as `dataset` takes them.

    Raises EdgelibError for columns that are no names, a folder of images that is not there, and either of the two for a
    generated set.
    """
    if columns is not None and not (
        isinstance(columns, Mapping)
        and all(isinstance(part, str) and part for pair in columns.items() for part in pair)
    ):
        raise EdgelibError(f"columns must map roles to names of columns, such as {{'question': 'q'}}, got {columns!r}")
    if name in GENERATED and (columns or images is not None):
        raise EdgelibError(f"{name!r} is generated and has neither columns nor image files to name; leave them out")
    folder = None if images is None else from_home(os.fspath(images))
    if folder is not None and not folder.is_dir():
        raise EdgelibError(f"images = {str(images)!r} is no folder; name the one that holds the image files")
    return Options(image_column, label_column, class_names, columns or None, folder and folder.resolve())


def open_source(name: str, offline: bool = False) -> Source:
    """Open a local path, "path:config", or a hub id. Raises EdgelibError for a name that is neither."""
    path = from_home(name)
    if name and os.path.exists(path):  # unlike Path.exists, it takes any name
        require_ordinary(path)
        return open_path(path)
    before, _, config = name.rpartition(":")
    if before and config and os.path.isdir(from_home(before)):
        return open_path(from_home(before), config)
    written_as_path = name.startswith((".", "/", "~", "\\")) or path.suffix in (".npz", ".parquet", *TEXTS)
    if written_as_path or (len(path.parts) > 1 and os.path.isdir(path.parts[0])):
        raise missing_path(path)
    if HUB_ID.fullmatch(name):
        fetched = downloaded(name) if offline else None
        return open_hub(name, offline) if fetched is None else replace(open_path(*fetched), name=name)
    raise EdgelibError(
        f"unknown data set {name!r}{did_you_mean(name, GENERATED)}; it is no generated set ({', '.join(GENERATED)}),"
        ' nor a path that exists, nor a hub id of the form "owner/name" such as "uoft-cs/cifar10"'
    )


def drawing_order(labels: np.ndarray, seed: int, *, balanced: bool = False, backwards: bool = False) -> np.ndarray:
    """A random order of all items in which every beginning is spread over the classes.

    Within a class, items come in an order given by (seed, label, index). Classes are merged by (rank + offset) / size,
    with one uniform offset a class, so that any beginning holds close to each class's share (the expected count is
    proportional, and equal classes differ by at most one). `balanced` drops the size: one item of each class a round,
    until a class is used up. `backwards` walks each class from its other end, which keeps two draws apart.
    """
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        base = address("dataset", seed, int(label))
        keys = keys_for(base, torch.arange(len(members))).numpy()
        offset = uniform(keys_for(base, torch.tensor([-1])), 1).item()
        rank = np.argsort(np.argsort(-keys if backwards else keys))
        place[members] = (rank + offset) / (1 if balanced else len(members))
    return np.argsort(place, kind="stable")


def _length(table: Labelled | Asked) -> int:
    return int(table.rows["image"].max()) + 1 if isinstance(table, Asked) and len(table.rows) else len(table.rows)


def _chosen(source: Source, table: Labelled | Asked, split: str, positions: np.ndarray) -> Dataset | QuestionSet:
    if isinstance(table, Asked):
        return QuestionSet(source.name, table.task, *table.chosen(positions), canonical_split(split))
    images = table.fetch(positions)
    return Dataset(source.name, table.rows.iloc[positions], table.class_names, images, canonical_split(split))
