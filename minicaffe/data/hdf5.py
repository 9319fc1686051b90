"""HDF5 files: written whole or not at all, and read, also those of strangers: none ends this process, or makes it wait
or grow without limit.

A process of its own reads them (``hdf5_reader``); it starts with the first file and serves those that follow.  Links to
other files, and values kept there, are refused.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe import compat, limits
from minicaffe.errors import DataError, SnapshotError
from minicaffe.proto.atomic import atomic_path
from minicaffe.proto.kinds import HDF5_SIGNATURE

if TYPE_CHECKING:
    import h5py
else:
    h5py = compat.lazy("h5py")

PATIENCE = 60.0
"""Seconds that the reading process may take for the next piece of a file."""

_HEADERS = 16 << 10  # bytes that an object takes beside its values
_LONGEST_MESSAGE = 16 << 20  # bytes of JSON
_USER_BLOCKS = (0, *(512 << k for k in range(16)))  # where a file may begin


class Entry(NamedTuple):
    """A dataset, or a group (``dtype`` and ``shape`` None)."""

    dtype: str | None
    shape: tuple[int, ...] | None


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether a file can be read and begins as HDF5 files do."""
    try:
        with os.fdopen(limits.open_file(path), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            for start in _USER_BLOCKS:
                if start >= size:
                    break
                file.seek(start)
                if file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE:
                    return True
    except OSError:
        pass
    return False


def entries(path: str | os.PathLike[str]) -> dict[str, Entry]:
    """Everything in a file, by name: ``group/dataset``.

    Raises DataError: a file that is missing, damaged, or no HDF5 file.
    """
    found = {}
    for message in _reading(path, None):
        shape = message.get("shape")
        found[message["name"]] = Entry(message.get("dtype"), None if shape is None else tuple(shape))
    return found


def read(path: str | os.PathLike[str], names: Sequence[str]) -> list[NDArray | bytes]:
    """The values of datasets, in order: arrays of numbers or bytes as stored; of a string of any length, the bytes.

    Raises DataError: as ``entries``; a dataset that is not there, that holds something else, whose values are in
    another file, or which claims to be far larger than what is stored of it.  OutOfMemoryError for more than fits into
    memory.
    """
    values: list[Any] = []
    filled = 0
    for message in _reading(path, names):
        if "name" in message:
            shape, dtype = message.get("shape"), message.get("dtype")
            if shape is None or dtype is None:
                raise DataError(f"{_where(path)}: '{message['name']}' is no dataset")
            try:
                kind = np.dtype(dtype)
            except TypeError:
                kind = np.dtype("O")
            if kind.kind == "O" and shape:
                raise DataError(
                    f"{_where(path)}, dataset '{message['name']}': must hold numbers; found {dtype} of shape "
                    f"{tuple(shape)}"
                )
            what = f"dataset '{message['name']}' of HDF5 file {os.fspath(path)}"
            values.append(limits.zeros(shape, kind, what) if kind.kind != "O" else b"")
            filled = 0
        elif message.get("string"):
            values[-1] = message["payload"](b"")
        elif "at" in message:
            _read_from(path, message["at"], memoryview(values[-1].reshape(-1).view(np.uint8)))
        else:
            target = memoryview(values[-1].reshape(-1).view(np.uint8))
            filled += message["payload"](target[filled:])
    return values


def _read_from(path: str | os.PathLike[str], place: int, target: memoryview) -> None:
    """Fill ``target`` with the bytes of a file from ``place`` on."""
    with os.fdopen(limits.open_file(path), "rb", buffering=0) as file:
        while len(target):
            count = os.preadv(file.fileno(), [target], place)
            if not count:
                raise DataError(f"{_where(path)}: truncated, its values go on behind its end; make it anew")
            target, place = target[count:], place + count


def write(path: str | os.PathLike[str], contents: Mapping[str, Any]) -> None:
    """Write a file of datasets, by name (``group/dataset``); None stands for a group, which may stay empty.

    Raises SnapshotError; what was at ``path`` is then as it was.
    """
    size = _HEADERS + sum(np.asarray(values).nbytes + _HEADERS for values in contents.values() if values is not None)
    size += _HEADERS * len(contents)
    with atomic_path(path) as temporary:
        reserve(temporary, size)  # the system says why not; of an empty file that cannot be closed, HDF5 does not
        try:
            h5py.File(temporary, "w").close()
            reserve(temporary, size)
            with h5py.File(temporary, "a") as file:
                for name, values in contents.items():
                    if values is None:
                        file.require_group(name)
                    else:
                        file.create_dataset(name, data=values)
        except RuntimeError as error:  # h5py's, where a file cannot be closed
            raise SnapshotError(f"cannot write {os.fspath(path)}: {error}") from error


def reserve(path: str | os.PathLike[str], size: int) -> None:
    """Claim the space that a file grows into: where it is missing, HDF5 ends the process (a segmentation fault).

    HDF5 gives back what it does not use.  Raises OSError; the file is then as it was.
    """
    with open(path, "r+b") as file:
        before = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), before, size)
        except OSError:
            file.truncate(before)
            raise


