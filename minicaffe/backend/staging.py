"""Copies to a device that neither the host nor kernels wait for: by way of memory that the device reads by itself."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_LEAST = 1 << 16  # bytes; less than that the driver itself takes at once, from any memory
_MOST = 1 << 28  # bytes; page-locked memory is dear, and weights are copied once
_BUFFERS = 2


class _Buffer(NamedTuple):
    """Page-locked memory, memory of the device beside it, or None, and when both were last done with."""

    memory: NDArray[np.uint8]
    spare: Any
    copied: Any
    taken: Any


class Staging:
    """Buffers that take turns; ``xp`` is CuPy, ``stream`` that of the kernels.

    A copy ahead goes to spare memory on a stream of its own while kernels that were issued before still run: what they
    read may not change yet.  The kernels' stream waits for it and takes it from there, as fast as the device's own
    memory is.
    """

    def __init__(self, xp: Any, stream: Any) -> None:
        self._xp, self._cuda = xp, xp.cuda
        self._stream, self._copies = stream, xp.cuda.Stream(non_blocking=True)
        self._buffers: list[_Buffer] = []
        self._has_room = True

    @property
    def spare_bytes(self) -> int:
        """Memory of the device that is held for copies ahead."""
        return sum(buffer.spare.nbytes for buffer in self._buffers if buffer.spare is not None)

    def upload(self, host: NDArray, out: Any, ahead: bool) -> None:
        """Copy ``host`` to ``out`` on the device, as the next work of the stream; ``host`` may change at once."""
        if not _LEAST < out.nbytes <= _MOST:
            out.set(host, self._stream)
            return
        buffer = self._next(out.nbytes, ahead)
        staged = buffer.memory[: out.nbytes].view(out.dtype).reshape(out.shape)
        staged[...] = host
        if buffer.spare is None:
            out.set(staged, self._stream)
            buffer.copied.record(self._stream)
            return
        spare = buffer.spare[: out.nbytes].view(out.dtype).reshape(out.shape)
        self._copies.wait_event(buffer.taken)
        spare.set(staged, self._copies)
        buffer.copied.record(self._copies)
        self._stream.wait_event(buffer.copied)
        self._xp.copyto(out, spare)
        buffer.taken.record(self._stream)

    def _next(self, nbytes: int, ahead: bool) -> _Buffer:
        """The buffer whose turn it is, free to be written to; with spare memory, if there is some, for a copy ahead."""
        buffer = self._buffers.pop(0) if len(self._buffers) == _BUFFERS else None
        if buffer is not None:
            buffer.copied.synchronize()
        if buffer is None or buffer.memory.size < nbytes:
            memory = np.frombuffer(self._cuda.alloc_pinned_memory(nbytes), np.uint8, nbytes)
            buffer = _Buffer(memory, None, self._cuda.Event(), self._cuda.Event())
        if ahead and buffer.spare is None and self._has_room:
            buffer = self._with_spare(buffer)
        self._buffers.append(buffer)
        return buffer

    def _with_spare(self, buffer: _Buffer) -> _Buffer:
        try:
            spare = self._xp.empty((buffer.memory.size,), np.uint8)
        except self._cuda.memory.OutOfMemoryError:
            self._has_room = False  # from now on nothing more is copied ahead
            return buffer
        buffer.taken.record(self._stream)  # what was in this memory before may still be in use
        return buffer._replace(spare=spare)
