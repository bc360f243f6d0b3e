"""Calibration sets: images that a quantizer may look at, never those a model is scored on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from edgelib.data.datasets import drawing_order, open_source, options_of
from edgelib.data.images import Images, image_digests, pack_images, select_images, size_batches
from edgelib.data.labelled import IMAGE_SEEN, TEXT_SEEN, Dataset
from edgelib.data.mixes import DARK_GAIN, MIXES, Change, Mix, change_of, mix_table, parse_mix
from edgelib.data.question_mixes import candidates, question_calibration, refuse_classes
from edgelib.data.question_tables import Asked
from edgelib.data.questions import QuestionSet
from edgelib.data.readers.sources import UNSPLIT, Labelled, Options, source_name
from edgelib.data.scenes.captions import item_texts
from edgelib.data.scenes.sets import GENERATED, QUESTIONS
from edgelib.errors import EdgelibError, did_you_mean
from edgelib.ground.checks import seed_number, whole_number
from edgelib.ground.randomness import address, keys_for, uniform

__all__ = ["DARK_GAIN", "MIXES", "calibration_set", "mix_table", "parse_mix"]

_GENERATED_POOL = 4096  # scenes a draw can choose from; only those drawn are rendered
_QUESTION_POOL = {None: 2, "english": 2, "german": 8}  # images for each question, all rendered; few are in German
_STREAMED = 4  # items to choose from for each that is drawn, of a source that streams
_POOL_SHARE = {"balanced": 4, "uniform": 4, "one class": 16}  # scenes to choose from for each that is drawn


def calibration_set(
    mix: str,
    n: int = 128,
    seed: int = 0,
    source: str | os.PathLike | Dataset | QuestionSet | None = None,
    *,
    exclude: Dataset | QuestionSet | None = None,
    offline: bool = False,
    label_column: str | None = None,
    image_column: str | None = None,
    columns: Mapping[str, str] | None = None,
    images: str | os.PathLike | None = None,
) -> Dataset | QuestionSet:
    """Draw n items of a data set for a quantizer to look at, as `mix` says.

    mix: a name of `MIXES`, which `mix_table` prints. "balanced", "dark" (a quarter of the brightness), "gray" (luma
        only) and "noise" (uniform noise of the same sizes) are the four of EdgeVLM-Bench. "clean" draws every item with
        equal chance, "single-class[:CLASS]" one class, "corrupted[:CORRUPTION|all[:SEVERITY]]" corrupts. In these the
        text tower reads one prompt per class. "vision-heavy", "text-heavy", "vision-only" and "text-only" share the
        items between the towers; "english" and "second-language" (German) give both towers every item. Equal n and
        seed start from the same items, but for "clean" and "single-class".
    seed: which images are drawn; the first k of a draw of n are the draw of k.
    source: a data set's name or path, read from its "train" split, or a Dataset to draw from, where names or columns
        must be given; default "scenes". A source without a training split is drawn from the split of `exclude`, or
        "test", from the far end of the order in which `dataset` draws them with the same seed. Whenever scored items
        come from the same split, pass them as `exclude` to be sure that the two stay apart; the rows' `split` column
        says which it was.
    exclude: a Dataset whose images are not drawn; equality is by pixels, so it holds across files and splits.

    offline, label_column, image_column, columns, images: as `dataset` takes them.

    Of a source of questions, n questions are drawn for a model that writes, which reads each with its reference answer.
    "balanced" lets sub-tasks, question types or categories take turns, "text-only" asks without images, "vision-only"
    shows images without a question, and "english" and "second-language" choose by a column `language`, or take the
    sub-task text_translation of MME for the second language, so that "balanced" mixes the two.

    Where the towers see different things of an item, the rows say so: `image_seen` (bool) and `text_seen` (the text,
    empty for none). Texts are those of `item_texts`.

    Raises EdgelibError for an unknown mix, argument or class, n below 1, fewer than n images left, and whatever
    `dataset` raises.
    """
    how = (offline, label_column, image_column, columns, images)
    kind, argument, name, split, pool = _asked(mix, n, seed, source, exclude, *how)
    if isinstance(pool, Asked):
        base = address("calibration", mix.partition(":")[0], seed)
        change = partial(_changed, change=change_of(kind, mix, argument, seed), base=base)
        return question_calibration(name, split, pool, kind, mix, n, seed, exclude, change, _spread)
    order, of_class = _order(kind, argument, pool, name, seed)
    positions = order[:n] if exclude is None else _held_out(pool, order, n, exclude)
    _require_enough(n, len(positions), "images", name, split, of_class, exclude)
    base = address("calibration", mix.partition(":")[0], seed)
    shown = _changed(pool.fetch(positions), change_of(kind, mix, argument, seed), base)
    rows = pool.rows.iloc[positions].assign(split=split)
    if kind.language is not None:
        rows = _shared(kind, rows, pool.class_names, seed)
    return Dataset(f"{name} ({mix})", rows, pool.class_names, shown, split)


def require_calibration(
    mix: str,
    n: int,
    seed: int,
    source: str | os.PathLike,
    *,
    exclude: Dataset | QuestionSet | None,
    offline: bool = False,
    label_column: str | None = None,
    image_column: str | None = None,
    columns: Mapping[str, str] | None = None,
    images: str | os.PathLike | None = None,
) -> None:
    """Raise EdgelibError where `calibration_set` would, as far as tables tell before an image is decoded.

    Arguments as there. Of images that are excluded, those of the same split are known by name here, by pixels there.
    A generated set has always enough.
    """
    if source in GENERATED:
        kind, _ = parse_mix(mix)
        if source in QUESTIONS:
            refuse_classes(kind, mix)
        return
    how = (offline, label_column, image_column, columns, images)
    kind, argument, name, split, pool = _asked(mix, n, seed, source, exclude, *how)
    told = "image_id" if isinstance(pool, Asked) else "item"
    taken = () if exclude is None or exclude.split != split else exclude.rows[told]
    if isinstance(pool, Asked):
        left = int((~candidates(pool, name, kind, mix, seed)[told].isin(taken)).sum())
        _require_enough(n, left, "questions", name, split, f" for {mix!r}", exclude)
        return
    order, of_class = _order(kind, argument, pool, name, seed)
    left = int((~pool.rows[told].iloc[order].isin(taken)).sum())
    _require_enough(n, left, "images", name, split, of_class, exclude)


def _asked(
    mix: str,
    n: int,
    seed: int,
    source: str | os.PathLike | Dataset | QuestionSet | None,
    exclude: Dataset | QuestionSet | None,
    offline: bool,
    label_column: str | None,
    image_column: str | None,
    columns: Mapping[str, str] | None,
    images: str | os.PathLike | None,
) -> tuple[Mix, str, str, str, Labelled | Asked]:
    """The mix and its argument, and the name, split and items of the pool that is drawn from."""
    kind, argument = parse_mix(mix)
    n, seed = whole_number(n, "n", at_least=1), seed_number(seed)
    if not isinstance(exclude, Dataset | QuestionSet | None):
        raise EdgelibError(f"exclude must be a Dataset, as dataset(...) returns it, got {type(exclude).__name__}")
    length = max(_GENERATED_POOL, _POOL_SHARE[kind.draw] * n)
    length = n * _QUESTION_POOL[kind.language if kind.paired else None] if source in QUESTIONS else length
    told = source if isinstance(source, str) else ""
    options = options_of(told, image_column, label_column, columns=columns, images=images)
    options = replace(options, most=_STREAMED * n + (0 if exclude is None else len(exclude.images)))
    fallback = UNSPLIT if exclude is None else exclude.split
    return kind, argument, *_pool("scenes" if source is None else source, length, offline, options, fallback)


def _require_enough(
    n: int, left: int, items: str, name: str, split: str, of_what: str, exclude: Dataset | QuestionSet | None
) -> None:
    if left < n:
        held = "" if exclude is None else f" outside {exclude.name!r}, which is excluded"
        raise EdgelibError(
            f"n={n} calibration {items} were asked of {name!r}, whose split {split!r} has {left}{of_what}{held}; ask "
            "for at most that many"
        )


def _order(mix: Mix, argument: str, pool: Labelled, name: str, seed: int) -> tuple[np.ndarray, str]:
    """Positions in the order in which the mix draws them, and words that say which class they are of, if one."""
    labels = pool.rows["label"].to_numpy()
    order = drawing_order(labels, seed, balanced=mix.draw != "uniform", backwards=True)
    if mix.draw != "one class":
        return order, ""
    if argument and argument not in pool.class_names:
        hint = did_you_mean(argument, pool.class_names)
        listed = ", ".join(pool.class_names[:20])
        raise EdgelibError(f"data set {name!r} has no class {argument!r}{hint}; classes: {listed}")
    present = np.unique(labels)
    drawn = uniform(keys_for(address("calibration class", seed), torch.zeros(1)), 1).item()
    label = pool.class_names.index(argument) if argument else present[int(drawn * len(present))]
    return order[labels[order] == label], f" of class {pool.class_names[label]!r}"


def _shared(mix: Mix, rows: pd.DataFrame, class_names: tuple[str, ...], seed: int) -> pd.DataFrame:
    """Say of each row what the towers see of it; item i has the keys of (seed, i), so a longer draw begins alike."""
    index = torch.arange(len(rows))
    draw = uniform(keys_for(address("calibration texts", seed), index), 1)[:, 0].double().numpy()
    texts = np.array(item_texts(rows, class_names, draw, str(mix.language)), dtype="O")
    seen = _spread(mix.image_share, len(rows), seed)
    if not mix.paired:
        texts[seen] = ""
    return rows.assign(**{IMAGE_SEEN: seen, TEXT_SEEN: texts})


def _spread(share: float, n: int, seed: int) -> np.ndarray:
    """Which of n items have it, bool [n]: in every eight, the same number at random places; share is k / 8."""
    blocks = -(-n // 8)
    keys = keys_for(address("calibration towers", seed), torch.arange(8 * blocks)).view(blocks, 8)
    rank = keys.argsort(dim=1).argsort(dim=1)
    return (rank < round(8 * share)).flatten()[:n].numpy()


def _pool(
    source: str | os.PathLike | Dataset | QuestionSet, length: int, offline: bool, options: Options, fallback: str
) -> tuple[str, str, Labelled | Asked]:
    """Name, split and items that a calibration set may be drawn from: the training split, or `fallback`."""
    if isinstance(source, QuestionSet):
        return source.name, source.split, Asked(source.task, source.rows, partial(select_images, source.images))
    if isinstance(source, Dataset):
        pool = Labelled(source.rows, source.class_names, partial(select_images, source.images))
        return source.name, source.split, pool
    source = source_name(source)
    opened = GENERATED[source](length, 0) if source in GENERATED else open_source(source, offline)
    split = "train" if "train" in opened.splits else fallback if fallback in opened.splits else UNSPLIT
    try:
        return opened.name, split, opened.read(split, options)
    except EdgelibError as error:
        if split == fallback or fallback not in opened.splits:
            raise
        raise EdgelibError(
            f"{error}. Calibration reads the split {split!r} where there is one; move its files away to draw from what "
            f"is not scored of {fallback!r}"
        ) from None


def _held_out(pool: Labelled, order: np.ndarray, n: int, exclude: Dataset | QuestionSet) -> np.ndarray:
    """The first n positions in order whose pixels are not those of an excluded image; fewer if no more are left."""
    seen, kept = set(image_digests(exclude.images)), []
    for start in range(0, len(order), n):
        some = order[start : start + n]
        kept += [p for p, digest in zip(some, image_digests(pool.fetch(some)), strict=True) if digest not in seen]
        if len(kept) >= n:
            break
    return np.array(kept[:n], dtype=np.int64)


def _changed(images: Images, change: Change, base: int) -> Images:
    """Apply a mix to images of any sizes; image i has the key of (base, i)."""
    keys = keys_for(base, torch.arange(len(images)))
    done: list[Tensor] = [torch.empty(0)] * len(images)
    for positions in size_batches(images, 64):
        for position, image in zip(positions.tolist(), change(images[positions], keys[positions]), strict=True):
            done[position] = image
    return pack_images(done, [f"{i} of the calibration set" for i in range(len(done))])
