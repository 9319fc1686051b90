"""Open a database by its path and backend, and say what is wrong when that cannot be done."""

from __future__ import annotations

import os
from typing import Literal, overload

from minicaffe.data.store import Reader, Writer, reading_failed
from minicaffe.errors import DataError
from minicaffe.proto.atomic import remove_leftovers

_MARK = {"lmdb": "data.mdb", "leveldb": "CURRENT"}  # the file that tells a database of each backend
_MAKE = "create it with a 'minicaffe data' command ('minicaffe data --help' lists them)"


@overload
def open_db(source: str | os.PathLike[str], backend: str, mode: Literal["read"] = "read") -> Reader: ...
@overload
def open_db(source: str | os.PathLike[str], backend: str, mode: Literal["new", "replace"]) -> Writer: ...
def open_db(
    source: str | os.PathLike[str], backend: str, mode: Literal["read", "new", "replace"] = "read"
) -> Reader | Writer:
    """Open the database in folder ``source``; ``backend`` is "lmdb" or "leveldb" (in any case).

    "read" gives a cursor, "new" a writer for a database that must not exist yet, "replace" one for a database that
    takes the place of an existing one when the writer is closed.

    Raises DataError: missing, empty, truncated or damaged; of the other backend; not readable; existing (for "new");
    and MissingExtraError where LevelDB's package is not installed.
    """
    backend = backend.lower()
    if backend not in _MARK:
        raise DataError(f"unknown database backend {backend!r}: choose lmdb or leveldb")
    path = os.path.abspath(source)
    if "\0" in path:
        raise DataError(f"{backend} database {path!r}: a name with a null byte")
    if not os.path.exists(path):  # perhaps a process was killed while it replaced the database
        remove_leftovers(os.path.dirname(os.path.realpath(path)))
    if mode == "read":
        try:
            _check_readable(os.fspath(source), path, backend)
        except OSError as error:
            raise reading_failed(backend, path, error) from error
        return _reader(backend)(path)
    _check_free(path, backend, replace=mode == "replace")
    return _writer(backend)(path, mode == "replace")


def backend_of(path: str | os.PathLike[str]) -> str | None:
    """The backend of the database in a folder, "lmdb" or "leveldb"; None if it holds neither."""
    for backend, mark in _MARK.items():
        if os.path.isfile(os.path.join(path, mark)):
            return backend
    return None


def _reader(backend: str) -> type[Reader]:
    if backend == "lmdb":
        from minicaffe.data.lmdb_store import LmdbReader

        return LmdbReader
    from minicaffe.data.leveldb_store import LevelDbReader

    return LevelDbReader


def _writer(backend: str) -> type[Writer]:
    if backend == "lmdb":
        from minicaffe.data.lmdb_store import LmdbWriter

        return LmdbWriter
    from minicaffe.data.leveldb_store import LevelDbWriter

    return LevelDbWriter


def _check_readable(source: str, path: str, backend: str) -> None:
    """Raise the DataError that explains why ``path`` is no ``backend`` database that can be read, if it is not."""
    where = f"{backend} database {path}"
    if not source:
        raise DataError("the database's source is empty; set data_param.source to its folder")
    if not os.path.lexists(path):
        hint = (
            "" if os.path.isabs(source) else f" (source {source!r} is relative to the working directory {os.getcwd()})"
        )
        raise DataError(f"{where}: not found{hint}; {_MAKE}", missing=path)
    if not os.path.isdir(path):
        inside = os.path.basename(path) in _MARK.values()
        fix = f"; give its folder: {os.path.dirname(path)}" if inside else f"; {_MAKE}"
        raise DataError(f"{where}: a file, where a database is a folder{fix}")
    if not _may(path, os.R_OK | os.X_OK):
        raise DataError(f"{where}: permission denied; reading it takes the right to read and enter the folder")
    found = backend_of(path)
    if found is None:
        content = "an empty folder" if not os.listdir(path) else f"a folder without {_MARK[backend]}"
        raise DataError(f"{where}: {content}, not a database; {_MAKE}")
    if found != backend:
        raise DataError(
            f"{where}: this is an {found} database; set data_param.backend to {found.upper()} (the default is LEVELDB)"
        )
    unreadable = [name for name in os.listdir(path) if _needed(name) and not _may(os.path.join(path, name), os.R_OK)]
    if unreadable:
        raise DataError(f"{where}: permission denied to read {', '.join(sorted(unreadable))}")


def _may(path: str, mode: int) -> bool:
    return os.access(path, mode, effective_ids=True)


def _needed(name: str) -> bool:
    return name not in ("LOCK", "lock.mdb", "LOG", "LOG.old")


def _check_free(path: str, backend: str, replace: bool) -> None:
    """Raise DataError if a new database at ``path`` would harm what is there."""
    if not os.path.lexists(path):
        return
    if not replace:
        raise DataError(
            f"{backend} database {path}: exists already and is left as it is; "
            "choose another path or ask to overwrite it"
        )
    if backend_of(path) is None:
        raise DataError(
            f"{backend} database {path}: what is there is no database, so it is not overwritten; remove it first"
        )
