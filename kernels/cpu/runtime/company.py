"""Whether work is shared with other threads or done by the calling thread alone, by which of the two is faster.

Threads help as long as the system runs them.  Where others keep the cores busy, as the idle but spinning threads of
another library in the same process do, whoever waits for a thread waits for a time slice: milliseconds, for work of a
tenth of one.  So both ways are timed now and then.  Results are the same: either way the work has the same parts.

How long the work takes one thread, and so whether it is worth a trial, is told by the time that the calling thread was
running, since on such a host the clock says little.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SHORT = 2e-3
"""Seconds: work that takes one thread longer, and more threads less, is shared from then on."""

_LONGEST_TRIAL = 0.1  # seconds that one thread may take, at most, to find that out
_WAKING, _TRIED = 3e-4, 8
"""Seconds that it may take until a thread that slept runs, and how many runs in a row a trial of sharing then is: those
after the first find the thread awake.
"""
_FIRST_PAUSE, _LAST_PAUSE = 16, 4096  # runs between two trials of the slower way
_SLOW = 2.0  # times as long as the other way took: when that happens twice in a row, the other way is taken


class Company:
    """Chooses for work on ``threads`` threads that is done again and again."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.settled = threads == 1
        """Whether nothing is to be learned any more."""
        self._best = threads > 1
        self._seconds: dict[bool, float] = {}
        """The last time of either way: shared, alone."""
        self._until_trial, self._pause = 2, _FIRST_PAUSE
        self._slow = self._tried = 0

    def run(self, work: Callable[[bool], None]) -> None:
        """Do the work once: ``work(shared)``."""
        if self.settled:
            work(self._best)
            return
        first, trial = not self._seconds, self._until_trial <= 1
        shared = self._best is not trial
        running = time.thread_time() if trial or first else 0.0
        start = time.perf_counter()
        work(shared)  # what raises counts as never done
        seconds = self._seconds[shared] = time.perf_counter() - start
        self._until_trial -= 1
        if first:
            self.settled = (time.thread_time() - running) * self._threads > _LONGEST_TRIAL
        elif trial and not self._may_be_waking(shared, seconds):
            self._judge(shared, seconds, time.thread_time() - running)
        elif not trial:
            self._slow = self._slow + 1 if seconds > _SLOW * self._seconds[not shared] else 0
            if self._slow > 1:
                self._turn()

    def _may_be_waking(self, shared: bool, seconds: float) -> bool:
        """Whether the run of a trial may have been the slower one only because it had to wake a thread."""
        self._tried += 1
        return shared and 0 < seconds - self._seconds[False] < _WAKING and self._tried < _TRIED

    def _judge(self, shared: bool, seconds: float, running: float) -> None:
        """After a trial of the slower way."""
        self._tried = 0
        if seconds < self._seconds[not shared]:
            self._turn()
        elif not shared and running > SHORT:
            self.settled = True
        else:
            self._until_trial = self._pause = min(2 * self._pause, _LAST_PAUSE)

    def _turn(self) -> None:
        self._best = not self._best
        self._until_trial = self._pause = _FIRST_PAUSE
        self._slow = 0
