"""Writing a file whole or not at all: a snapshot cut short by a full disk or a kill never replaces a good one."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator

from minicaffe.errors import SnapshotError


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the name of a new, empty file beside ``path``; when the block ends, sync it and rename it to ``path``.

    For writers that open a path themselves, such as h5py. If anything fails, the new file is removed and ``path`` is as
    before.

    Raises:
        SnapshotError: an OSError of the writer or of the rename (full disk, no permission, no such folder); the message
            names ``path`` and the reason.
    """
    if "\0" in os.fspath(path):
        raise SnapshotError(f"cannot write {os.fspath(path)!r}: a name with a null byte")
    target = os.path.realpath(path)  # through a link: the link stays, its target is replaced
    folder, name = os.path.split(target)
    temporary = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(4)}.tmp")
    try:
        if os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode):
            raise SnapshotError(f"cannot write {os.fspath(path)}: it exists and is not a regular file")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            _sync(temporary, os.O_RDWR)
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        if not os.path.isdir(folder):
            reason = f"the folder {folder} does not exist; create it first"
        raise SnapshotError(f"cannot write {os.fspath(path)}: {reason}") from error
    with contextlib.suppress(OSError):  # some network file systems cannot sync a folder; the data itself is safe
        _sync(folder, os.O_RDONLY)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` through `atomic_path`; raises SnapshotError as it does."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(data)


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
