"""Local response normalisation."""

from __future__ import annotations

import math
from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, program


class LrnOps:
    """The functions of ``kernels/reference/lrn.py``."""

    launch: Launcher

    def lrn(self, x: Any, scale: Any | None, y: Any, size: int, alpha: float, beta: float, k: float) -> None:
        """See ``kernels.reference.lrn``."""
        n, c, inner = x.shape
        args = (x, scale, y, c, size, float(alpha), float(beta), float(k))
        self.launch.planes(program("lrn", x.dtype), "lrn", n * c, inner, *args)

    def lrn_grad(self, x: Any, y: Any, scale: Any, dy: Any, dx: Any, size: int, alpha: float, beta: float) -> None:
        """See ``kernels.reference.lrn_grad``."""
        n, c, inner = x.shape
        args = (x, y, scale, dy, dx, c, size, float(alpha), float(beta))
        self.launch.planes(program("lrn", x.dtype), "lrn_grad", n * c, inner, *args)

    def lrn_within(self, x: Any, scale: Any | None, y: Any, size: int, alpha: float, beta: float) -> None:
        """See ``kernels.reference.lrn_within``."""
        n, c, *image = x.shape
        args = (x, scale, y, *image, size, float(alpha), float(beta))
        self.launch.planes(program("lrn", x.dtype), "lrn_within", n * c, math.prod(image), *args)

    def lrn_within_grad(
        self, x: Any, y: Any, scale: Any, dy: Any, dx: Any, size: int, alpha: float, beta: float
    ) -> None:
        """See ``kernels.reference.lrn_within_grad``."""
        n, c, *image = x.shape
        args = (x, y, scale, dy, dx, *image, size, float(alpha), float(beta))
        self.launch.planes(program("lrn", x.dtype), "lrn_within_grad", n * c, math.prod(image), *args)
