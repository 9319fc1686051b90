"""Copies to a device that the host does not wait for: by way of memory that the device reads by itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_LEAST = 1 << 16  # bytes; less than that the driver itself takes at once, from any memory
_MOST = 1 << 28  # bytes; page-locked memory is dear, and weights are copied once
_BUFFERS = 2


class _Buffer(NamedTuple):
    """Page-locked memory, and the moment at which the last copy from it was done."""

    memory: NDArray[np.uint8]
    done: Any


class Staging:
    """Page-locked buffers that take turns; ``cuda`` is CuPy's module of this name."""

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._buffers: list[_Buffer] = []

    def upload(self, host: NDArray, out: Any, stream: Any) -> None:
        """Copy ``host`` to ``out`` on the device, as the next work of ``stream``; ``host`` may change at once."""
        if not _LEAST < out.nbytes <= _MOST:
            out.set(host, stream)
            return
        buffer = self._next(out.nbytes)
        staged = buffer.memory[: out.nbytes].view(out.dtype).reshape(out.shape)
        staged[...] = host
        out.set(staged, stream)
        buffer.done.record(stream)

    def _next(self, nbytes: int) -> _Buffer:
        """The buffer whose turn it is, free to be written to."""
        buffer = self._buffers.pop(0) if len(self._buffers) == _BUFFERS else None
        if buffer is not None:
            buffer.done.synchronize()
        if buffer is None or buffer.memory.size < nbytes:
            memory = np.frombuffer(self._cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)
            buffer = _Buffer(memory, self._cuda.Event())
        self._buffers.append(buffer)
        return buffer
