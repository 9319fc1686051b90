"""Open a database by its path and backend, and say what is wrong when that cannot be done."""

from __future__ import annotations

import logging
import os
import re
from typing import Literal, overload

from minicaffe import arguments
from minicaffe.data.store import Reader, Writer, reading_failed
from minicaffe.errors import DataError
from minicaffe.proto.atomic import remove_leftovers

_log = logging.getLogger(__name__)

_MARK = {"lmdb": "data.mdb", "leveldb": "CURRENT"}  # the file that tells a database of each backend
_TITLE = {"lmdb": "LMDB", "leveldb": "LevelDB"}
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

    A database of the other backend is read as what it is, and one that is not there under its name may be there under
    that of the other backend (``train_lmdb`` for ``train_leveldb``); a line of the log says so.  Both are errors in
    Caffe.

    Raises DataError: missing, empty, truncated or damaged; not readable; existing (for "new"); and MissingExtraError
    where LevelDB's package is not installed.
    """
    backend = backend.lower()
    if backend not in _MARK:
        raise DataError(f"unknown database backend {backend!r}: choose lmdb or leveldb")
    path = os.path.abspath(arguments.path(source, "a database", DataError))
    if "\0" in path:
        raise DataError(f"{backend} database {path!r}: a name with a null byte")
    if not os.path.exists(path):  # perhaps a process was killed while it replaced the database
        remove_leftovers(os.path.dirname(os.path.realpath(path)))
    if mode == "read":
        path, backend = _found(path, backend)
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


def _found(path: str, backend: str) -> tuple[str, str]:
    """The database that is read where one of ``backend`` is asked for at ``path``: its path and its own backend."""
    named = re.fullmatch(r"(.*?)(lmdb|leveldb)", path, re.DOTALL)
    if named and not os.path.lexists(path):
        other = "leveldb" if named[2] == "lmdb" else "lmdb"
        if backend_of(named[1] + other) == other:
            _log.info("%s is not there; %s%s is read in its stead", path, named[1], other)
            return named[1] + other, other
    found = backend_of(path)
    if found is not None and found != backend:
        _log.info("%s is a database of %s, not of %s: it is read as what it is", path, _TITLE[found], _TITLE[backend])
        return path, found
    return path, backend


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
    if backend_of(path) is None:
        content = "an empty folder" if not os.listdir(path) else f"a folder without {_MARK[backend]}"
        raise DataError(f"{where}: {content}, not a database; {_MAKE}")
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
