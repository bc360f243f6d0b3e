"""Where files of a store lie: a folder of this machine, written durably, or any URL that fsspec knows."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgelib.errors import EdgelibError
from edgelib.ground.paths import from_home
from edgelib.study.store.sealed import Damaged

_SCHEME = "://"
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # the last on Windows alone
# What the system answers where something else lies in the place of a file.
_NO_FILE = (errno.EISDIR, errno.ENOTDIR, errno.ENXIO, errno.ELOOP, errno.EIO)


class StoreError(EdgelibError):
    """A store that cannot be read or written now: nothing that computing again could mend."""


class Files(ABC):
    """Named bytes, each written whole or not at all. Names are relative, such as "ab/abcd.parquet"."""

    @abstractmethod
    def where(self, name: str) -> Any:
        """Path or URL of a file, for people."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The bytes of a file, None where there is none.

        Raises Damaged where something lies there that is no file, StoreError where it cannot be read now.
        """

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Put bytes in the place of whatever lies there. Raises StoreError where that cannot be done."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""

    @abstractmethod
    def names(self, ending: str) -> Iterator[str]:
        """Names of whatever lies there with an ending, files or not, sorted."""

    @abstractmethod
    def refusal(self) -> str | None:
        """Why nothing can be written here, None where it can."""


def files_at(place: str | Path, *, create: bool = True) -> Files:
    """The files in a folder, or below a URL such as s3://bucket/results.

    Raises StoreError for a folder that is not there and cannot be made (`create`), and a scheme without its package.
    """
    text = str(place)
    if text.startswith("file" + _SCHEME):
        text = text.removeprefix("file" + _SCHEME)
    if _SCHEME in text:
        return Remote(text)
    return Local(from_home(text), create=create)


class Local(Files):
    """A folder of this machine, or one that several machines share."""

    def __init__(self, folder: Path, *, create: bool = True):
        self.folder, self._root = folder, str(folder)
        try:
            if not folder.is_dir():
                if not create:
                    raise StoreError(f"no store at {str(folder)!r}; name the folder of results, which holds 'cells'")
                folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a name that no folder can have
            raise StoreError(_no_folder(folder, getattr(error, "strerror", None) or error)) from None

    def where(self, name: str) -> Path:
        """Path of a file."""
        return self.folder / name

    def read(self, name: str) -> bytes | None:
        """As `Files.read`; never waits for a pipe."""
        try:
            handle = os.open(os.path.join(self._root, name), _READ)  # a Path would take longer than the file
        except FileNotFoundError:
            if os.path.lexists(self.folder / name):
                raise Damaged("it is a link to nothing") from None
            return None
        except OSError as error:
            raise self._unreadable(name, error) from None
        try:
            with open(handle, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise Damaged("it is no file")
                return file.read()
        except OSError as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: OSError) -> Exception:
        if error.errno in _NO_FILE:
            return Damaged(f"it is no file ({error.strerror})")
        return StoreError(
            f"cell {self.folder / name} cannot be read ({error.strerror or error}); mend that and run again"
        )

    def write(self, name: str, data: bytes) -> None:
        """As `Files.write`: the bytes are on the disk before the name is, and the name is when this returns."""
        path = self.folder / name
        temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")  # unique in every container and thread
        try:
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                _to_disk(path.parent.parent)
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if path.is_dir() and not path.is_symlink():  # no file can take its place, so it is put aside
                path.rename(path.with_name(f"{path.name}.{uuid.uuid4().hex}.aside"))
            os.replace(temporary, path)
            _to_disk(path.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise StoreError(
                f"cell {path} cannot be written ({error.strerror or error}); cells written before are kept: mend that "
                "and run the same command again"
            ) from None
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        """As `Files.remove`."""
        (self.folder / name).unlink(missing_ok=True)

    def names(self, ending: str) -> Iterator[str]:
        """As `Files.names`."""
        yield from sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(f"*/*{ending}"))

    def refusal(self) -> str | None:
        """As `Files.refusal`, by writing a file."""
        probe = self.folder / f".probe-{uuid.uuid4().hex}"
        try:
            probe.touch()
            probe.unlink()
        except OSError as error:
            return _no_folder(self.folder, error.strerror or error)
        return None


class Remote(Files):
    """Objects below a URL: one `put` each, which object stores make whole or not at all."""

    def __init__(self, url: str):
        import fsspec

        try:
            self._system, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise StoreError(
                f"results cannot be kept at {url!r} ({error}); install that package, or name a folder"
            ) from None
        self.url = url.rstrip("/")

    def where(self, name: str) -> str:
        """URL of a file."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """As `Files.read`."""
        try:
            return self._system.cat_file(f"{self._root}/{name}")
        except FileNotFoundError:
            return None
        except IsADirectoryError:
            raise Damaged("it is no file") from None
        except Exception as error:  # each system has its own
            raise StoreError(f"cell {self.where(name)} cannot be read ({error}); mend that and run again") from None

    def write(self, name: str, data: bytes) -> None:
        """As `Files.write`."""
        path = f"{self._root}/{name}"
        try:
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._system.pipe_file(path, data)
        except Exception as error:  # each system has its own
            raise StoreError(
                f"cell {self.where(name)} cannot be written ({error}); cells written before are kept: mend that and "
                "run the same command again"
            ) from None

    def remove(self, name: str) -> None:
        """As `Files.remove`."""
        try:
            self._system.rm_file(f"{self._root}/{name}")
        except FileNotFoundError:
            pass

    def names(self, ending: str) -> Iterator[str]:
        """As `Files.names`."""
        self._system.invalidate_cache()
        root = self._system._strip_protocol(self._root).rstrip("/")
        found = (str(path).removeprefix(root).lstrip("/") for path in self._system.find(root))
        yield from sorted(name for name in found if name.endswith(ending) and name.count("/") == 1)

    def refusal(self) -> str | None:
        """As `Files.refusal`, by writing a file."""
        name = f".probe-{uuid.uuid4().hex}"
        try:
            self.write(name, b"")
            self.remove(name)
        except StoreError as error:
            return str(error)
        return None


def _no_folder(folder: Path, reason: object) -> str:
    return (
        f"results cannot be written to {str(folder)!r} ({reason}); choose another folder with the parameter `results`, "
        "or make this one writable"
    )


def _to_disk(folder: Path) -> None:
    """Put the names in a folder on the disk, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some shared folders cannot
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
