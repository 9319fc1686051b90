"""Derivatives by finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

LEVELS = 8
REDUCTION = 2.0


def derivative(function: Callable[[float], NDArray], step: float) -> NDArray:
    """The derivative at 0 of a function of a number that gives an array.

    Central differences at ``LEVELS`` steps, each half of the one before, extrapolated to 0 by Neville's scheme; of each
    element the value is taken that differs least from the two it comes from (Ridders 1982).
    """
    best, best_error = np.zeros(0), np.zeros(0)
    before: list[NDArray] = []
    for level in range(LEVELS):
        h = step / REDUCTION**level
        row = [(function(h) - function(-h)) / (2 * h)]
        for order, coarser in enumerate(before, start=1):
            gain = REDUCTION ** (2 * order)
            row.append((gain * row[-1] - coarser) / (gain - 1))
        if level == 0:
            best, best_error = row[0], np.full(row[0].shape, np.inf)
        for order in range(1, len(row)):
            error = np.maximum(np.abs(row[order] - row[order - 1]), np.abs(row[order] - before[order - 1]))
            better = error < best_error
            best, best_error = np.where(better, row[order], best), np.where(better, error, best_error)
        before = row
    return best


def one_sided(function: Callable[[float], NDArray], h: float) -> tuple[NDArray, NDArray]:
    """The derivatives at 0 from the left and from the right, to second order in ``h``."""
    at = function(0.0)
    left, right = ((-3 * at + 4 * function(s * h) - function(2 * s * h)) / (2 * s * h) for s in (-1, 1))
    return left, right
