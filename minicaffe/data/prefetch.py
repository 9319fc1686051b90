"""Fill buffers ahead of their use in a background thread."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from minicaffe.errors import DataError

Buffer = TypeVar("Buffer")


class Prefetcher(Generic[Buffer]):
    """Hands out ``buffers`` in the order in which ``fill(buffer)`` fills them, one at a time, in a thread.

    Buffers are filled as long as any is free: all but the one in use are ahead. An exception in ``fill`` ends the
    thread and is raised by ``get``. The thread ends with ``close``, or when the prefetcher is collected, or with the
    process; for that, ``fill`` must not refer to the prefetcher's owner. All of these wait for the ``fill`` that runs,
    which may leave its buffer as it is once ``stop`` is set. A forked process has no copy of the thread.
    """

    def __init__(self, fill: Callable[[Buffer], None], buffers: Sequence[Buffer], stop: threading.Event) -> None:
        self._free: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[Buffer | BaseException] = queue.SimpleQueue()
        self._in_use: Buffer | None = None
        self._process = os.getpid()
        self._failure: BaseException | None = None
        for buffer in buffers:
            self._free.put(buffer)
        thread = threading.Thread(target=_work, args=(fill, self._free, self._full, stop), name="prefetch", daemon=True)
        self.close = weakref.finalize(self, _end, thread, self._free, stop)
        thread.start()

    def get(self) -> Buffer:
        """The next filled buffer, valid until the next ``get``. Raises what ``fill`` raised; DataError after a fork."""
        if self._process != os.getpid():
            raise DataError(
                "this process was forked from the one whose thread reads the data: make the net in this process, or "
                "start "
                "processes by 'spawn' (multiprocessing.get_context('spawn'))"
            )
        if self._failure is not None:
            raise self._failure
        if self._in_use is not None:
            self._free.put(self._in_use)
            self._in_use = None
        result = self._full.get()
        if isinstance(result, BaseException):
            self._failure = result
            raise result
        self._in_use = result
        return result


def _work(
    fill: Callable[[Buffer], None],
    free: queue.SimpleQueue[Buffer | None],
    full: queue.SimpleQueue[Buffer | BaseException],
    stop: threading.Event,
) -> None:
    while (buffer := free.get()) is not None and not stop.is_set():
        try:
            fill(buffer)
        except BaseException as error:  # noqa: BLE001  (get raises it)
            full.put(error)
            return
        full.put(buffer)


def _end(thread: threading.Thread, free: queue.SimpleQueue, stop: threading.Event) -> None:
    stop.set()
    free.put(None)
    if thread is not threading.current_thread():
        thread.join()
