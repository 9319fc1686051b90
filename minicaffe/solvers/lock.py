"""One training at a time for a snapshot prefix: two would write their files under the same names."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import sys
import threading
import weakref
from datetime import datetime
from typing import TYPE_CHECKING

from minicaffe.errors import SnapshotError
from minicaffe.proto.atomic import remove_leftovers

if TYPE_CHECKING:
    from typing import Self

_log = logging.getLogger(__name__)

_LONGEST_NOTE = 4096  # bytes that tell who has a lock


class PrefixLock:
    """Keeps other processes from training with a snapshot prefix, until it is collected or its ``with`` block ends.

    The system's lock on a file beside the prefix (flock): it ends with the process, however that ends, so that a file
    that is left over locks nothing.  Solvers of one process share it.
    """

    def __init__(self, prefix: str, path: str) -> None:
        self.owner = os.getpid()
        self.descriptor = _open_locked(prefix, path)
        self.release = weakref.finalize(self, _unlock, self.descriptor, path, self.owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


_held: weakref.WeakValueDictionary[str, PrefixLock] = weakref.WeakValueDictionary()
_guard = threading.Lock()


def lock_prefix(prefix: str) -> PrefixLock:
    """The lock on ``prefix``, which this process may have already.

    What processes that were killed left unfinished in the prefix's folder is removed.

    Raises:
        SnapshotError: another process has it (the message names that); or no file can be made there.
    """
    check_prefix(prefix)
    folder = os.path.realpath(os.path.dirname(prefix))
    path = os.path.join(folder, os.path.basename(prefix) + ".lock")
    with _guard:
        lock = _held.get(path)
        if lock is None or lock.owner != os.getpid() or not lock.release.alive:
            lock = _held[path] = PrefixLock(prefix, path)
            remove_leftovers(folder)
        return lock


def check_prefix(prefix: str) -> None:
    """SnapshotError unless files can be made at the prefix; nothing is left there."""
    if "\0" in prefix:
        raise SnapshotError(
            f"solver field snapshot_prefix: Cannot write to snapshot prefix '{prefix}': it has a null byte"
        )
    folder = os.path.abspath(os.path.dirname(prefix))
    refused = f"solver field snapshot_prefix: Cannot write to snapshot prefix '{prefix}': the folder {folder}"
    if not os.path.isdir(folder):
        raise SnapshotError(f"{refused} does not exist; create it", missing=folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SnapshotError(f"{refused} is not writable")


def _open_locked(prefix: str, path: str) -> int | None:
    """Open and lock the file; None where the file system has no locks."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise SnapshotError(f"cannot lock the snapshot prefix '{prefix}': {path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, _LONGEST_NOTE, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise SnapshotError(
                f"solver field snapshot_prefix: {holder} is training with the prefix '{prefix}' already, and both "
                "would "
                f"write the same files; wait until it has ended, or give another snapshot_prefix (the lock is {path})"
            ) from None
        except OSError as error:
            os.close(descriptor)
            _log.warning("No lock on the snapshot prefix '%s': %s: %s", prefix, path, error.strerror)
            return None
        if _is_at(path, descriptor):
            _note_holder(descriptor)
            return descriptor
        os.close(descriptor)  # its process has just ended and removed it


def _is_at(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _note_holder(descriptor: int) -> None:
    """Write down who has the lock, for the message to others."""
    since = datetime.now().astimezone().isoformat(" ", timespec="seconds")
    command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]]) if sys.argv else ""
    note = f"process {os.getpid()} on {socket.gethostname()} ({command}; since {since})\n"
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, note.encode(errors="replace")[:_LONGEST_NOTE], 0)


def _unlock(descriptor: int | None, path: str, owner: int) -> None:
    """Remove the file and end the lock, in the process that has it."""
    if descriptor is not None and os.getpid() == owner:
        with contextlib.suppress(OSError):
            os.unlink(path)
        os.close(descriptor)


def _give_up() -> None:
    """In a forked process: the lock is the parent's, and must end with that."""
    global _guard
    _guard = threading.Lock()  # another thread may have held it at the fork
    for lock in list(_held.values()):
        if lock.descriptor is not None and lock.owner != os.getpid():
            with contextlib.suppress(OSError):
                os.close(lock.descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_give_up)
