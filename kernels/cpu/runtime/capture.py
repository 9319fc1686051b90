"""A list of kernel launches, captured while ops run and replayed in one call: no Python between the kernels, and no
fork and join of threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from minicaffe.kernels.cpu.runtime import launch
from minicaffe.kernels.cpu.runtime.company import Company
from minicaffe.kernels.cpu.runtime.compile import Kernel, capturing
from minicaffe.kernels.cpu.runtime.threads import parts, thread_count

Op = TypeVar("Op", bound=Callable[..., Any])

_FIRST_ROOM = 1 << 20  # bytes in which launches are captured before they are copied; doubled where they do not fit
_staging = np.zeros(0, np.uint8)


def capturable(op: Op) -> Op:
    """Decorator of ops that do all their work in kernels, or else call ``not_capturable``: a replay repeats them."""
    op.capturable = True  # type: ignore[attr-defined]
    return op


class LaunchList:
    """Launches in the order in which they were made, with their arguments.

    Kernels are given arrays by Python code only, and every such call hands its arguments to the list that is being
    captured (``passes``): it owns the memory that its launches read and write, until it goes itself.
    """

    def __init__(self) -> None:
        self.complete = True
        """Whether the list holds everything that was done while it was captured."""
        self._retained: list[tuple] = []
        self._calls: list[tuple[int, Callable[[], None]]] = []
        self._threads = 0
        self._company = Company(1)
        self._memory = np.zeros(0, np.uint8)
        self._start = self._end = 0

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Capture what this Python thread launches in a ``with`` block; one list at a time in the process."""
        staging = _staging_memory()
        start = _aligned(staging)
        self._threads = thread_count()
        launch.begin_capture(start, staging.size - launch.LINE)
        capturing.launches = self
        try:
            yield
        finally:
            capturing.launches = None
            used = launch.end_capture()
            if used <= staging.size - launch.LINE:
                self._copy(staging, start, used)
            else:
                self.complete = False
                _staging_memory(at_least=2 * used)

    def passes(self, kernel: Kernel, arguments: tuple) -> bool:
        """Own what a kernel is called with; it is to run."""
        self.own(*arguments)
        return True

    def lacks_something(self) -> None:
        """Something is done that no replay would do: there will be none, for which memory would have to be owned."""
        self.complete = False
        self._retained.clear()

    def call(self, function: Callable[[], None]) -> None:
        """While the list is captured: have each replay call this between the launches before and those to come.

        What it raises ends the replay there.
        """
        self._calls.append((launch.captured_bytes(), function))

    @property
    def span(self) -> tuple[int, int]:
        """Where its launches begin and end in memory."""
        return self._start, self._end

    @property
    def words(self) -> NDArray:
        """The launches, one behind the other, as words."""
        first = self._start - self._memory.ctypes.data
        return self._memory[first : first + self._end - self._start].view(np.intp)

    @property
    def only_launches(self) -> bool:
        """Whether to make the launches again is all that there is to do."""
        return self.complete and not self._calls

    def own(self, *objects: Any) -> None:
        """Let these live as long as the list, if it can be replayed."""
        if self.complete:
            self._retained.append(objects)

    @property
    def empty(self) -> bool:
        """Whether a replay does nothing."""
        return self._end == self._start and not self._calls

    def replay(self) -> None:
        """Make all launches again, in the parts that they had when they were captured, on as many threads or on one."""
        self._company.run(self._replay)

    def _replay(self, shared: bool) -> None:
        first = self._start
        for offset, function in self._calls:
            self._run(first, self._start + offset, shared)
            function()
            first = self._start + offset
        self._run(first, self._end, shared)

    def _run(self, first: int, end: int, shared: bool) -> None:
        if end > first:
            if shared:
                launch.entry_shared()(first, end, self._threads)
            else:
                launch.entry_alone()(first, end)

    def _copy(self, staging: np.ndarray, start: int, used: int) -> None:
        """Move the launches to memory of their own; they hold no addresses within the list."""
        self._memory = np.zeros(used + launch.LINE, np.uint8)
        self._start = _aligned(self._memory)
        self._end = self._start + used
        first, source = self._start - self._memory.ctypes.data, start - staging.ctypes.data
        self._memory[first : first + used] = staging[source : source + used]
        launches = self._memory[first : first + used]
        launch.link(launches)
        self._company = Company(min(self._threads, launch.most_workers(launches)))
        self._load()

    def _load(self) -> None:
        """Have the code that replays run by: loading it takes milliseconds, more than the first ones do."""
        if self.empty:
            return
        launch.run_launches_alone(self._start, self._start)
        if not self._company.settled:
            launch.run_launches(self._start, self._start, 1)


def _staging_memory(at_least: int = 0) -> np.ndarray:
    global _staging
    if _staging.size < max(at_least, _FIRST_ROOM):
        _staging = np.zeros(max(at_least, _FIRST_ROOM), np.uint8)
    return _staging


def _aligned(memory: np.ndarray) -> int:
    """The first address in ``memory`` at the begin of a cache line."""
    return -(-memory.ctypes.data // launch.LINE) * launch.LINE


def abandon_capture() -> None:
    """Capture nothing more, whichever thread began to: in a forked process it is not there."""
    launch.end_capture()
    capturing.launches = None


def in_progress() -> bool:
    """Whether this thread's launches are being captured."""
    return capturing.launches is not None


def parts_of_replay(size: int, least: int) -> int:
    """``threads.parts`` for work that gives the same bits in any number of parts: no thread has to be woken in a
    replay, so that there ``least`` elements are worth one.
    """
    return parts(size, least) if in_progress() else parts(size)


def own(*objects: Any) -> None:
    """Let these live as long as the list that is being captured on this thread, if one is."""
    if isinstance(capturing.launches, LaunchList):
        capturing.launches.own(*objects)


def not_capturable() -> None:
    """Note, if this thread's launches are being captured, that something is done outside kernels."""
    if capturing.launches is not None:
        capturing.launches.lacks_something()


class CapturedOps:
    """The ops of a module, handed out while launches are captured: one that is not ``capturable`` is noted."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops

    def __getattr__(self, name: str) -> Any:
        op = getattr(self._ops, name)
        if not getattr(op, "capturable", False):
            not_capturable()
        return op
