"""The step that a solver takes once the gradients are complete: clipping, and one update for each range of params."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minicaffe import backend, proto
from minicaffe.blob import Blob, Storage
from minicaffe.engine.replay import Replay, Work
from minicaffe.kernels import fast_paths
from minicaffe.net import Net
from minicaffe.solvers import progress

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver


class Stepper(Work):
    """Steps the packed params ``data`` of a net by their gradients ``diff``, as its solver says.

    On a device the step is captured: its rates lie in memory there, and what else ``Solver.update`` goes by, fields of
    the SolverParameter, is the state that a capture holds for.
    """

    def __init__(self, net: Net, data: Storage, diff: Storage) -> None:
        self._data, self._diff = data, diff
        self._ranges = _ranges(net)
        self._norm = Blob((), net.dtype)
        self._replay = Replay()

    def take(self, solver: Solver, rate: float) -> None:
        """Clip the gradients and step, at the learning rate ``rate`` times each param's multiplier."""
        where, p = backend.current(), solver.param
        rates = [solver.corrected(rate * lr_mult) for _, _, lr_mult, _ in self._ranges]
        own = solver.capturable and "update" not in vars(solver)  # nobody put a function in its place
        with where.running():
            numbers = where.numbers(self, rates) if own else rates
            if where.is_host or not own or not fast_paths.taken("replay"):
                self._update(solver, numbers)
            else:
                self._replay.run(where, self._state(where, p), self, lambda: self._update(solver, numbers))
        if p.clip_gradients >= 0:
            progress.log_clipping(float(self._norm.peek_data()), p.clip_gradients)

    def left(self) -> Any:
        return self._diff.zeros

    def leave(self, left: Any) -> None:
        self._diff.zeros = left

    def _state(self, where: backend.Backend, p: proto.SolverParameter) -> tuple:
        whole = p.clip_gradients, p.iter_size, p.weight_decay, p.regularization_type
        own = p.momentum, p.momentum2, p.rms_decay, p.delta
        return where, where.settings(), self._diff.zeros, whole, own

    def _update(self, solver: Solver, rates: Sequence[Any]) -> None:
        p, ops = solver.param, backend.current().ops
        w, g = self._data.array(), self._diff.array()
        history = [slot.array() for slot in solver.history]
        if p.clip_gradients >= 0:
            ops.clip_by_norm(g, p.clip_gradients, self._norm.xdata)
        for (start, stop, _, decay_mult), rate in zip(self._ranges, rates, strict=True):
            solver.update(
                ops,
                w[start:stop],
                g[start:stop],
                [h[start:stop] for h in history],
                rate,
                1 / p.iter_size,
                p.weight_decay * decay_mult,
                p.regularization_type == "L1",
            )


def _ranges(net: Net) -> list[tuple[int, int, float, float]]:
    """Ranges of the packed params with equal multipliers: (start, stop, lr_mult, decay_mult)."""
    ranges: dict[tuple[float, float], tuple[int, int]] = {}
    for param in net.learnable:
        start, stop = ranges.get(param.multipliers, (param.offset, 0))
        ranges[param.multipliers] = min(start, param.offset), max(stop, param.offset + param.blob.count)
    return [(*ends, *multipliers) for multipliers, ends in ranges.items()]
