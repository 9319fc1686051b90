"""The step that a solver takes once the gradients are complete: clipping, and one update for each range of params."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minicaffe import backend, proto
from minicaffe.blob import Blob, Storage
from minicaffe.engine.replay import Replay, Work
from minicaffe.kernels import fast_paths
from minicaffe.net import Net
from minicaffe.solvers import larc, progress

if TYPE_CHECKING:
    from minicaffe.solvers.update_rule import UpdateRule


class Stepper(Work):
    """Steps the packed params ``data`` of a net by their gradients ``diff``, as its solver says.

    On a device the step is captured: its rates lie in memory there, and what else ``UpdateRule.update`` goes by, fields
    of the SolverParameter, is the state that a capture holds for.
    """

    def __init__(self, net: Net, data: Storage, diff: Storage) -> None:
        self._data, self._diff = data, diff
        self._ranges = _ranges(net)
        self._norm = Blob((), net.dtype)
        self._replay = Replay()

    def take(self, solver: UpdateRule, rate: float) -> None:
        """Clip the gradients and step, at the learning rate ``rate`` times each param's multiplier or its own rate."""
        where, p = backend.current(), solver.param
        own = solver.capturable and "update" not in vars(solver)  # nobody put a function in its place
        with where.running():
            if p.larc:  # goes by the clipped gradients
                self._clip(p)
                local = larc.local_rates(solver.net, p, rate)
                own_rates = [(start, stop, solver.corrected(own), decay) for start, stop, own, decay in local]
                self._update(solver, own_rates)
            else:
                self._step_alike(solver, where, rate, own)
        if p.clip_gradients >= 0:
            progress.log_clipping(float(self._norm.peek_data()), p.clip_gradients)

    def _step_alike(self, solver: UpdateRule, where: backend.Backend, rate: float, own: bool) -> None:
        """Step all params, those alike together: on a device by a replay, unless it is not its ``own`` update."""
        rates = [solver.corrected(rate * lr_mult) for _, _, lr_mult, _ in self._ranges]
        numbers = where.numbers(self, rates) if own else rates
        ranges = [
            (start, stop, number, decay_mult)
            for (start, stop, _, decay_mult), number in zip(self._ranges, numbers, strict=True)
        ]

        def work() -> None:
            self._clip(solver.param)
            self._update(solver, ranges)

        if where.is_host or not own or not fast_paths.taken("replay"):
            work()
        else:
            self._replay.run(where, self._state(solver, where), self, work)

    def left(self) -> Any:
        return self._diff.zeros

    def leave(self, left: Any) -> None:
        self._diff.zeros = left

    def _state(self, solver: UpdateRule, where: backend.Backend) -> tuple:
        p = solver.param
        whole = p.clip_gradients, p.iter_size, larc.weight_decay(p, solver.iter), p.regularization_type
        own = solver.momentum, p.momentum2, p.rms_decay, p.delta
        return where, where.settings(), self._diff.zeros, whole, own

    def _clip(self, p: proto.SolverParameter) -> None:
        if p.clip_gradients >= 0:
            backend.current().ops.clip_by_norm(self._diff.array(), p.clip_gradients, self._norm.xdata)

    def _update(self, solver: UpdateRule, ranges: Sequence[tuple[int, int, Any, float]]) -> None:
        """Update ranges of the params: (start, stop, rate, decay_mult)."""
        p, ops = solver.param, backend.current().ops
        w, g = self._data.array(), self._diff.array()
        history = [slot.array() for slot in solver.history]
        decay = larc.weight_decay(p, solver.iter)
        for start, stop, rate, decay_mult in ranges:
            solver.update(
                ops,
                w[start:stop],
                g[start:stop],
                [h[start:stop] for h in history],
                rate,
                1 / p.iter_size,
                decay * decay_mult,
                p.regularization_type == "L1",
            )


def _ranges(net: Net) -> list[tuple[int, int, float, float]]:
    """Ranges of the packed params with equal multipliers: (start, stop, lr_mult, decay_mult)."""
    ranges: dict[tuple[float, float], tuple[int, int]] = {}
    for param in net.learnable:
        start, stop = ranges.get(param.multipliers, (param.offset, 0))
        ranges[param.multipliers] = min(start, param.offset), max(stop, param.offset + param.blob.count)
    return [(*ends, *multipliers) for multipliers, ends in ranges.items()]
