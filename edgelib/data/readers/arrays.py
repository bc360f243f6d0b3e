"""Arrays in npy files and npz archives: headers first, then only what is needed, never more than is there.

A header is some hundred bytes that claim a type and a shape. It is believed when the file holds exactly as many bytes,
and followed when they fit into memory; nothing is allocated before. Pickled objects are refused: reading them could run
code. Arrays that are not compressed are read image by image, so that a large one need not fit into memory.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from edgelib.data.images import image_axes, images_from_array, require_bytes
from edgelib.data.streams import Stream, held
from edgelib.errors import EdgelibError
from edgelib.ground.memory import free_bytes, in_units, require_free

_HEADER = 2**16  # bytes in which a header must end; numpy's own have about a hundred
_CHUNK = 2**20
_MOST_GROWTH = 1032  # of a deflated byte, by its format
_SPARSE = 64  # times that a file system may make a file smaller
_SAMPLE = 64  # images that are looked at to say what is wrong with their type
_BROKEN = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError, ValueError)
_FIX = "restore the file, or save it again with numpy.savez"


@dataclass(frozen=True)
class Stored:
    """An array on disk: what its header says, and how to read it.

    name: of the array, what errors call it; file: that holds it; offset: of its first byte in the file, -1 for a member
    of an archive that is compressed.
    """

    name: str
    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    offset: int
    member: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> np.ndarray:
        """The whole array. Raises EdgelibError for objects, for more than memory holds and for damaged values."""
        self.require_plain()
        require_free(
            2 * self.nbytes,  # once here, and once as what it becomes
            f"twice the array {self.name!r} of {self.file.name} {list(self.shape)}",
            "save fewer rows, or images with numpy.savez, which are read one by one, or as files in class folders",
        )
        with self._guarded():
            values = np.empty(self.nbytes, np.uint8)
            with self._opened() as source:
                _fill(source, values.data)
            array = values.view(self.dtype) if self.nbytes else np.empty(0, self.dtype)
            return array.reshape(self.shape, order="F" if self.fortran else "C")

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """array[positions], reading these rows alone; of an array that `can_seek`."""
        row = self.nbytes // max(1, self.shape[0])
        values = np.empty((len(positions), row), np.uint8)
        with self._guarded(), self.file.open("rb") as source:
            for position, own in zip(positions.tolist(), values, strict=True):
                source.seek(self.offset + position * row)
                _fill(source, own.data)
        return values.view(self.dtype).reshape(len(positions), *self.shape[1:])

    @property
    def can_seek(self) -> bool:
        """Whether single rows can be read."""
        return self.offset >= 0 and not self.fortran and len(self.shape) > 0 and self.nbytes > 0

    def require_plain(self) -> None:
        """Raise EdgelibError for pickled objects."""
        if self.dtype.hasobject:
            raise EdgelibError(
                f"array {self.name!r} of {self.file.name} holds pickled objects, which are refused because reading "
                "them can run code: save images and labels as plain numbers, and texts as numpy.array(texts, dtype='U')"
            )

    def require_whole(self) -> None:
        """Raise EdgelibError if a member of an archive does not have the checksum that was saved with it."""
        if not self.member:
            return
        with self._guarded(), self._opened() as source:
            while source.read(_CHUNK):
                pass

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        """The bytes of the values; those of an archive are checked against its checksum where they end."""
        if not self.member:
            with self.file.open("rb") as source:
                source.seek(self.offset)
                yield source
            return
        with zipfile.ZipFile(self.file) as archive, archive.open(self.member) as source:
            _header(source, self.name, self.file)
            yield source

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except EdgelibError:
            raise
        except _BROKEN as error:
            raise _unreadable(self.file, f"array {self.name!r}: {error}") from error


def open_arrays(file: Path) -> dict[str, Stored]:
    """The arrays of an npz archive, or the one of an npy file under its stem, by name; only headers are read.

    Raises EdgelibError for a file that is neither, for two arrays of one name, and for headers that are damaged or
    claim another number of bytes than the file holds.
    """
    try:
        _require_filled(file)
        if file.suffix.lower() == ".npy":
            with file.open("rb") as source:
                return {file.stem: _stored(source, file.stem, file, file.stat().st_size, seekable=0)}
        with zipfile.ZipFile(file) as archive:
            return dict(_members(archive, file))
    except EdgelibError:
        raise
    except _BROKEN as error:
        raise _unreadable(file, str(error)) from error


def _require_filled(file: Path) -> None:
    """Raise EdgelibError for a file whose size is beyond memory while the disk holds hardly anything of it."""
    told = file.stat()
    there = getattr(told, "st_blocks", told.st_size) * 512
    if told.st_size > free_bytes() and there * _SPARSE < told.st_size:
        raise _unreadable(file, f"it claims {in_units(told.st_size)}, and the disk holds {in_units(there)} of it")


def _members(archive: zipfile.ZipFile, file: Path) -> Iterator[tuple[str, Stored]]:
    size, met = file.stat().st_size, set()
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name == info.filename:
            continue
        if name in met:
            raise _unreadable(file, f"it holds two arrays called {name!r}")
        met.add(name)
        growth = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _MOST_GROWTH}.get(info.compress_type)
        if growth and info.file_size > growth * min(info.compress_size, size) + (growth > 1) * _HEADER:
            raise _unreadable(file, f"array {name!r} claims {in_units(info.file_size)}, and {in_units(size)} are there")
        start = _data_start(archive, info) if info.compress_type == zipfile.ZIP_STORED else -1
        with archive.open(info) as source:
            yield name, _stored(source, name, file, info.file_size, seekable=start, member=info.filename)


def _data_start(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member that is not compressed begin in the archive: behind its own header."""
    source = archive.fp
    assert source is not None  # the archive is open
    source.seek(info.header_offset)
    own = source.read(30)
    return info.header_offset + 30 + int.from_bytes(own[26:28], "little") + int.from_bytes(own[28:30], "little")


