"""Writing files and folders whole or not at all: what a full disk or a kill cuts short never replaces what was there.

New files and folders are made beside their place, under a name that says which process makes them, and are then moved
there.  What a process that has died left behind is removed by the next one that writes into the same folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import socket
import stat
import zlib
from collections.abc import Iterator

from minicaffe import arguments
from minicaffe.errors import SnapshotError

_NAME_BYTES = 180  # of a target's name in that of a new file beside it; a file system allows 255 in all
_BESIDE = re.compile(
    r"\.(?P<target>.+)\.(?P<host>[0-9a-f]{8})-(?P<process>\d+-\d+)-[0-9a-f]{8}\.(?P<kind>tmp|old)", re.DOTALL
)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's renameat2


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the name of a new, empty file beside ``path``; when the block ends, sync it and rename it to ``path``.

    For writers that open a path themselves, such as h5py. If anything fails, the new file is removed and ``path`` is as
    before.

    Raises:
        SnapshotError: an OSError of the writer or of the rename (full disk, no permission, no such folder); the message
            names ``path`` and the reason.
    """
    path = arguments.path(path, "what is written", SnapshotError)
    if "\0" in path:
        raise SnapshotError(f"cannot write {path!r}: a name with a null byte")
    target = os.path.realpath(path)  # through a link: the link stays, its target is replaced
    folder = os.path.dirname(target)
    remove_leftovers(folder)
    temporary = name_beside(target)
    try:
        if os.path.exists(target) and not stat.S_ISREG(os.stat(target).st_mode):
            raise SnapshotError(f"cannot write {path}: it exists and is not a regular file")
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
        raise SnapshotError(f"cannot write {path}: {reason}") from error
    with contextlib.suppress(OSError):  # some network file systems cannot sync a folder; the data itself is safe
        _sync(folder, os.O_RDONLY)


def write_atomic(path: str | os.PathLike[str], *pieces: bytes | memoryview) -> None:
    """Write ``pieces``, one after the other, to ``path`` through `atomic_path`; raises SnapshotError as it does."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.writelines(pieces)


def new_folder(path: str | os.PathLike[str], mode: int = 0o777) -> str:
    """Make an empty folder beside ``path``, and the folders that lead there; `put_folder` moves it to ``path``.

    ``mode`` is what the folder permits, less the user's umask.
    """
    target = os.path.realpath(path)
    try:
        os.makedirs(os.path.dirname(target), exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(path)) from None
    remove_leftovers(os.path.dirname(target))
    folder = name_beside(target)
    try:
        os.mkdir(folder, mode)
    except BaseException:  # Ctrl-C, too, as soon as the folder is there
        with contextlib.suppress(OSError):
            os.rmdir(folder)
        raise
    return folder


def put_folder(folder: str, path: str | os.PathLike[str], replace: bool = False) -> None:
    """Sync what a `new_folder` holds and move it to ``path``, where there may be a folder only if it is to ``replace``
    it.

    The two change places in one step.  Where the system cannot do that, the old one steps aside first: a process killed
    before the new one took its place leaves nothing at ``path``, until `remove_leftovers` puts the old one back.

    Raises:
        OSError: as the system says; ``path`` is then as before.
    """
    target = os.path.realpath(path)
    for place, _, names in os.walk(folder):
        for name in names:
            _sync(os.path.join(place, name), os.O_RDONLY)
        _sync(place, os.O_RDONLY)
    if not (replace and os.path.exists(target)):
        os.rename(folder, target)
    elif _exchange(folder, target):
        shutil.rmtree(folder, ignore_errors=True)
    else:
        aside = name_beside(target, "old")
        os.rename(target, aside)
        try:
            os.rename(folder, target)
        except BaseException:
            os.rename(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    _sync(os.path.dirname(target), os.O_RDONLY)


def remove_leftovers(folder: str) -> None:
    """Remove what processes of this machine that have ended left unfinished in ``folder``.

    A folder that one of them moved aside to replace it is put back if its place is empty.
    """
    with contextlib.suppress(OSError):  # not there, or not to be read: whoever writes will say so
        for entry in [item for item in os.scandir(folder) if item.name.startswith(".")]:
            found = _BESIDE.fullmatch(entry.name)
            if found is None or found["host"] != _host() or found["process"] == _identity(found["process"]):
                continue
            target = os.path.join(folder, found["target"])
            with contextlib.suppress(OSError):  # another process was faster
                if found["kind"] == "old" and not os.path.lexists(target):
                    os.rename(entry.path, target)
                elif entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path)
                else:
                    os.unlink(entry.path)


def name_beside(target: str, kind: str = "tmp") -> str:
    """A name in the same folder that says which process uses it: for what is to be ``target``, or was ("old")."""
    folder, name = os.path.split(target)
    if kind == "tmp":
        name = os.fsdecode(os.fsencode(name)[:_NAME_BYTES])
    return os.path.join(folder, f".{name}.{_host()}-{_identity(str(os.getpid()))}-{secrets.token_hex(4)}.{kind}")


def _host() -> str:
    """This machine, or the container on it that has process numbers of its own."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{zlib.crc32(f'{socket.gethostname()} {namespace}'.encode()):08x}"


def _identity(process: str) -> str:
    """Number and start of the process whose number begins ``process``; "" if it has ended.

    Linux gives a number again after some time, so the time at which the process was started belongs to it.
    """
    number = process.partition("-")[0]
    try:
        with open(f"/proc/{number}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # those behind the name, which may hold blanks
    except FileNotFoundError:
        return "" if os.path.exists("/proc/self/stat") else process
    except OSError:
        return process
    ended = fields[0] in (b"Z", b"X")
    return "" if ended else f"{number}-{fields[19].decode()}"


def _exchange(one: str, other: str) -> bool:
    """Let two folders change places in one step; false where that cannot be done."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), one, None, other)


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
