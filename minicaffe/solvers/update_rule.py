"""What turns gradients into steps: the part of a solver that its kinds differ in."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from numpy.typing import NDArray

from minicaffe import proto
from minicaffe.net import Net
from minicaffe.solvers import larc
from minicaffe.solvers.loss_scale import LossScale
from minicaffe.solvers.policy import Schedule
from minicaffe.solvers.stepping import Stepper
from minicaffe.storage import Storage

_log = logging.getLogger(__name__)


class UpdateRule:
    """Base of Solver: its kinds declare how many history buffers they keep and how params are updated."""

    param: proto.SolverParameter
    net: Net
    iter: int
    schedule: Schedule
    history: list[Storage]
    loss_scale: LossScale | None
    _stepper: Stepper

    slots: ClassVar[int] = 1
    capturable: ClassVar[bool] = False
    """Whether ``update`` does nothing but call ops of the solver's kind, by its arguments and fields of the
    SolverParameter: a device then replays it.  Each class says so for itself: it is not inherited."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.capturable = cls.__dict__.get("capturable", False)

    @property
    def lr(self) -> float:
        """The learning rate of the coming update.  Caffe: under "multistep" reading it may advance the step."""
        return self.schedule.rate(self.iter)

    @property
    def current_step(self) -> int:
        """How many steps down the learning rate has taken, under a policy with steps."""
        return self.schedule.current_step

    def apply_update(self) -> None:
        """Turn the gradients into a step, take it, and count the iteration; gradients are left holding the step."""
        p = self.param
        rate = self.lr
        self.schedule.advance(self.iter)
        if p.display and self.iter % p.display == 0:
            _log.info("Iteration %d, lr = %g", self.iter, rate)
        self._stepper.take(self, rate)
        self.iter += 1

    def corrected(self, rate: float) -> float:
        """What ``update`` gets as the rate of the coming iteration."""
        return rate

    @property
    def momentum(self) -> float:
        """The momentum of the coming update."""
        asks_rate = self.param.momentum_policy == "opt"
        return larc.momentum(self.param, self.iter, self.lr if asks_rate else 0.0)

    def update(
        self, ops: Any, w: Any, g: Any, history: list[Any], rate: Any, scale: float, decay: float, l1: bool
    ) -> None:
        """Step one range of params: flat arrays w, g and one array a history slot, all of one size.

        Rate and scale of a ``capturable`` solver may be arrays, for an op of the backend to read: on a device it gets
        all params at once.
        """
        raise NotImplementedError

    def history_blobs(self) -> list[NDArray]:
        """The history as Caffe stores it: slot after slot, one array a learnable param (views)."""
        return [
            slot.host()[param.offset : param.offset + param.blob.count].reshape(param.blob.shape)
            for slot in self.history
            for param in self.net.learnable
        ]
