"""Solvers that give every weight a rate of its own: AdaGrad, RMSProp, AdaDelta, Adam."""

from __future__ import annotations

import math
from typing import Any

from minicaffe.solvers.base import Solver


class AdaGradSolver(Solver):
    r"""AdaGrad (Duchi, Hazan, Singer 2011).

    .. math:: h \leftarrow h + g^2, \quad w \leftarrow w - \eta g / (\sqrt h + \delta)

    History: h.  PrototxtError if ``momentum`` is set.
    """

    type = "AdaGrad"
    capturable = True

    def _check(self) -> None:
        self._require(
            self.param.momentum == 0, "momentum", "Momentum cannot be used with AdaGrad; remove it", self.param.momentum
        )

    def update(
        self, ops: Any, w: Any, g: Any, history: list[Any], rate: Any, scale: float, decay: float, l1: bool
    ) -> None:
        ops.adagrad_update(w, g, history[0], rate, self.param.delta, scale, decay, l1)


class RMSPropSolver(Solver):
    r"""RMSProp (Tieleman, Hinton 2012).

    .. math:: h \leftarrow \rho h + (1 - \rho) g^2, \quad w \leftarrow w - \eta g / (\sqrt h + \delta)

    with :math:`\rho` = ``rms_decay``.  History: h.  PrototxtError if ``momentum`` is set, or ``rms_decay`` is not in
    [0, 1).
    """

    type = "RMSProp"
    capturable = True

    def _check(self) -> None:
        p = self.param
        self._require(p.momentum == 0, "momentum", "Momentum cannot be used with RMSProp; remove it", p.momentum)
        self._require(0 <= p.rms_decay < 1, "rms_decay", "must lie in [0, 1)", p.rms_decay)

    def update(
        self, ops: Any, w: Any, g: Any, history: list[Any], rate: Any, scale: float, decay: float, l1: bool
    ) -> None:
        ops.rmsprop_update(w, g, history[0], rate, self.param.rms_decay, self.param.delta, scale, decay, l1)


class AdaDeltaSolver(Solver):
    r"""AdaDelta (Zeiler 2012), with a rate.

    .. math:: h \leftarrow \mu h + (1 - \mu) g^2, \quad u = g \sqrt{\frac{s + \delta}{h + \delta}}, \quad
              s \leftarrow \mu s + (1 - \mu) u^2, \quad w \leftarrow w - \eta u

    with :math:`\mu` = ``momentum``.  History: h, s.
    """

    type = "AdaDelta"
    capturable = True
    slots = 2

    def update(
        self, ops: Any, w: Any, g: Any, history: list[Any], rate: Any, scale: float, decay: float, l1: bool
    ) -> None:
        ops.adadelta_update(w, g, *history, rate, self.param.momentum, self.param.delta, scale, decay, l1)


class AdamSolver(Solver):
    r"""Adam (Kingma, Ba 2015).

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
              w \leftarrow w - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m}{\sqrt v + \delta}

    with :math:`\beta_1` = ``momentum``, :math:`\beta_2` = ``momentum2``, t the iteration counted from 1.  History: m,
    v. PrototxtError unless both lie in [0, 1).
    """

    type = "Adam"
    capturable = True
    slots = 2

    def _check(self) -> None:
        for field in ("momentum", "momentum2"):
            value = getattr(self.param, field)
            self._require(0 <= value < 1, field, "must lie in [0, 1)", value)

    def corrected(self, rate: float) -> float:
        p, t = self.param, self.iter + 1
        return rate * math.sqrt(1 - p.momentum2**t) / (1 - p.momentum**t)

    def update(
        self, ops: Any, w: Any, g: Any, history: list[Any], rate: Any, scale: float, decay: float, l1: bool
    ) -> None:
        p = self.param
        ops.adam_update(w, g, *history, rate, p.momentum, p.momentum2, p.delta, scale, decay, l1)
