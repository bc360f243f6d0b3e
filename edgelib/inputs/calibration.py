"""Calibration sets: images that a quantizer may look at, never those a model is scored on."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from edgelib.errors import EdgelibError, choose
from edgelib.inputs.columns import UNSPLIT, Labelled, Options, source_name, whole_number
from edgelib.inputs.datasets import Dataset, drawing_order, open_source
from edgelib.inputs.generated import GENERATED
from edgelib.inputs.image_store import Images, image_digests, pack_images, select_images, size_batches
from edgelib.inputs.randomness import address, keys_for, uniform

DARK_GAIN = 0.25  # two photographic stops
_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # luma of ITU-R BT.601
_GENERATED_POOL = 4096  # scenes a draw can choose from; only those drawn are rendered


def balanced(images: Tensor, keys: Tensor) -> Tensor:
    """The images as they are."""
    return images


def dark(images: Tensor, keys: Tensor) -> Tensor:
    """The images at a quarter of their brightness."""
    return (images.float() * DARK_GAIN).round().to(torch.uint8)


def gray(images: Tensor, keys: Tensor) -> Tensor:
    """The images without colour: luma in all three channels."""
    weights = torch.tensor(_GREY_WEIGHTS).view(3, 1, 1)
    return (images * weights).sum(1, keepdim=True).round().to(torch.uint8).expand_as(images).contiguous()


def noise(images: Tensor, keys: Tensor) -> Tensor:
    """Uniform noise over 0..255 in the images' place, of their sizes; their labels then mean nothing."""
    return (uniform(keys, images[0].numel()) * 256).to(torch.uint8).view_as(images)


# Mix name -> function of (images uint8 [n, 3, H, W], one int64 key per image [n]) -> images of the same shape.
Mix = Callable[[Tensor, Tensor], Tensor]
MIXES: dict[str, Mix] = {"balanced": balanced, "dark": dark, "gray": gray, "noise": noise}


def calibration_set(
    mix: str,
    n: int = 128,
    seed: int = 0,
    source: str | os.PathLike | Dataset | None = None,
    *,
    exclude: Dataset | None = None,
    offline: bool = False,
    label_column: str | None = None,
    image_column: str | None = None,
) -> Dataset:
    """Draw n images, as many of each class as there are, and change them as `mix` says.

    mix: "balanced" (unchanged), "dark" (a quarter of the brightness), "gray" (luma only) or "noise" (uniform noise of
        the same sizes), the four of EdgeVLM-Bench; equal n and seed start all of them from the same images.
    seed: which images are drawn; the first k of a draw of n are the draw of k.
    source: a data set's name or path, read from its "train" split, or a Dataset to draw from, where names or columns
        must be given; default "scenes". A source without a training split is drawn from its "test" items, from the
        far end of the order in which `dataset` draws them with the same seed. Whenever scored items come from the same
        split, pass them as `exclude` to be sure that the two stay apart; the rows' `split` column says which it was.
    exclude: a Dataset whose images are not drawn; equality is by pixels, so it holds across files and splits.

    offline, label_column, image_column: as `dataset` takes them.

    Raises EdgelibError for an unknown mix, n below 1, fewer than n images left, and whatever `dataset` raises.
    """
    change = choose(MIXES, mix, "calibration mix")
    n, seed = whole_number(n, "n", at_least=1), whole_number(seed, "seed")
    if not isinstance(exclude, Dataset | None):
        raise EdgelibError(f"exclude must be a Dataset, as dataset(...) returns it, got {type(exclude).__name__}")
    name, split, pool = _pool("scenes" if source is None else source, n, offline, Options(image_column, label_column))
    order = drawing_order(pool.rows["label"].to_numpy(), seed, balanced=True, backwards=True)
    positions = order[:n] if exclude is None else _held_out(pool, order, n, exclude)
    if len(positions) < n:
        held = "" if exclude is None else f" outside {exclude.name!r}, which is excluded"
        raise EdgelibError(
            f"n={n} calibration images were asked of {name!r}, whose split {split!r} has {len(positions)}{held}; "
            "ask for at most that many"
        )
    images = _changed(pool.fetch(positions), change, address("calibration", mix, seed))
    rows = pool.rows.iloc[positions].assign(split=split)
    return Dataset(f"{name} ({mix})", rows, pool.class_names, images, split)


def _pool(source: str | os.PathLike | Dataset, n: int, offline: bool, options: Options) -> tuple[str, str, Labelled]:
    """Name, split and items that a calibration set may be drawn from."""
    if isinstance(source, Dataset):
        pool = Labelled(source.rows, source.class_names, partial(select_images, source.images))
        return source.name, source.split, pool
    source = source_name(source)
    opened = GENERATED[source](max(_GENERATED_POOL, 4 * n), 0) if source in GENERATED else open_source(source, offline)
    split = "train" if "train" in opened.splits else UNSPLIT
    return opened.name, split, opened.read(split, options)


def _held_out(pool: Labelled, order: np.ndarray, n: int, exclude: Dataset) -> np.ndarray:
    """The first n positions in order whose pixels are not those of an excluded image; fewer if no more are left."""
    seen, kept = set(image_digests(exclude.images)), []
    for start in range(0, len(order), n):
        some = order[start : start + n]
        kept += [p for p, digest in zip(some, image_digests(pool.fetch(some)), strict=True) if digest not in seen]
        if len(kept) >= n:
            break
    return np.array(kept[:n], dtype=np.int64)


def _changed(images: Images, change: Mix, base: int) -> Images:
    """Apply a mix to images of any sizes; image i has the key of (base, i)."""
    keys = keys_for(base, torch.arange(len(images)))
    done: list[Tensor] = [torch.empty(0)] * len(images)
    for positions in size_batches(images, 64):
        for position, image in zip(positions.tolist(), change(images[positions], keys[positions]), strict=True):
            done[position] = image
    return pack_images(done, [f"{i} of the calibration set" for i in range(len(done))])