def _where(path: str | os.PathLike[str]) -> str:
    return f"HDF5 file {os.path.abspath(os.fspath(path))}"


def _reading(path: str | os.PathLike[str], names: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """The messages about a file, each with ``payload``, which takes what comes after it."""
    try:
        os.close(limits.open_file(path))
    except FileNotFoundError:
        raise DataError(
            f"cannot read HDF5 file {os.fspath(path)}: no such file (tried {os.path.abspath(path)})"
        ) from None
    except OSError as error:
        raise DataError(f"cannot read HDF5 file {os.fspath(path)}: {error.strerror}") from None
    if not is_hdf5(path):
        raise DataError(f"{_where(path)}: no HDF5 file: it does not begin as one, or it is empty")
    request = {"path": os.path.abspath(os.fspath(path)), "names": None if names is None else list(names)}
    with _lock:
        process = _process()
        try:
            yield from process.ask(request)
        except _Ended as end:
            raise DataError(f"{_where(path)}: {end}; make it anew") from None
        except _Refused as error:
            raise DataError(f"{_where(path)}: {error}") from None
        finally:
            if not process.idle:
                process.end()


class _Ended(Exception):
    """The reading process is gone, or had to be ended."""


class _Refused(Exception):
    """The reading process said that a file cannot be read."""


class _Process:
    """A running ``hdf5_reader``."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.idle = True
        script = Path(__file__).with_name("hdf5_reader.py")
        try:
            self._child = subprocess.Popen(
                [sys.executable, str(script), json.dumps(sys.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise DataError(f"HDF5 files are read by a process of its own, which cannot be started: {error}") from error
        assert self._child.stdin is not None and self._child.stdout is not None
        self._requests, self._answers = self._child.stdin, self._child.stdout.fileno()

    @property
    def usable(self) -> bool:
        return self.owner == os.getpid() and self._child.poll() is None

    def ask(self, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.idle = False
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except OSError:
            raise self._ended() from None
        while True:
            (length,) = struct.unpack(">I", self._take(4))
            if length > _LONGEST_MESSAGE:
                raise _Ended("the process that reads it no longer answers")
            message = json.loads(self._take(length))
            if "error" in message:
                self.idle = True
                raise _Refused(message["error"])
            if "end" in message:
                self.idle = True
                return
            size = message.get("size", 0)

            def payload(target: memoryview | bytes, size: int = size) -> Any:
                if isinstance(target, bytes):
                    return self._take(size)
                if size > len(target):
                    raise _Ended("more values come than its shape takes")
                self._take_into(target[:size])
                return size

            message["payload"] = payload
            yield message

    def end(self) -> None:
        if self.owner != os.getpid():
            return
        with contextlib.suppress(OSError):
            self._requests.close()
        self._child.kill()
        self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()

    def _take(self, size: int) -> bytes:
        content = bytearray(size)
        self._take_into(memoryview(content))
        return bytes(content)

    def _take_into(self, target: memoryview) -> None:
        ready = select.poll()  # select takes no number of a file above 1023
        ready.register(self._answers, select.POLLIN)
        while len(target):
            if not ready.poll(1000 * PATIENCE):
                raise _Ended(f"reading it made no progress for {PATIENCE:.0f} seconds, and was ended: it is damaged")
            count = os.readv(self._answers, [target])
            if not count:
                raise self._ended()
            target = target[count:]

    def _ended(self) -> _Ended:
        status = self._child.wait()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return _Ended(f"damaged: reading it ended the process that did ({how})")


_lock = threading.RLock()
_running: _Process | None = None


def _process() -> _Process:
    """The reading process of this one, started if there is none."""
    global _running
    if _running is None or not _running.usable or not _running.idle:
        if _running is not None:
            _running.end()
        _running = _Process()
    return _running


@atexit.register
def _end() -> None:
    if _running is not None:
        _running.end()
