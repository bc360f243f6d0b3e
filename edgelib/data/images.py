"""Images as one indexable object: a uint8 tensor when they share a size and are few, else made when asked.

Every image that leaves this file is uint8, [3, H, W], RGB. Files are turned upright by their EXIF
orientation (JPEG, TIFF, WebP), grey images get three equal channels, and transparency is dropped, as CLIP's
own preprocessing does. What a file is, its content says, not its name. Refused, by name: files of several pictures,
channels of more than 8 bits, files whose checksums are wrong, and more pixels than Pillow takes for one image.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from edgelib.data.streams import Stream, held
from edgelib.errors import EdgelibError

_EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_ORIENTED_FORMATS = ("JPEG", "MPO", "TIFF", "WEBP")  # asking a PNG for its orientation would decode it
_ORIENTATION_TAG, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
_THREADS = min(4, os.cpu_count() or 1)
# Of what Pillow knows: no kind that starts another program, as EPS does.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")
_STILLS = "MPO"  # a photograph with others behind it, for depth or brightness, that no viewer shows


def image_axes(shape: tuple[int, ...], where: str) -> tuple[int, int, bool]:
    """Height and width of arrays of images, and whether their channels come before them.

    Takes [N, H, W, 3], [N, 3, H, W], [N, H, W, 1], [N, 1, H, W] or [N, H, W]. Raises EdgelibError for another shape or
    channel count, saying how to convert, and for images of more pixels than one may have.
    """
    full = (*shape, 1) if len(shape) == 3 else shape
    if len(full) != 4 or 0 in full[1:]:
        raise EdgelibError(
            f"images of {where} have shape {shape}, expected [N, H, W, 3], [N, 3, H, W] or grey [N, H, W]; "
            "stack images of one size along the first axis, or save images of several sizes as files in class folders"
        )
    first, last = full[1] in (1, 3), full[3] in (1, 3)
    if first == last:
        problem = "both axis 1 and axis 3 could hold the channels" if first else "no axis holds 1 or 3 channels"
        raise EdgelibError(f"images of {where} have shape {full}: {problem}; save them as RGB [N, H, W, 3]")
    height, width = full[2:] if first else full[1:3]
    size = _too_many(width, height)
    if size:
        raise EdgelibError(f"images of {where} have {size}")
    return height, width, first


def images_from_array(array: np.ndarray, where: str) -> np.ndarray:
    """Return the array as uint8 [N, H, W, 3] (a view where it can be), from any of the shapes of `image_axes`.

    Raises EdgelibError for another dtype or shape, saying how to convert.
    """
    require_bytes(array.dtype, where, lambda: array)
    first = image_axes(array.shape, where)[2]
    array = array[..., None] if array.ndim == 3 else array
    array = array.transpose(0, 2, 3, 1) if first else array
    return np.broadcast_to(array, (*array.shape[:3], 3))


def require_bytes(dtype: np.dtype, where: str, some: Callable[[], np.ndarray]) -> None:
    """Raise EdgelibError unless images have the dtype uint8; what `some` of them hold decides which fix is named."""
    if dtype != np.uint8:
        raise EdgelibError(f"images of {where} have dtype {dtype}, expected uint8 in 0..255; {_dtype_fix(some())}")


def _dtype_fix(array: np.ndarray) -> str:
    if array.dtype.kind != "f":
        return "if the values are in 0..255, save them with images.astype(numpy.uint8)"
    if array.size and not np.isfinite(array).all():
        return "they also hold NaN or infinite values: replace those first"
    if array.size and 0 <= array.min() and array.max() <= 1:
        return "they lie in [0, 1]: save (images * 255).round().astype(numpy.uint8)"
    return "undo any normalisation, then save images.round().clip(0, 255).astype(numpy.uint8)"


def _too_many(width: int, height: int) -> str | None:
    """What is wrong with a size that Pillow calls a decompression bomb; None for one that is all right."""
    most = Image.MAX_IMAGE_PIXELS
    if most is None or width * height <= most:
        return None
    return (
        f"{width:,} x {height:,} pixels, more than the {most:,} that one may have (Pillow's limit); save a smaller copy"
    )


def _open(cell: Path | bytes) -> Image.Image:
    """A picture whose header is read. Raises EdgelibError for one that is empty, of no known kind or too large."""
    if not (len(cell) if isinstance(cell, bytes) else cell.stat().st_size):
        raise EdgelibError("is empty (0 bytes); restore the file, or remove it from the data set")
    try:
        image = Image.open(io.BytesIO(cell) if isinstance(cell, bytes) else cell, formats=_FORMATS)
    except UnidentifiedImageError:
        raise EdgelibError(
            f"is no image of a kind that is read here ({', '.join(_FORMATS)}), whatever its name ends with; restore "
            "it, save it as PNG, or remove it from the data set"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise EdgelibError(
            f"has more pixels than one may have ({error}); save a smaller copy, or remove it from the data set"
        ) from None
    problem = _too_many(*image.size)
    if problem:
        image.close()
        raise EdgelibError(f"has {problem}, or remove it from the data set")
    return image


def _guarded(read: Callable[[Path | bytes | Tensor], object], cell: Path | bytes | Tensor, name: str):
    """Run read(cell); whatever a decoder raises on a broken file becomes one EdgelibError that names it."""
    try:
        return read(cell)
    except EdgelibError as error:
        raise EdgelibError(f"image {name} {error}") from None
    except Exception as error:  # image decoders raise many types on broken files
        reason = " ".join(str(error).partition(" <_io")[0].split())[:200]
        raise EdgelibError(
            f"image {name} cannot be decoded ({type(error).__name__}: {reason}); it is missing, truncated or not an "
            "image: restore the file, or remove it from the data set (nothing is skipped silently)"
        ) from error


def _size(cell: Path | bytes | Tensor) -> tuple[int, int]:
    """Height and width after turning upright, from the file's header alone."""
    if isinstance(cell, Tensor):
        return tuple(cell.shape[1:])
    with _open(cell) as image:
        width, height = image.size
        sideways = image.format in _ORIENTED_FORMATS and image.getexif().get(_ORIENTATION_TAG) in _SIDEWAYS
    return (width, height) if sideways else (height, width)


