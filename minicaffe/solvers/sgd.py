"""Stochastic gradient descent with momentum, and with Nesterov's."""

from __future__ import annotations

from typing import Any

from minicaffe.solvers.base import Solver


class SGDSolver(Solver):
    r"""SGD with momentum: :math:`h \leftarrow \mu h + \eta g, \; w \leftarrow w - h`.

    History: h.  Caffe: the rate is folded into h, so that changing it does not rescale past momentum.
    """

    type = "SGD"
    capturable = True

    def update(
        self, ops: Any, w: Any, g: Any, history: list[Any], rate: Any, scale: float, decay: float, l1: bool
    ) -> None:
        ops.sgd_update(w, g, history[0], rate, self.momentum, scale, decay, l1)


class NesterovSolver(Solver):
    r"""Nesterov's accelerated gradient.

    .. math:: h' = \mu h + \eta g, \quad w \leftarrow w - ((1 + \mu) h' - \mu h), \quad h \leftarrow h'

    History: h (Sutskever et al. 2013).
    """

    type = "Nesterov"
    capturable = True

    def update(
        self, ops: Any, w: Any, g: Any, history: list[Any], rate: Any, scale: float, decay: float, l1: bool
    ) -> None:
        ops.nesterov_update(w, g, history[0], rate, self.momentum, scale, decay, l1)
