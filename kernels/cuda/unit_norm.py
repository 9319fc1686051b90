"""Vectors of a length of 1, and the gradient through their length."""

from __future__ import annotations

from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, program


class UnitNormOps:
    """The functions of ``kernels/reference/unit_norm.py``."""

    launch: Launcher

    def unit_norm(self, x: Any, eps: float, power: int, norm: Any, z: Any) -> None:
        """See ``kernels.reference.unit_norm``."""
        self._along_channels("unit_norm", x, float(eps), power, norm, z)

    def unit_norm_grad(self, z: Any, norm: Any, dz: Any, power: int, dnorm: Any | None, dx: Any) -> None:
        """See ``kernels.reference.unit_norm_grad``."""
        self._along_channels("unit_norm_grad", z, norm, dz, power, dnorm, dx)

    def _along_channels(self, kernel: str, x: Any, *more: Any) -> None:
        outer, channels, inner = x.shape
        if x.size:
            self.launch.reduction(program("unit_norm", x.dtype), kernel, inner, channels, outer, x, *more, blocks=outer)
