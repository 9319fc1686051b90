"""The step that a solver takes once the gradients are complete: clipping, and the update of all params."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from minicaffe import backend
from minicaffe.blob import Blob
from minicaffe.engine.replay import Replay, Work
from minicaffe.kernels import fast_paths
from minicaffe.net import Net
from minicaffe.solvers import larc, progress
from minicaffe.solvers.larc import Range
from minicaffe.storage import Storage

if TYPE_CHECKING:
    from minicaffe.solvers.update_rule import UpdateRule


class Stepper(Work):
    """Steps the packed params ``data`` of a net by their gradients ``diff``, as its solver says.

    The host calls ``UpdateRule.update`` for each range of params that step alike.  A device updates all in one launch,
    by a table of the ranges in its memory, and replays that: what changes from step to step it reads there, and what
    else ``UpdateRule.update`` goes by, fields of the SolverParameter, is the state that a capture holds for.
    """

    def __init__(self, net: Net, data: Storage, diff: Storage) -> None:
        self._net, self._data, self._diff = net, data, diff
        self._ranges = larc.common_rates(net)
        self._norm, self._factor = Blob((), net.dtype), Blob((), np.float64)
        self._replay = Replay()

    def take(self, solver: UpdateRule, rate: float) -> None:
        """Clip the gradients and step, at the learning rate ``rate`` times each param's multiplier or its own rate."""
        where, p = backend.current(), solver.param
        own = solver.capturable and "update" not in vars(solver)  # nobody put a function in its place
        with where.running():
            ranges = self._ranges
            if p.larc:
                scaled = solver.loss_scale.value if solver.loss_scale else 1.0
                ranges, rate = larc.local_rates(self._net, p, rate, scaled), 1.0
            rates = [solver.corrected(rate * item.rate) for item in ranges]
            if where.is_host or not own:
                self._update_each(solver, ranges, rates)
            else:
                self._update_all(solver, where, ranges, rates)
        if p.clip_gradients >= 0 and (where.is_host or (p.display and solver.iter % p.display == 0)):
            progress.log_clipping(float(self._norm.peek_data()), p.clip_gradients)

    def left(self) -> Any:
        return self._diff.zeros

    def leave(self, left: Any) -> None:
        self._diff.zeros = left

    def _update_each(self, solver: UpdateRule, ranges: Sequence[Range], rates: Sequence[float]) -> None:
        """One range after the other, with numbers of the host."""
        scale = self._scale(solver)
        scale = float(self._factor.peek_data()) if isinstance(scale, Blob) else scale
        if math.isnan(scale):
            self._diff.array().fill(0)
            return
        for item, rate in zip(ranges, rates, strict=True):
            self._update(solver, slice(item.start, item.stop), rate, scale, item.decay_mult)

    def _update_all(
        self, solver: UpdateRule, where: backend.Backend, ranges: Sequence[Range], rates: Sequence[float]
    ) -> None:
        """All ranges at once, with numbers in the memory of a device."""
        table = where.numbers(self, _table(ranges, rates, self._data.size))

        def work() -> None:
            scale = self._scale(solver)
            self._update(solver, slice(None), table.reshape(-1, 3), scale.xdata if isinstance(scale, Blob) else scale)

        if fast_paths.taken("replay"):
            self._replay.run(where, self._state(solver, where), self, work)
        else:
            work()

    def _state(self, solver: UpdateRule, where: backend.Backend) -> tuple:
        p, loss_scale = solver.param, solver.loss_scale
        scaled = None if loss_scale is None else id(loss_scale.storage)  # which a capture keeps alive
        whole = p.clip_gradients, p.iter_size, larc.weight_decay(p, solver.iter), p.regularization_type
        own = solver.momentum, p.momentum2, p.rms_decay, p.delta
        return where, where.settings(), self._diff.zeros, scaled, whole, own

    def _scale(self, solver: UpdateRule) -> float | Blob:
        """What the gradients are to be multiplied by: a number, or where it will be found."""
        p, loss_scale = solver.param, solver.loss_scale
        scale = 1 / p.iter_size
        if p.clip_gradients < 0 and loss_scale is None:
            return scale
        g, norm, factor = self._diff.array(), self._norm.xdata, self._factor.xdata
        numbers = None if loss_scale is None else loss_scale.storage.array()
        backend.current().ops.gradient_scale(g, p.clip_gradients, scale, numbers, norm, factor)
        return self._factor

    def _update(self, solver: UpdateRule, where: slice, rate: Any, scale: Any, decay_mult: float = 1.0) -> None:
        p = solver.param
        w, g, *history = [storage.array()[where] for storage in (self._data, self._diff, *solver.history)]
        decay = larc.weight_decay(p, solver.iter) * decay_mult
        solver.update(backend.current().ops, w, g, history, rate, scale, decay, p.regularization_type == "L1")


def _table(ranges: Sequence[Range], rates: Sequence[float], size: int) -> list[float]:
    """What ``kernels/reference/solver_update.py`` describes, row after row, of ranges that fill an array of ``size``
    but for gaps.
    """
    ends = [*[item.start for item in ranges[1:]], size]
    rows = zip(ends, rates, [item.decay_mult for item in ranges], strict=True)
    return [number for row in rows for number in row]
