"""Pooling: one thread for each element of a result."""

from __future__ import annotations

import math
from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, stored, window_struct
from minicaffe.kernels.window import Window


class PoolingOps:
    """The functions of ``kernels/reference/pooling.py``."""

    launch: Launcher

    def max_pool(self, x: Any, y: Any, mask: Any | None, window: Window) -> None:
        """See ``kernels.reference.max_pool``."""
        self._pool("max_pool", x, y, window, y, x, y, mask)

    def max_pool_grad(self, dy: Any, mask: Any, dx: Any, window: Window) -> None:
        """See ``kernels.reference.max_pool_grad``."""
        self._pool("max_pool_grad", dx, dy, window, dx, dy, mask, dx)

    def average_pool(self, x: Any, y: Any, window: Window) -> None:
        """See ``kernels.reference.average_pool``."""
        self._pool("average_pool", x, y, window, y, x, y)

    def average_pool_grad(self, dy: Any, dx: Any, window: Window) -> None:
        """See ``kernels.reference.average_pool_grad``."""
        self._pool("average_pool_grad", dx, dy, window, dx, dy, dx)

    def stochastic_pool(self, x: Any, u: Any, y: Any, mask: Any, window: Window) -> None:
        """See ``kernels.reference.stochastic_pool``."""
        self._pool("stochastic_pool", x, y, window, y, x, u, y, mask)

    def stochastic_pool_mean(self, x: Any, y: Any, window: Window) -> None:
        """See ``kernels.reference.stochastic_pool_mean``."""
        self._pool("stochastic_pool_mean", x, y, window, y, x, y)

    def _pool(self, kernel: str, x: Any, y: Any, window: Window, over: Any, *arrays: Any) -> None:
        """Launches one thread for each element of ``over``, which is the larger array, x or dx, or the smaller one."""
        struct = window_struct(window, tuple(x.shape[2:]), tuple(y.shape[2:]))
        planes, size = math.prod(over.shape[:2]), math.prod(over.shape[2:])
        self.launch.planes(stored("pooling", x, y), kernel, planes, size, *arrays, struct)
