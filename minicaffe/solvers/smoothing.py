"""The mean of a solver's last losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minicaffe import backend
from minicaffe.blob import Blob
from minicaffe.layers.base import same


class SmoothedLoss:
    """The losses of the last ``length`` iterations, kept where they were computed: nothing waits for a device."""

    def __init__(self, length: int, dtype: DTypeLike) -> None:
        self._length = length
        self._losses = Blob((length,), dtype)
        self._stored = self._slot = 0

    def clear(self) -> None:
        """Forget all losses."""
        self._stored = 0

    def add(self, loss: Any, first: bool = True, passes: int = 1) -> None:
        """Take the loss of one of an iteration's passes, of which the ``first`` begins an iteration."""
        if first:
            self._slot = self._stored % self._length
            self._stored += 1
        share, losses = loss if passes == 1 else loss / passes, self._losses.xdata
        if first:
            losses[self._slot] = share
        else:
            losses[self._slot] += share

    def add_within(self, passes: int) -> Callable[[Any], None] | None:
        """What takes the only loss of an iteration as part of the work that computes it, the same way each time, so
        that a device captures it; None where ``add`` has to do it afterwards.
        """
        if self._length > 1 or passes > 1 or backend.current().is_host:
            return None
        self._slot, self._stored = 0, self._stored + 1
        return self._store

    def _store(self, loss: Any) -> None:
        backend.current().ops.elementwise(same, (loss,), (), self._losses.xdata)

    @property
    def last(self) -> float:
        """The loss of the last iteration."""
        return float(self._losses.peek_data()[self._slot])

    @property
    def mean(self) -> float:
        """Of the losses kept; NaN before the first."""
        stored = min(self._stored, self._length)
        return float(np.mean(self._losses.peek_data()[:stored], dtype=np.float64)) if stored else math.nan

    def state(self) -> dict[str, Any]:
        """Values that JSON can hold, for ``restore``."""
        return {"losses": self._losses.peek_data().tolist(), "stored": self._stored}

    def restore(self, state: dict[str, Any]) -> bool:
        """Go on from a ``state``; whether it fits: one of another length changes nothing."""
        if len(state["losses"]) != self._length:
            return False
        self._losses.data[...] = state["losses"]
        self._stored = state["stored"]
        return True
