"""What the key/value stores have in common: a cursor that reads, and a writer that never leaves half a database."""

from __future__ import annotations

import errno
import os
import shutil
import weakref
from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING

from minicaffe.errors import DataError
from minicaffe.proto.atomic import new_folder, put_folder

if TYPE_CHECKING:
    from typing import Self

_OF_SYSTEM = {
    os.strerror(errno.EMFILE): "close other files, or raise the limit (ulimit -n)",
    os.strerror(errno.ENFILE): "the whole system has too many open files",
    os.strerror(errno.ENOMEM): "free memory",
    os.strerror(errno.ENOSPC): "free space in the folder for temporary files (TMPDIR)",
    os.strerror(errno.EDQUOT): "free space in the folder for temporary files (TMPDIR)",
    os.strerror(errno.EACCES): "see the permissions of its files",
}
"""What the system says, which libraries pass on as an error of the database, and what to do."""

_FULL = 1 << 20  # bytes: a disk with less is full
COMMIT_EVERY = 1000  # records a transaction, as Caffe's tools write


class Reader(ABC):
    """A cursor over the records of a database, in byte order of their keys.

    It stands nowhere until ``seek_to_first`` or ``seek``; each move tells whether it reached a record. Every method
    raises DataError when the database turns out to be damaged.
    """

    backend: str

    def __init__(self, path: str) -> None:
        self.path = path

    @abstractmethod
    def seek_to_first(self) -> bool:
        """Go to the first record; false if there is none."""

    @abstractmethod
    def seek(self, key: bytes) -> bool:
        """Go to the record of exactly this key; false if there is none."""

    @abstractmethod
    def next(self) -> bool:
        """Go to the following record; false at the end."""

    @abstractmethod
    def take(self, most: int) -> list[tuple[bytes, bytes]]:
        """Key and value of the record the cursor stands on and of some that follow, so many at most; it stands on the
        last of them then.
        """

    def item(self) -> tuple[bytes, bytes]:
        """Key and value of the record the cursor stands on."""
        return self.take(1)[0]

    @abstractmethod
    def count(self) -> int | None:
        """The number of records, or None where finding out means reading them all."""

    @abstractmethod
    def close(self) -> None:
        """Give the database back; may be called twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def damaged(self, error: Exception) -> DataError:
        """The DataError for a library's ``error`` while reading."""
        return reading_failed(self.backend, self.path, error)


class Writer(ABC):
    """Writes a new database beside its final place and moves it there in ``close``.

    Used as a context manager: an exception inside the block, or a killed process, leaves whatever was at ``path``
    untouched; so does a writer that is given up without ``close``. ``replace`` lets ``close`` put the new database in
    the place of an existing one.
    """

    backend: str
    mode: int  # of the folder
    library_error: type[Exception]

    def __init__(self, path: str, replace: bool) -> None:
        self.path = path
        self.count = 0
        self._replace = replace
        self._pending: list[tuple[bytes, bytes]] = []
        try:
            self.folder = new_folder(path)
            self._remove = weakref.finalize(self, _remove, self.folder, os.getpid())
            try:
                self._create()
            except BaseException:  # Ctrl-C, too
                self._remove()
                raise
        except (OSError, self.library_error) as error:
            raise self.failed(error) from error

    @abstractmethod
    def _create(self) -> None:
        """Make an empty database in ``self.folder``."""

    @abstractmethod
    def _write(self, records: list[tuple[bytes, bytes]]) -> None:
        """Store ``records`` in ``self.folder``."""

    @abstractmethod
    def _release(self) -> None:
        """Close the files; may be called twice."""

    def put(self, key: bytes, value: bytes) -> None:
        """Add a record; one of the same key is replaced. Every 1000 records are committed together."""
        self._pending.append((key, value))
        self.count += 1
        if len(self._pending) >= COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Write the records of ``put`` since the last commit."""
        records, self._pending = self._pending, []
        try:
            self._write(records)
        except (OSError, self.library_error) as error:
            raise self.failed(error) from error

    def close(self) -> None:
        """Commit, and put the database at ``path``."""
        self.commit()
        try:
            self._release()
            os.chmod(self.folder, self.mode)
            put_folder(self.folder, self.path, self._replace)
        except (OSError, self.library_error) as error:
            raise self.failed(error) from error

    def discard(self) -> None:
        """Forget everything written."""
        self._release()
        self._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.discard()

    def failed(self, error: Exception) -> DataError:
        """The DataError for ``error`` while writing."""
        reason = text_of(error)
        if os.strerror(errno.EIO) in reason and _free_space(self.path) < _FULL:  # what LMDB says of a write cut short
            reason = os.strerror(errno.ENOSPC)
        return DataError(
            f"{self.backend} database {self.path}: writing record {self.count} failed ({reason}); nothing "
            "was left behind: check the free space and the permissions of its folder"
        )


def _remove(folder: str, owner: int) -> None:
    """Remove what a writer has not put in its place; not in a process that was forked from the writer's."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def reading_failed(backend: str, path: str, error: Exception) -> DataError:
    """The DataError for a library's or the system's ``error`` while reading a database: it is damaged, or why not."""
    reason = text_of(error)
    remedies = (f"this is no fault of the database: {todo}" for cause, todo in _OF_SYSTEM.items() if cause in reason)
    remedy = next(remedies, "the database is damaged: copy it again from its source or rebuild it")
    return DataError(f"{backend} database {path}: reading failed ({reason}); {remedy}")


def text_of(error: Exception) -> str:
    """The text of an error; plyvel's is bytes."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = error.args[0] if error.args else ""
    return text.decode(errors="replace") if isinstance(text, bytes) else str(error)


def _free_space(path: str) -> float:
    """Bytes that are free where ``path`` is to be."""
    try:
        return shutil.disk_usage(os.path.dirname(path)).free
    except OSError:
        return float("inf")
