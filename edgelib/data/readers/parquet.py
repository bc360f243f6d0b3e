"""Folders of parquet files as the hub lays them out: configurations, splits and numbered shards.

Which file is of which configuration and split stands in the front matter of the data set's README.md, or else in the
names of files and folders: `data/test-00000-of-00003.parquet`, `Full/popular-00000-of-00001.parquet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgelib.data.question_tables import Asked
from edgelib.data.readers.arrow import parquet_rows, read_arrow
from edgelib.data.readers.sources import SHARD, UNSPLIT, Labelled, Options, Source, canonical_split, split_in_name
from edgelib.errors import EdgelibError, did_you_mean
from edgelib.ground.records import parse_yaml

DEFAULT, _DATA = "default", "data"  # the usual configuration, and the folder in which its files lie
Splits = dict[str, list[Path]]


def open_parquet(files: Sequence[Path], root: Path, config: str | None = None) -> Source:
    """Open parquet files below a folder, or one such file.

    config: which configuration, where there are several; None is the default one. Raises EdgelibError for a
    configuration that is not there, for several without a default, for files of no split, and for missing shards.
    """
    name = root.stem if root.is_file() else root.name
    splits = _chosen(_configurations(files, root), name, config)
    for parts in splits.values():
        _refuse_gaps(parts)
    return Source(name, {split: partial(_read, parts, split) for split, parts in splits.items()})


def _read(files: Sequence[Path], split: str, options: Options) -> Labelled | Asked:
    return read_arrow(parquet_rows(files), split, options, files[0].name)


def _configurations(files: Sequence[Path], root: Path) -> dict[str, Splits]:
    if root.is_file():
        return {DEFAULT: {split_in_name(root.stem) or UNSPLIT: [root]}}
    described = _described(root)
    if described:
        return described
    found: dict[str, Splits] = {}
    for file in files:
        folders = file.relative_to(root).parts[:-1]
        config = "/".join(part for part in folders if part != _DATA and split_in_name(part) is None) or DEFAULT
        split = next((s for s in map(split_in_name, (file.stem, *reversed(folders))) if s), "")
        found.setdefault(config, {}).setdefault(split, []).append(file)
    for splits in found.values():
        strangers = splits.pop("", [])
        if strangers and splits:
            raise EdgelibError(
                f"{root.name!r} holds splits ({', '.join(splits)}), and files of none: "
                f"{', '.join(file.name for file in strangers[:4])}; point to one file, or name files by split"
            )
        if strangers:
            splits[UNSPLIT] = strangers
    return found


def _described(root: Path) -> dict[str, Splits]:
    """Files by configuration and split, as the README of a data set says; empty if it says nothing."""
    readme = root / "README.md"
    lines = readme.read_text(encoding="utf-8", errors="replace").splitlines() if readme.is_file() else []
    if not lines or lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        return {}
    end = next(i for i, line in enumerate(lines[1:], 1) if line.strip() == "---")
    try:
        card = parse_yaml("\n".join(lines[1:end]), readme.name)
    except EdgelibError:
        return {}  # names of files and folders then say enough, or the error will name them
    entries = card.get("configs") if isinstance(card, dict) else None
    entries = [e for e in entries or [] if isinstance(e, dict) and "config_name" in e]
    configs: dict[str, Splits] = {}
    for entry in sorted(entries, key=lambda e: not e.get("default")):
        splits: Splits = {}
        for split, pattern in _patterns(entry.get("data_files")):
            try:
                there = sorted(f for f in root.glob(pattern) if f.suffix == ".parquet")
            except (ValueError, NotImplementedError):  # a pattern that Python does not know, such as "a**"
                there = []
            if there:
                splits.setdefault(canonical_split(split), []).extend(there)
        if splits:
            configs[DEFAULT if entry.get("default") else str(entry["config_name"])] = splits
    return configs


def _patterns(data_files: Any) -> list[tuple[str, str]]:
    """(split, pattern) of what a README names as `data_files`: a text, texts, or records of a split and its paths."""
    found = []
    for entry in data_files if isinstance(data_files, list) else [data_files]:
        paths = entry.get("path") if isinstance(entry, dict) else entry
        split = str(entry.get("split", "train")) if isinstance(entry, dict) else "train"
        for path in paths if isinstance(paths, list) else [paths]:
            if isinstance(path, str) and path and not path.startswith(("/", "..")) and "/.." not in path:
                found.append((split, path))
    return found


def _chosen(configs: dict[str, Splits], name: str, config: str | None) -> Splits:
    if config is None and len(configs) > 1 and DEFAULT not in configs:
        raise EdgelibError(
            f"{name!r} holds several data sets ({', '.join(sorted(configs))}); name one of them, as in "
            f"'{name}:{sorted(configs)[0]}', or point to its files"
        )
    wanted = config or (DEFAULT if DEFAULT in configs else next(iter(configs)))
    if wanted not in configs:
        raise EdgelibError(
            f"{name!r} has no configuration {wanted!r}{did_you_mean(wanted, configs)}; present: "
            f"{', '.join(sorted(configs))}"
        )
    return configs[wanted]


def _refuse_gaps(files: Sequence[Path]) -> None:
    """Raise EdgelibError if shards are missing: a result on some of a split would pass for one on all of it."""
    shards = [shard for shard in (SHARD.fullmatch(file.stem) for file in files) if shard]
    count = max((int(shard["count"]) for shard in shards), default=0)
    missing = sorted(set(range(count)) - {int(shard["place"]) for shard in shards})
    if missing:
        raise EdgelibError(
            f"{files[0].parent.name!r} holds {count - len(missing)} of the {count} files of its split "
            f"{shards[0]['split']!r}: number {missing[0]:05d} is missing; download the rest, or rename the files that "
            "are there if a part is meant"
        )
