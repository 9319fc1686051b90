"""Gradients of processes on one machine, in memory that all of them see: their mean takes no messages and no copies."""

from __future__ import annotations

import contextlib
import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from minicaffe import limits

if TYPE_CHECKING:
    from minicaffe.parallel.communicator import Communicator

_PAGE = 1 << 12  # the first holds the token by which processes know that they see the same memory
_CHUNK = 1 << 15  # elements whose sum stays in a core's cache


class SharedRows:
    """A row of numbers for each process of a group, of which all see all; zero at first."""

    def __init__(self, group: Communicator, rows: Any, size: int) -> None:
        self._group = group
        self._rows = rows
        self.mine = rows[group.rank, :size]
        """The row of this process, which alone writes there but for ``mean``."""
        bounds = [-(-size * rank // group.size) // 16 * 16 for rank in range(group.size)] + [size]
        self._share = range(bounds[group.rank], bounds[group.rank + 1], _CHUNK)

    def mean(self) -> None:
        """Put the mean of all rows, summed by rank, times 1 / their number, into each; all processes do it together.

        Each process makes its share of the mean.
        """
        self._group.wait_for_all()
        total = np.empty(_CHUNK, self._rows.dtype)
        for start in self._share:
            stop = min(start + _CHUNK, self._share.stop)
            rows, sums = self._rows[:, start:stop], total[: stop - start]
            np.add(rows[0], rows[1], out=sums)
            for row in rows[2:]:
                sums += row
            sums *= 1 / len(rows)
            rows[...] = sums
        self._group.wait_for_all()


def connect(group: Communicator, size: int, dtype: DTypeLike) -> SharedRows | None:
    """Rows of ``size`` elements for a group; None unless all its processes can see the same memory."""
    dtype = np.dtype(dtype)
    row = -(-size * dtype.itemsize // _PAGE) * _PAGE
    end = _PAGE + group.size * row
    made = -1
    place: tuple[str, bytes] | None = None
    if group.rank == 0:
        with contextlib.suppress(OSError, AttributeError):  # AttributeError: a system other than Linux
            limits.require_memory(end, "gradients that the ranks share")
            made, token = os.memfd_create("gradients"), os.urandom(16)
            os.ftruncate(made, end)
            os.pwrite(made, token, 0)
            place = f"/proc/{os.getpid()}/fd/{made}", token
    place = group.of_first(place)
    memory = _open(place[0], place[1], end) if place else None
    everyone = group.gather(memory is not None)
    if made >= 0:
        os.close(made)
    if memory is None or not all(everyone):
        return None
    rows = np.frombuffer(memory, dtype, offset=_PAGE).reshape(group.size, row // dtype.itemsize)
    return SharedRows(group, rows, size)


def _open(path: str, token: bytes, size: int) -> mmap.mmap | None:
    """Memory of another process; None if it cannot be had, or ``path`` is not that process's here (in a container)."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.pread(descriptor, len(token), 0) != token:
            return None
        memory = mmap.mmap(descriptor, size)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory
