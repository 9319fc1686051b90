"""Memory is compared with what there is before it is taken, since files and definitions may ask for any amount."""

from __future__ import annotations

import errno
import math
import os
import re
import resource
import stat
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe import memory
from minicaffe.errors import OutOfMemoryError

NOT_ENOUGH = "not enough memory: "
"""How every OutOfMemoryError begins."""

_UNCHECKED = 64 << 20
"""Bytes that are taken without a look at what is available."""

_CGROUP = "/sys/fs/cgroup"


def available() -> float:
    """Bytes of memory that this process may still take: of the machine, of its control group, and by ``ulimit -v``.

    Infinity where the system does not tell.
    """
    return min(_of_machine(), _of_control_group(), _of_address_space())


def require_memory(size: int, what: str, remedy: str = "check the shapes, or use a smaller batch_size") -> None:
    """Raise OutOfMemoryError if ``what``, which takes ``size`` bytes, cannot fit into the memory that is available."""
    if size > _UNCHECKED and size > (room := available()):
        raise OutOfMemoryError(f"{NOT_ENOUGH}{what} takes {amount(size)}, {amount(room)} are free; {remedy}")


def read_file(path: str | os.PathLike[str], times: int = 1) -> bytes:
    """The content of a file, where ``times`` its size fits into memory; for paths that a definition may have named.

    Raises OSError, as ``open_file``; OutOfMemoryError.
    """
    with os.fdopen(open_file(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        require_memory(times * size, f"reading {os.fspath(path)}", "is it the right file?")
        return file.read()


def open_file(path: str | os.PathLike[str]) -> int:
    """The descriptor of a file to read; for paths that a definition may have named.

    Raises OSError, also for a device, a pipe, which may have no end, and a name with a null byte.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:
        raise OSError(errno.EINVAL, "a name with a null byte", path) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        error = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(error, os.strerror(error) if stat.S_ISDIR(mode) else "no regular file", path)
    return descriptor


def read_head(path: str | os.PathLike[str], size: int = 1024) -> bytes:
    """The first bytes of a file; raises OSError as ``open_file``."""
    descriptor = open_file(path)
    try:
        return os.read(descriptor, size)
    finally:
        os.close(descriptor)


def zeros(shape: Sequence[int] | int, dtype: DTypeLike, what: str = "an array") -> NDArray:
    """``memory.zeros``; OutOfMemoryError if that cannot fit into the memory that is available."""
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    size = math.prod(sizes) * np.dtype(dtype).itemsize
    require_memory(size, what)
    try:
        return memory.zeros(sizes, dtype)
    except (MemoryError, ValueError):  # a ValueError where no address space holds it
        raise OutOfMemoryError(
            f"{NOT_ENOUGH}{what} takes {amount(size)}; check the shapes, or use a smaller batch_size"
        ) from None


def amount(size: float) -> str:
    """A number of bytes for people: ``1.5 GiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}" if unit != "bytes" else f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def _of_machine() -> float:
    found = re.search(r"MemAvailable:\s*(\d+) kB", _read("/proc/meminfo"))
    return int(found[1]) * 1024 if found else float("inf")


def _of_control_group() -> float:
    """What the limit of this process's control group (version 2; in a container that is the root's) leaves."""
    path = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    for folder in dict.fromkeys((os.path.normpath(f"{_CGROUP}/{path}"), _CGROUP)):
        limit = _read(f"{folder}/memory.max").strip()
        if limit.isdigit():
            used = int(_read(f"{folder}/memory.current") or 0)
            cached = re.search(r"^inactive_file (\d+)$", _read(f"{folder}/memory.stat"), re.MULTILINE)
            return max(int(limit) - used + (int(cached[1]) if cached else 0), 0)
    return float("inf")


def _of_address_space() -> float:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    pages = _read("/proc/self/statm").split()
    return max(limit - int(pages[0]) * resource.getpagesize(), 0) if pages else float("inf")


def _read(path: str) -> str:
    """The text of a system's file, "" if there is none."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""
