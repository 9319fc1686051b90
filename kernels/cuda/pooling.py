"""Pooling: one thread for each element of a result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, program, window_struct
from minicaffe.kernels.window import Window


class PoolingOps:
    """The functions of ``kernels/reference/pooling.py``."""

    launch: Launcher

    def max_pool(self, x: Any, y: Any, mask: Any, window: Window) -> None:
        """See ``kernels.reference.max_pool``."""
        self._pool("max_pool", x.shape, y.shape, window, y.shape, x, y, mask)

    def max_pool_grad(self, dy: Any, mask: Any, dx: Any, window: Window) -> None:
        """See ``kernels.reference.max_pool_grad``."""
        self._pool("max_pool_grad", dx.shape, dy.shape, window, dx.shape, dy, mask, dx)

    def average_pool(self, x: Any, y: Any, window: Window) -> None:
        """See ``kernels.reference.average_pool``."""
        self._pool("average_pool", x.shape, y.shape, window, y.shape, x, y)

    def average_pool_grad(self, dy: Any, dx: Any, window: Window) -> None:
        """See ``kernels.reference.average_pool_grad``."""
        self._pool("average_pool_grad", dx.shape, dy.shape, window, dx.shape, dy, dx)

    def stochastic_pool(self, x: Any, u: Any, y: Any, mask: Any, window: Window) -> None:
        """See ``kernels.reference.stochastic_pool``."""
        self._pool("stochastic_pool", x.shape, y.shape, window, y.shape, x, u, y, mask)

    def stochastic_pool_mean(self, x: Any, y: Any, window: Window) -> None:
        """See ``kernels.reference.stochastic_pool_mean``."""
        self._pool("stochastic_pool_mean", x.shape, y.shape, window, y.shape, x, y)

    def _pool(
        self,
        kernel: str,
        x_shape: Sequence[int],
        y_shape: Sequence[int],
        window: Window,
        over: Sequence[int],
        *arrays: Any,
    ) -> None:
        """Launches one thread for each element of shape ``over``, which is that of x or of y."""
        struct = window_struct(window, tuple(x_shape[2:]), tuple(y_shape[2:]))
        source = program("pooling", arrays[0].dtype)
        self.launch.planes(source, kernel, math.prod(over[:2]), math.prod(over[2:]), *arrays, struct)
