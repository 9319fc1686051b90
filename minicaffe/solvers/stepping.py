"""The step that a solver takes once the gradients are complete: clipping, and one update for each range of params."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minicaffe import backend
from minicaffe.blob import Blob, Storage
from minicaffe.engine.replay import Replay
from minicaffe.kernels import fast_paths
from minicaffe.net import Net
from minicaffe.solvers import progress

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver


class Stepper:
    """Steps the packed params ``data`` of a solver by their gradients ``diff``.

    On a device the step is captured: its rates lie in memory there, and what else ``Solver.update`` goes by, fields of
    the SolverParameter, is the state that a capture holds for.
    """

    def __init__(self, solver: Solver, data: Storage, diff: Storage) -> None:
        self._solver, self._data, self._diff = solver, data, diff
        self._ranges = _ranges(solver.net)
        self._norm = Blob((), solver.net.dtype)
        self._replay = Replay(lambda: diff.zeros, self._leave_zeros)

    def take(self, rate: float) -> None:
        """Clip the gradients and step, at the learning rate ``rate`` times each param's multiplier."""
        solver, where, p = self._solver, backend.current(), self._solver.param
        rates = [solver.corrected(rate * lr_mult) for _, _, lr_mult, _ in self._ranges]
        own = solver.capturable and "update" not in vars(solver)  # nobody put a function in its place
        with where.running():
            numbers = where.numbers(self, rates) if own else rates
            if where.is_host or not own or not fast_paths.taken("replay"):
                self._update(numbers)
            else:
                self._replay.run(where, self._state(where), lambda: self._update(numbers))
        if p.clip_gradients >= 0:
            progress.log_clipping(float(self._norm.peek_data()), p.clip_gradients)

    def _state(self, where: backend.Backend) -> tuple:
        p = self._solver.param
        whole = p.clip_gradients, p.iter_size, p.weight_decay, p.regularization_type
        own = p.momentum, p.momentum2, p.rms_decay, p.delta
        return where, where.settings(), self._diff.zeros, whole, own

    def _update(self, rates: Sequence[Any]) -> None:
        p, ops = self._solver.param, backend.current().ops
        w, g = self._data.array(), self._diff.array()
        history = [slot.array() for slot in self._solver.history]
        if p.clip_gradients >= 0:
            ops.clip_by_norm(g, p.clip_gradients, self._norm.xdata)
        for (start, stop, _, decay_mult), rate in zip(self._ranges, rates, strict=True):
            self._solver.update(
                ops,
                w[start:stop],
                g[start:stop],
                [h[start:stop] for h in history],
                rate,
                1 / p.iter_size,
                p.weight_decay * decay_mult,
                p.regularization_type == "L1",
            )

    def _leave_zeros(self, zeros: Any) -> None:
        self._diff.zeros = zeros


def _ranges(net: Net) -> list[tuple[int, int, float, float]]:
    """Ranges of the packed params with equal multipliers: (start, stop, lr_mult, decay_mult)."""
    ranges: dict[tuple[float, float], tuple[int, int]] = {}
    for param in net.learnable:
        start, stop = ranges.get(param.multipliers, (param.offset, 0))
        ranges[param.multipliers] = min(start, param.offset), max(stop, param.offset + param.blob.count)
    return [(*ends, *multipliers) for multipliers, ends in ranges.items()]
