"""pycaffe's Timer."""

from __future__ import annotations

import logging
import time

from minicaffe import backend

_log = logging.getLogger(__name__)


class Timer:
    """Measures what the current backend computes between ``start`` and ``stop``, which wait until it is done."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._ms: float | None = None

    def start(self) -> None:
        """Begin; a timer that runs goes on."""
        if self._began is None:
            self._began, self._ms = _now(), None

    def stop(self) -> None:
        """End."""
        if self._began is not None:
            self._ms, self._began = 1000 * (_now() - self._began), None

    @property
    def ms(self) -> float:
        """Milliseconds from ``start`` to ``stop``; stops a timer that runs.  0, and a warning, if it never did."""
        self.stop()
        if self._ms is None:
            _log.warning("a Timer was read that has never been started")
            return 0.0
        return self._ms


def _now() -> float:
    backend.current().synchronize()
    return time.perf_counter()
