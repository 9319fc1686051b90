"""Whether work is shared with other threads or done by the calling thread alone, by which of the two is faster.

Threads help as long as the system runs them.  Where others keep the cores busy, as the idle but spinning threads of
another library in the same process do, whoever waits for a thread waits for a time slice: milliseconds, for work of a
tenth of one.  So both ways are timed now and then.  Results are the same: either way the work has the same parts.

What sharing may cost is saved up: a small share of all the time that the work takes, and what it gained before.  So
however much a trial costs, the better way is found again as soon as that is paid for, and a host where nothing is
gained loses no more than that share.

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
_WAKING, _SLICE = 3e-4, 5e-3
"""Seconds that the first runs of a trial may take longer than later ones: a thread that slept has to wake, and what
other cores' caches hold has to come from there; and as long as that is paid for, the thread may wait for a core until
another has used up its time slice.
"""
_MOST_TRIED = {True: 8, False: 2}
"""How many runs in a row a trial is at most: shared, alone."""
_BEFORE_TRIALS = 2  # runs that are shared, the first of them with threads that have never run
_FIRST_PAUSE, _LAST_PAUSE = 8, 512
"""Runs between two trials, doubled after each up to so many for each run of a trial: these do not show in the 99th
percentile.
"""
_SHARE = 1 / 128  # of all time for trials of sharing
_MOST_SAVED, _MOST_OWED = 0.02, 0.1  # seconds
_FORGETTING = 1 + 1 / 64  # a run by which the least time of late grows
_SLOW = 2.0
"""Times as long as alone: when shared work takes that twice in a row, or when nothing is saved any more, it is done
alone.  A run that follows a trial may have to wake a thread, and does not count.
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
        self._last_slow = 0
        self._saved = _MOST_SAVED
        """Seconds for trials of sharing, as of the run ``_counted``; the runs since have taken ``_spent``."""
        self._counted, self._spent = 0, 0.0

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
        self._spent += seconds
        usual = self._usual * _FORGETTING
        self._usual = seconds if seconds < usual else usual
        if seconds > _SLOW * self._other and self._best:
            self._note_slow(seconds)

    def _times(self, work: Callable[[bool], None]) -> bool:
        """Do the work for the first time, or in a trial of the slower way; False: later, nothing is saved for one."""
        first = self._runs == 0
        if not (first or self._tried):
            self._save()
            if self._saved < 0 and not self._best:
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
        self._tried += 1
        lost = seconds - self._usual
        if shared:
            self._saved = max(self._saved - max(lost, 0.0), -_MOST_OWED)
        self._tried_best = min(seconds if shared else running, self._tried_best)
        starting = _SLICE if shared and self._saved >= 0 else _WAKING
        if not 0 < lost < starting or self._tried == _MOST_TRIED[shared]:
            self._judge(shared, running)
        return True

    def _save(self) -> None:
        """Take stock of the runs since the last time."""
        runs, spent = self._runs - self._counted, self._spent
        gained = runs * self._other - spent if self._best and runs and self._other < _NEVER else 0.0
        self._saved = min(self._saved + gained + _SHARE * spent, _MOST_SAVED)
        self._counted, self._spent = self._runs, 0.0

    def _judge(self, shared: bool, running: float) -> None:
        """After a trial of the slower way."""
        self._counted = self._runs
        self._other = self._tried_best
        if self._other < self._usual:
            self._turn()
        elif not shared and running > SHORT:
            self.settled = True
        else:
            self._pause = min(2 * self._pause, _LAST_PAUSE * self._tried)
            self._wait()

    def _note_slow(self, seconds: float) -> None:
        """After a shared run that took far longer than alone.  If it took longer than a time slice, sharing does not
        answer for the rest.
        """
        self._spent -= max(seconds - self._other - _SLICE, 0.0)
        if self._runs - self._last_trial <= 1:
            return
        self._save()
        if self._runs - self._last_slow == 1 or self._saved < 0:
            self._turn()
        else:
            self._last_slow = self._runs

    def _turn(self) -> None:
        self._save()
        self._best = not self._best
        self._usual, self._other = self._other, self._usual
        self._pause, self._last_slow = _FIRST_PAUSE, 0
        self._wait()

    def _wait(self) -> None:
        """For the next trial."""
        self._last_trial, self._next_trial = self._runs, self._runs + self._pause
        self._tried, self._tried_best = 0, _NEVER
