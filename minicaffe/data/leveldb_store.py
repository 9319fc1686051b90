"""LevelDB databases, through plyvel."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable

from minicaffe import compat
from minicaffe.data.store import Reader, Writer
from minicaffe.errors import DataError
from minicaffe.proto.atomic import new_folder

_BLOCK_SIZE = 64 << 10  # Caffe's
_COPIED = 256 << 20  # bytes of tables that are copied
_TABLES = (".ldb", ".sst")


class LevelDbReader(Reader):
    """A cursor on a LevelDB folder, which is never written to.

    LevelDB has no read-only mode: opening a folder locks it against every other reader and rewrites its log and
    manifest. What is opened here is a temporary folder with links to the tables, which never change, and copies of the
    rest: so a read-only folder can be read, and a train and a test net can read the same database.  Tables are copied,
    too, unless they are many: LevelDB maps them, and one that somebody cuts short would end the process.
    """

    backend = "leveldb"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        plyvel = compat.leveldb()
        self._error = plyvel.Error
        try:
            self._view = new_folder(os.path.join(tempfile.gettempdir(), "minicaffe-leveldb"), mode=0o700)
        except OSError as error:
            raise self.damaged(error) from error
        self._remove = weakref.finalize(self, _remove, self._view, os.getpid())
        try:
            _check_unlocked(path)
            _link(path, self._view)
            # paranoid: a damaged log is an error, not records silently left out
            self._database = plyvel.DB(os.fsencode(self._view), paranoid_checks=True)
            self._cursor = self._database.raw_iterator(verify_checksums=True, fill_cache=False)
        except (self._error, OSError) as error:
            self._remove()
            raise self.damaged(error) from error

    def seek_to_first(self) -> bool:
        return self._move(self._cursor.seek_to_first)

    def seek(self, key: bytes) -> bool:
        return self._move(self._cursor.seek, key) and self._cursor.key() == key

    def next(self) -> bool:
        return self._move(self._cursor.next)

    def take(self, most: int) -> list[tuple[bytes, bytes]]:
        return [self._cursor.item()]

    def count(self) -> None:
        return None

    def close(self) -> None:
        self._cursor.close()
        self._database.close()
        self._remove()

    def _move(self, step: Callable[..., None], *key: bytes) -> bool:
        try:
            step(*key)
            return self._cursor.valid()
        except self._error as error:
            raise self.damaged(error) from error


class LevelDbWriter(Writer):
    """Writes a LevelDB folder: 64 KiB blocks, Snappy, as Caffe does."""

    backend = "leveldb"
    mode = 0o755

    def __init__(self, path: str, replace: bool) -> None:
        self._plyvel = compat.leveldb()
        self.library_error = self._plyvel.Error
        super().__init__(path, replace)

    def _create(self) -> None:
        self._database = self._plyvel.DB(
            os.fsencode(self.folder), create_if_missing=True, block_size=_BLOCK_SIZE, compression="snappy"
        )

    def _write(self, records: list[tuple[bytes, bytes]]) -> None:
        with self._database.write_batch() as batch:
            for key, value in records:
                batch.put(key, value)

    def _release(self) -> None:
        self._database.close()


def _remove(view: str, owner: int) -> None:
    """Remove a temporary folder, in the process that made it: one forked from that must leave it alone."""
    if os.getpid() == owner:
        shutil.rmtree(view, ignore_errors=True)


def _check_unlocked(path: str) -> None:
    """Refuse a database that another process has open for writing: what is on disk is then only part of it."""
    lock = os.path.join(path, "LOCK")
    if not os.path.exists(lock):
        return
    with open(lock, "rb") as stream:
        try:
            fcntl.lockf(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f"leveldb database {path}: in use by another process; wait until it has finished"
            ) from error


def _link(path: str, view: str) -> None:
    """Fill ``view`` with copies of the files of ``path``, and links to tables that are too large to be copied."""
    names = os.listdir(path)
    size = sum(os.path.getsize(os.path.join(path, name)) for name in names if name.endswith(_TABLES))
    for name in names:
        file = os.path.join(path, name)
        if name.endswith(_TABLES) and size > _COPIED:
            os.symlink(file, os.path.join(view, name))
        elif name.endswith(_TABLES) or name == "CURRENT" or name.startswith("MANIFEST-") or name.endswith(".log"):
            shutil.copyfile(file, os.path.join(view, name))
