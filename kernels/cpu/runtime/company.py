"""Whether work is shared with other threads or done by the calling thread alone, by which of the two is faster.

Threads help as long as the system runs them.  Where others keep the cores busy, as the idle but spinning threads of
another library in the same process do, whoever waits for a thread waits for a time slice: milliseconds, for work of a
tenth of one.  So both ways are timed now and then.  Results are the same: either way the work has the same parts.
"""

from __future__ import annotations

SHORT = 2e-3
"""Seconds: work that takes one thread longer, and more threads less, is shared from then on."""

_LONGEST_TRIAL = 0.1  # seconds that one thread may take, at most, to find that out
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
        self._until_trial, self._pause = 1, _FIRST_PAUSE
        self._slow = 0

    def shared(self) -> bool:
        """Whether to share the work the next time."""
        return self._best if self.settled or self._until_trial > 0 else not self._best

    def took(self, shared: bool, seconds: float) -> None:
        """Learn how long the work took, shared or not."""
        self._seconds[shared] = seconds
        if shared == self._best:
            self._until_trial -= 1
            self._watch(seconds)
        elif seconds < self._seconds[self._best]:
            self._turn()
        elif not shared and seconds > SHORT:
            self.settled = True
        else:
            self._pause = min(2 * self._pause, _LAST_PAUSE)
            self._until_trial = self._pause

    def _watch(self, seconds: float) -> None:
        other = self._seconds.get(not self._best)
        if other is None:
            self.settled = seconds * self._threads > _LONGEST_TRIAL
            return
        self._slow = self._slow + 1 if seconds > _SLOW * other else 0
        if self._slow > 1:
            self._turn()

    def _turn(self) -> None:
        self._best = not self._best
        self._until_trial = self._pause = _FIRST_PAUSE
        self._slow = 0
