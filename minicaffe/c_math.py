"""Arithmetic of options as C has it, where Python raises: infinite where it overflows, NaN where it is not defined."""

from __future__ import annotations

import numpy as np


def power(base: float, exponent: float) -> float:
    """``pow``."""
    with np.errstate(all="ignore"):
        return float(np.float64(base) ** exponent)
