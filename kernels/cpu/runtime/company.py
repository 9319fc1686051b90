"""Whether work is shared with other threads or done by the calling thread alone, by which of the two is faster.

Threads help as long as the system runs them.  Where others keep the cores busy, as the idle but spinning threads of
another library in the same process do, whoever waits for a thread waits for a time slice: milliseconds, for work of a
tenth of one.  So both ways are timed now and then.  Results are the same: either way the work has the same parts.

What trials of the slower way may cost is a share of all the time that the work takes, saved up run by run.  So however
much one costs, the better way is found again as soon as that share allows, and a host that stays as it is loses no more.

How long the work takes one thread, and so whether it is worth a trial, is told by the time that the calling thread was
running, since on such a host the clock says little: if it had to make way for others in the one run that is a trial,
that would count until the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable

_NEVER = float("inf")
SHORT = 2e-3
"""Seconds: work that takes one thread longer, and more threads less, is shared from then on."""

_LONGEST_TRIAL = 0.1  # seconds that one thread may take, at most, to find that out
_WAKING, _MOST_TRIED = 3e-4, {True: 8, False: 2}
"""Seconds that the first runs of a trial, shared or alone, may take longer than later ones, and how many runs in a row
it then is at most: a thread that slept has to wake, and what other cores' caches hold has to come from there.
"""
_BEFORE_TRIALS = 2  # runs that are shared, the first of them with threads that have never run
_FIRST_PAUSE, _LAST_PAUSE = 8, 256
"""Runs between two trials, doubled after each up to so many for each run of a trial: these do not show in the 99th
percentile.
"""
_SHARE, _MOST_SAVED = 1 / 128, 0.02  # of all time for trials, and the seconds of it that are kept for later
_FORGETTING = 1 + 1 / 64  # a run by which the least time of late grows
_SLOW, _NEAR = 2.0, 64
"""Times as long as the other way took: when that happens twice in so many runs, the other way is taken.  A run that
follows a trial may have to wake a thread, and does not count.
"""


class Company:
    """Chooses for work on ``threads`` threads that is done again and again."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.settled = threads == 1
        """Whether nothing is to be learned any more."""
        self._best = threads > 1
        self._usual = self._other = _NEVER
        """The least seconds of late of the better way, and those of the other when it was tried last."""
        self._runs = self._next_trial = self._last_trial = 0
        self._pause = _FIRST_PAUSE
        self._tried, self._tried_best = 0, _NEVER
        self._last_slow = -_NEAR
        self._saved, self._unsaved = _MOST_SAVED, 0.0
        """Seconds for trials, and those of work of which a share is to be added."""

    def run(self, work: Callable[[bool], None]) -> None:
        """Do the work once: ``work(shared)``."""
        if self.settled:
            work(self._best)
            return
        if self._runs >= self._next_trial and self._times(work):
            return
        start = time.perf_counter()
        work(self._best)  # what raises counts as never done
        seconds = time.perf_counter() - start
        self._runs += 1
        self._unsaved += seconds
        usual = self._usual * _FORGETTING
        self._usual = seconds if seconds < usual else usual
        if seconds > _SLOW * self._other:
            self._note_slow()

    def _times(self, work: Callable[[bool], None]) -> bool:
        """Do the work for the first time, or in a trial of the slower way; False: later, there is no time for one."""
        first = self._runs == 0
        if not (first or self._tried or self._can_pay()):
            self._next_trial += self._pause
            return False
        shared = self._best is first
        running, start = time.thread_time(), time.perf_counter()
        work(shared)
        seconds, running = time.perf_counter() - start, time.thread_time() - running
        self._runs += 1
        if first:
            self._usual, self._next_trial = seconds, _BEFORE_TRIALS
            self.settled = running * self._threads > _LONGEST_TRIAL
            return True
        self._saved -= max(0.0, seconds - self._usual)
        if not shared:
            seconds = running
        self._tried += 1
        self._tried_best = min(seconds, self._tried_best)
        if not 0 < seconds - self._usual < _WAKING or self._tried == _MOST_TRIED[shared]:
            self._judge(shared, running)
        return True

    def _can_pay(self) -> bool:
        self._saved = min(self._saved + _SHARE * self._unsaved, _MOST_SAVED)
        self._unsaved = 0.0
        return self._saved >= 0

    def _judge(self, shared: bool, running: float) -> None:
        """After a trial of the slower way."""
        self._other = self._tried_best
        if self._other < self._usual:
            self._turn()
        elif not shared and running > SHORT:
            self.settled = True
        else:
            self._pause = min(2 * self._pause, _LAST_PAUSE * self._tried)
            self._wait()

    def _note_slow(self) -> None:
        """After a run that the other way would have taken far less time for."""
        if self._runs - self._last_trial <= 1:
            return
        if self._runs - self._last_slow <= _NEAR:
            self._turn()
        else:
            self._last_slow = self._runs

    def _turn(self) -> None:
        self._best = not self._best
        self._usual, self._other = self._other, self._usual
        self._pause, self._last_slow = _FIRST_PAUSE, -_NEAR
        self._wait()

    def _wait(self) -> None:
        """For the next trial."""
        self._last_trial, self._next_trial = self._runs, self._runs + self._pause
        self._tried, self._tried_best = 0, _NEVER
