"""LMDB databases, through py-lmdb."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar
from weakref import WeakValueDictionary

import lmdb

from minicaffe.data.lmdb_pages import DamagedPage, PageCursor, check_file
from minicaffe.data.store import Reader, Writer

_FIRST_MAP_SIZE = 16 << 20

T = TypeVar("T")

_environments: WeakValueDictionary[tuple[int, int], lmdb.Environment] = WeakValueDictionary()
_opening = threading.Lock()


class LmdbReader(Reader):
    """A cursor on an LMDB folder, which is never written to.

    LMDB's transaction keeps the pages that the cursor sees from being written to; the cursor is ours.  Any number may
    read one database: a process may open an LMDB only once, so they share its environment.
    """

    backend = "lmdb"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        file = os.path.join(path, "data.mdb")
        try:
            page_size = check_file(file)
            self._environment = _shared_environment(path)
            self._transaction = self._environment.begin()
            self._cursor = PageCursor(file, page_size, self._transaction.id())
        except (lmdb.Error, OSError, DamagedPage) as error:
            raise self.damaged(error) from error

    def seek_to_first(self) -> bool:
        return self._looking(self._cursor.first)

    def seek(self, key: bytes) -> bool:
        return self._looking(self._cursor.seek, key)

    def next(self) -> bool:
        return self._looking(self._cursor.next)

    def take(self, most: int) -> list[tuple[bytes, bytes]]:
        return self._looking(self._cursor.take, most)

    def count(self) -> int:
        return self._cursor.count()

    def close(self) -> None:
        self._transaction.abort()
        self._cursor.close()

    def _looking(self, step: Callable[..., T], *argument: bytes | int) -> T:
        try:
            return step(*argument)
        except (OSError, DamagedPage) as error:
            raise self.damaged(error) from error


class LmdbWriter(Writer):
    """Writes an LMDB folder; the map doubles whenever it is full."""

    backend = "lmdb"
    mode = 0o755
    library_error = lmdb.Error

    def _create(self) -> None:
        # nobody else knows the folder: no locks; one flush at the end
        self._environment = lmdb.open(
            os.fsencode(self.folder), map_size=_FIRST_MAP_SIZE, lock=False, sync=False, mode=0o644
        )

    def _write(self, records: list[tuple[bytes, bytes]]) -> None:
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, value in records:
                        transaction.put(key, value)
                return
            except lmdb.MapFullError:
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])

    def _release(self) -> None:
        self._environment.close()


def _shared_environment(path: str) -> lmdb.Environment:
    """The environment of a database: the one already open in this process, or a new one."""
    file = os.path.join(path, "data.mdb")
    status = os.stat(file)
    identity = status.st_dev, status.st_ino
    with _opening:
        environment = _environments.get(identity)
        if environment is None:
            # Without a lock file nobody writes; creating one would change a folder that is only read.
            lock = os.access(os.path.join(path, "lock.mdb"), os.W_OK)
            environment = lmdb.open(os.fsencode(path), readonly=True, lock=lock)
            _environments[identity] = environment
        return environment
