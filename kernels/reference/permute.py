"""The axes of an array in another order."""

from __future__ import annotations

from collections.abc import Sequence

from minicaffe.kernels.reference.arrays import Array


def permute(x: Array, axes: Sequence[int], y: Array) -> None:
    """Write x to y, whose axis i is axis ``axes[i]`` of x; they share no memory."""
    y[...] = x.transpose(axes)