def _decode(cell: Path | bytes | Tensor) -> Tensor:
    if isinstance(cell, Tensor):
        return cell
    with _open(cell) as image:
        if image.mode not in _EIGHT_BIT_MODES:
            raise EdgelibError(
                f"has the pixel mode {image.mode!r}, not 8 bits a channel; convert it to 8-bit RGB first"
            )
        if image.format != _STILLS and getattr(image, "is_animated", False):
            raise EdgelibError(
                f"holds several pictures (an animated or many-page {image.format}); save the one that is meant as PNG"
            )
        upright = ImageOps.exif_transpose(image) if image.format in _ORIENTED_FORMATS else image
        if "transparency" in upright.info:
            upright = upright.convert("RGBA")
        return torch.from_numpy(np.array(upright.convert("RGB"))).permute(2, 0, 1)


@dataclass(frozen=True, eq=False)
class ImageList:
    """Images of any sizes: file paths, encoded bytes or uint8 tensors [3, H, W], decoded when indexed.

    `names` says in error messages which image it was.
    """

    cells: Sequence[Path | bytes | Tensor]
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every image. Raises EdgelibError naming a file that cannot be read."""
        return self._map(_size, range(len(self)))

    def __getitem__(self, positions: Sequence[int] | Tensor) -> Tensor:
        """Decode the images at `positions`, which share one size, into uint8 [n, 3, H, W]."""
        return torch.stack(self.decoded(positions)).contiguous()

    def decoded(self, positions: Sequence[int] | Tensor) -> list[Tensor]:
        """Decode the images at `positions` into uint8 tensors [3, H, W]. Raises EdgelibError naming a broken one."""
        return self._map(_decode, positions)

    def select(self, positions: Iterable[int]) -> ImageList:
        """The list of the images at `positions`, still not decoded."""
        chosen = list(positions)
        return ImageList([self.cells[i] for i in chosen], [self.names[i] for i in chosen])

    def _map(self, read: Callable, positions: Sequence[int] | Tensor) -> list:
        with ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(lambda i: _guarded(read, self.cells[i], self.names[i]), map(int, positions)))


Images: TypeAlias = Tensor | ImageList | Stream


def select_images(images: Images, positions: np.ndarray) -> Images:
    """The images at `positions`, in that order; no file is decoded."""
    if isinstance(images, Tensor):
        return images[torch.as_tensor(positions, dtype=torch.int64)]
    chosen = images.select(positions)
    return held(chosen) if isinstance(chosen, Stream) else chosen


def told_images(source: str, names: Sequence[str], positions: Tensor) -> str:
    """What errors call some images of a data set: the first by name and row, and how many come with it."""
    more = f" and {len(positions) - 1} more in its batch" if len(positions) > 1 else ""
    return f"image {next(iter(names))!r} of {source} (row {int(positions[0])}){more}"


def pack_images(images: list[Tensor], names: Sequence[str]) -> Images:
    """One uint8 tensor [N, 3, H, W] if all images share a size, else a list."""
    if len({image.shape for image in images}) == 1:
        return torch.stack(images)
    return ImageList(images, names)


def size_batches(images: Images, size: int) -> Iterator[Tensor]:
    """Yield positions (int64) of at most `size` images of one height and width; every image comes once.

    Images of a single size come in order; otherwise each size in turn, in the order of its first image.
    """
    if not isinstance(images, ImageList):
        groups = [torch.arange(len(images))]
    else:
        by_size: dict[tuple[int, int], list[int]] = {}
        for position, key in enumerate(images.sizes):
            by_size.setdefault(key, []).append(position)
        groups = [torch.tensor(group) for group in by_size.values()]
    for group in groups:
        yield from group.split(size)


def image_digests(images: Images) -> list[bytes]:
    """SHA-256 of the size and the pixels of each image; equal images have equal digests, however they are stored."""

    def digest(image: Tensor) -> bytes:
        header = f"{image.shape[1]}x{image.shape[2]}:".encode()
        return hashlib.sha256(header + image.contiguous().numpy().tobytes()).digest()

    digests: list[bytes] = [b""] * len(images)
    for positions in size_batches(images, 64):
        for position, image in zip(positions.tolist(), images[positions], strict=True):
            digests[position] = digest(image)
    return digests
