"""The loss scale of training in 16 bits: gradients that are too small for them are made larger, and later smaller."""

from __future__ import annotations

import math
from typing import Any

from minicaffe.errors import ArgumentError
from minicaffe.kernels.reference.dot import LARGEST_LOSS_SCALE
from minicaffe.storage import Storage

DYNAMIC = "dynamic"
_FIRST, _INTERVAL = 2.0**16, 2000


class LossScale:
    """What the loss weights are multiplied by before backward, so that small gradients are not rounded to 0.

    A number stays as it is.  "dynamic" begins at 65536, is halved whenever a gradient is not finite, and doubled after
    2000 steps without (Micikevicius et al. 2018; the numbers are usual ones).  Either way a step whose gradients are
    not finite is left out; not at a scale of 1, for then it is the training that diverges.  All this happens on the
    device: nobody waits.

    ArgumentError unless a number is a power of two, so that nothing but the 16 bits rounds, of at least 1.
    """

    def __init__(self, scale: float | str = DYNAMIC) -> None:
        number = _FIRST if scale == DYNAMIC else _number(scale)
        if not 1 <= number <= LARGEST_LOSS_SCALE or math.frexp(number)[0] != 0.5:
            raise ArgumentError(
                f'a loss scale is "{DYNAMIC}" or a power of two, from 1 to {LARGEST_LOSS_SCALE:g}; found {scale!r}'
            )
        self.storage = Storage(4, "float64")
        """See ``kernels/reference/dot.py``."""
        self.storage.host()[:] = number, 0, _INTERVAL if scale == DYNAMIC else 0, 0

    @property
    def is_one(self) -> bool:
        """Whether it does nothing, now and later."""
        return self.value == 1 and not self.storage.peek()[2]

    @property
    def value(self) -> float:
        """The scale now; waits for the device."""
        return float(self.storage.peek()[0])

    @property
    def left_out(self) -> int:
        """How many steps were left out so far; waits for the device."""
        return int(self.storage.peek()[3])

    def state(self) -> list[float]:
        """Numbers that JSON can hold, for ``restore``."""
        return self.storage.peek().tolist()

    def restore(self, state: list[float]) -> None:
        """Go on from a ``state``: where the scale stays, only with the count of the steps."""
        mine = self.storage.host()
        if mine[2] and state[2]:
            mine[:2] = state[:2]
        mine[3] = state[3]


def _number(scale: Any) -> float:
    try:
        return float(scale)
    except (TypeError, ValueError):
        return math.nan
