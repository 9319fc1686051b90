"""What is asked of the ways to do a convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minicaffe.kernels.window import Window

FORWARD, DATA, WEIGHTS = range(3)
"""The convolution, the gradient of its data, and that of its weights."""

Way = Callable[..., None]
"""Solves a problem, given its arrays: (x, w, bias, y, workspace), (dy, w, dx, workspace) or (x, dy, dw, dbias,
workspace, accumulate).

``dbias`` is empty where it is not wanted.
"""


class Problem(NamedTuple):
    """A convolution, or a gradient of it, of arrays of some shapes."""

    kind: int
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    window: Window
    group: int
    dtype: np.dtype
    threads: int
    """Those that it may be shared out over."""
