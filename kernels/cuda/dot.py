"""Inner products, and what a solver's step multiplies the gradients by."""

from __future__ import annotations

from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, program
from minicaffe.kernels.reference.dot import LARGEST_LOSS_SCALE


class DotOps:
    """The functions of ``kernels/reference/dot.py``."""

    launch: Launcher

    def dot(self, a: Any, b: Any, out: Any) -> None:
        """See ``kernels.reference.dot``."""
        self.launch.add_sums(program("linear", a.dtype), "dot_partials", 1, a.size, (a, b), out, contiguous=True)

    def rescale(self, x: Any, scale: Any, inverse: bool) -> None:
        """See ``kernels.reference.rescale``."""
        self.launch.flat(program("linear", x.dtype), "rescale", x.size, x, scale, bool(inverse))

    def gradient_scale(self, g: Any, limit: float, scale: float, loss_scale: Any, norm: Any, factor: Any) -> None:
        """See ``kernels.reference.gradient_scale``."""
        linear, scaled = program("linear", g.dtype), loss_scale is not None
        partials = self.launch.partial_sums(linear, "dot_partials", 1, g.size, g, g)
        numbers = float(limit), float(scale), LARGEST_LOSS_SCALE, scaled
        self.launch.reduction(
            linear, "gradient_scale", *partials, *numbers, loss_scale if scaled else factor, norm, factor
        )
