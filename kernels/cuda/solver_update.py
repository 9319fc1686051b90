"""Solver steps on flat arrays."""

from __future__ import annotations

from numbers import Real
from typing import Any

from minicaffe.kernels.cuda.launch import Launcher, program


class SolverUpdateOps:
    """The functions of ``kernels/reference/solver_update.py``.

    Rate and scale may lie in the memory of the device, as described there: a captured launch reads them anew at each
    replay.
    """

    launch: Launcher

    def sgd_update(
        self, w: Any, g: Any, h: Any, rate: float, momentum: float, scale: float, decay: float, l1: bool
    ) -> None:
        """See ``kernels.reference.sgd_update``."""
        self._update("sgd_update", (w, g, h), (rate, momentum, scale, decay), l1)

    def nesterov_update(
        self, w: Any, g: Any, h: Any, rate: float, momentum: float, scale: float, decay: float, l1: bool
    ) -> None:
        """See ``kernels.reference.nesterov_update``."""
        self._update("nesterov_update", (w, g, h), (rate, momentum, scale, decay), l1)

    def adagrad_update(
        self, w: Any, g: Any, h: Any, rate: float, delta: float, scale: float, decay: float, l1: bool
    ) -> None:
        """See ``kernels.reference.adagrad_update``."""
        self._update("adagrad_update", (w, g, h), (rate, delta, scale, decay), l1)

    def rmsprop_update(
        self, w: Any, g: Any, h: Any, rate: float, memory: float, delta: float, scale: float, decay: float, l1: bool
    ) -> None:
        """See ``kernels.reference.rmsprop_update``."""
        self._update("rmsprop_update", (w, g, h), (rate, memory, delta, scale, decay), l1)

    def adadelta_update(
        self,
        w: Any,
        g: Any,
        h: Any,
        steps: Any,
        rate: float,
        memory: float,
        delta: float,
        scale: float,
        decay: float,
        l1: bool,
    ) -> None:
        """See ``kernels.reference.adadelta_update``."""
        self._update("adadelta_update", (w, g, h, steps), (rate, memory, delta, scale, decay), l1)

    def adam_update(
        self,
        w: Any,
        g: Any,
        m: Any,
        v: Any,
        rate: float,
        beta1: float,
        beta2: float,
        delta: float,
        scale: float,
        decay: float,
        l1: bool,
    ) -> None:
        """See ``kernels.reference.adam_update``."""
        self._update("adam_update", (w, g, m, v), (rate, beta1, beta2, delta, scale, decay), l1)

    def _update(self, kernel: str, arrays: tuple, numbers: tuple[float, ...], l1: bool) -> None:
        w, (rate, *own, scale, decay) = arrays[0], numbers
        kinds = ["double" if isinstance(number, Real) else "const double*" for number in (rate, scale)]
        rate, scale = (float(number) if isinstance(number, Real) else number for number in (rate, scale))
        source = program("solver_update", w.dtype, *kinds)
        self.launch.flat(source, kernel, w.size, *arrays, rate, *map(float, own), scale, float(decay), bool(l1))
