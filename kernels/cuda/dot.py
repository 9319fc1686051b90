"""Inner products, and gradient clipping by the L2 norm."""

from __future__ import annotations

from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, program


class DotOps:
    """The functions of ``kernels/reference/dot.py``."""

    launch: Launcher

    def dot(self, a: Any, b: Any, out: Any) -> None:
        """See ``kernels.reference.dot``."""
        self.launch.add_sums(program("linear", a.dtype), "dot_partials", 1, a.size, (a, b), out, contiguous=True)

    def clip_by_norm(self, g: Any, limit: float, norm: Any) -> None:
        """See ``kernels.reference.clip_by_norm``."""
        linear = program("linear", g.dtype)
        partials = self.launch.partial_sums(linear, "dot_partials", 1, g.size, g, g)
        self.launch.reduction(linear, "norm_of_partials", *partials, norm)
        self.launch.flat(linear, "clip_to_norm", g.size, g, float(limit), norm)
