"""Fill buffers ahead of their use in a background thread."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from minicaffe.errors import DataError

Buffer = TypeVar("Buffer")

_AT_ONCE = 2  # buffers that are being filled: where the threads run out of one, they go on with the next


Finish = Callable[[], None]
"""Waits until something that has begun is done."""


def done() -> None:
    """Of what is done when it has begun."""


class Prefetcher(Generic[Buffer]):
    """Hands out ``buffers`` in the order in which they are filled in a thread, all but the one in use ahead.

    ``begin(buffer)`` begins to fill one and returns what waits until it is full; the next that is free is begun before.
    An exception in either ends the thread and is raised by ``get``. The thread ends with ``close``, or when the
    prefetcher is collected, or with the process; for that, ``begin`` must not refer to the prefetcher's owner. All of
    these wait for the buffers that were begun, which may be left as they are once ``stop`` is set. A forked process has
    no copy of the thread.
    """

    def __init__(self, begin: Callable[[Buffer], Finish], buffers: Sequence[Buffer], stop: threading.Event) -> None:
        self._free: queue.SimpleQueue[Buffer | None] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[Buffer | BaseException] = queue.SimpleQueue()
        self._in_use: Buffer | None = None
        self._process = os.getpid()
        self._failure: BaseException | None = None
        for buffer in buffers:
            self._free.put(buffer)
        work = (begin, self._free, self._full, stop)
        thread = threading.Thread(target=_work, args=work, name="prefetch", daemon=True)
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
    begin: Callable[[Buffer], Finish],
    free: queue.SimpleQueue[Buffer | None],
    full: queue.SimpleQueue[Buffer | BaseException],
    stop: threading.Event,
) -> None:
    begun: deque[tuple[Buffer, Finish]] = deque()
    while not stop.is_set():
        if begun and (len(begun) == _AT_ONCE or free.empty()):
            buffer, finish = begun.popleft()
            try:
                finish()
            except BaseException as error:  # noqa: BLE001  (get raises it)
                full.put(error)
                break
            full.put(buffer)
        elif (next_buffer := free.get()) is not None:
            begun.append((next_buffer, _attempt(begin, next_buffer)))
    for _, finish in begun:
        with contextlib.suppress(BaseException):  # nobody waits for these
            finish()


def _attempt(begin: Callable[[Buffer], Finish], buffer: Buffer) -> Finish:
    """What waits for a buffer, and raises what went wrong at its beginning, too: those begun before come first."""
    try:
        return begin(buffer)
    except BaseException as error:  # noqa: BLE001  (raised later)
        failure = error

    def finish() -> None:
        raise failure

    return finish


def _end(thread: threading.Thread, free: queue.SimpleQueue, stop: threading.Event) -> None:
    stop.set()
    free.put(None)
    if thread is not threading.current_thread():
        thread.join()
