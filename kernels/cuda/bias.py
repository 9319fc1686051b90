"""Adding a bias per channel, and its gradient."""

from __future__ import annotations

import math
from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, stored


class BiasOps:
    """The functions of ``kernels/reference/bias.py``."""

    launch: Launcher

    def bias_add(self, y: Any, bias: Any) -> None:
        """See ``kernels.reference.bias_add``."""
        n, c, *rest = y.shape
        inner = math.prod(rest)
        self.launch.planes(stored("bias", y), "bias_add", n * c, inner, y, bias, c)

    def bias_grad(self, dy: Any, dbias: Any) -> None:
        """See ``kernels.reference.bias_grad``."""
        n, c, *rest = dy.shape
        inner = math.prod(rest)
        self.launch.add_sums(
            stored("bias", dy), "bias_grad_partials", c, n * inner, (dy, inner), dbias, contiguous=inner > 1
        )