def _stored(source: IO[bytes], name: str, file: Path, size: int, seekable: int, member: str = "") -> Stored:
    """What a header says. size: bytes of header and values; seekable: where they begin in the file, -1 for nowhere."""
    dtype, shape, fortran, length = _header(source, name, file)
    offset = seekable + length if seekable >= 0 else -1
    found = Stored(name, file, dtype, shape, fortran, offset, member)
    if not dtype.hasobject and found.nbytes != size - length:
        claimed = f"{in_units(found.nbytes)}, {list(shape)} of {dtype}"
        raise _unreadable(file, f"array {name!r} claims {claimed}, and holds {in_units(size - length)}")
    return found


def _header(source: IO[bytes], name: str, file: Path) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """dtype, shape and order of an array, and the length of its header; the source then stands at its values."""
    head = source.read(12)
    wide = head[6:7] > b"\x01"
    length = int.from_bytes(head[8:12] if wide else head[8:10], "little") + (12 if wide else 10)
    if length > _HEADER or not head.startswith(np.lib.format.MAGIC_PREFIX):
        raise _unreadable(file, f"array {name!r} does not begin as one that numpy saved")
    copy = io.BytesIO(head + source.read(length - len(head)))
    try:
        version = np.lib.format.read_magic(copy)
        read = np.lib.format.read_array_header_2_0 if version == (2, 0) else np.lib.format.read_array_header_1_0
        shape, fortran, dtype = read(copy)
    except Exception as error:  # numpy's parser raises many types on damaged headers
        raise _unreadable(file, f"the header of array {name!r} is damaged ({type(error).__name__})") from error
    if version not in ((1, 0), (2, 0)) or any(side < 0 for side in shape):
        raise _unreadable(file, f"the header of array {name!r} is damaged: version {version}, shape {list(shape)}")
    return dtype, tuple(int(side) for side in shape), bool(fortran), length


def _fill(source: IO[bytes], values: memoryview) -> None:
    """Read as many bytes as `values` has, and one more from an archive, which then compares its checksum."""
    done = 0
    while done < len(values):
        part = source.read(min(_CHUNK, len(values) - done))
        if not part:
            raise EOFError(f"it ends after {done:,} of {len(values):,} bytes")
        values[done : done + len(part)] = part
        done += len(part)
    if isinstance(source, zipfile.ZipExtFile) and source.read(1):
        raise EOFError("it holds more than its header says")


def _unreadable(file: Path, reason: str) -> EdgelibError:
    return EdgelibError(f"{file.name} is not readable: {' '.join(reason.split())[:300]}; {_FIX}")


@dataclass(frozen=True)
class _Rows:
    """Reads images of an array on disk: places [n] -> uint8 [n, 3, H, W]."""

    array: Stored

    def __call__(self, places: np.ndarray) -> Tensor:
        return _as_images(self.array.rows(places), self.array.file.name)


@dataclass(frozen=True)
class _Kept:
    """Images of an array in memory: places [n] -> uint8 [n, 3, H, W]."""

    array: np.ndarray
    where: str

    def __call__(self, places: np.ndarray) -> Tensor:
        return _as_images(self.array[places], self.where)


def _as_images(array: np.ndarray, where: str) -> Tensor:
    return torch.from_numpy(np.array(images_from_array(array, where).transpose(0, 3, 1, 2), order="C"))


def array_images(array: Stored, where: str) -> Callable[[np.ndarray], Tensor | Stream]:
    """A function that fetches images by place: one tensor of few, else a stream that reads them when they are indexed.

    Raises EdgelibError, before any value is read, for arrays that hold no images.
    """
    array.require_plain()
    require_bytes(array.dtype, where, lambda: _some(array))
    height, width, _ = image_axes(array.shape, where)
    if array.can_seek:
        array.require_whole()
    make = _Rows(array) if array.can_seek else _Kept(array.read(), where)
    return lambda places: held(Stream(make, np.asarray(places, np.int64), (height, width)))


def _some(array: Stored) -> np.ndarray:
    return array.rows(np.arange(min(_SAMPLE, array.shape[0]))) if array.can_seek else array.read()
