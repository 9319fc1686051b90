"""How far a training is, in one line of a notebook that is written over."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from minicaffe import compat
from minicaffe.solvers.monitor import Monitor, Scalar

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver

_REFRESH = 0.25  # seconds between two looks at the loss, each of which waits for the device


class ProgressLine(Monitor):
    """Iteration, loss, learning rate and test scores; a line in each cell that trains."""

    def __init__(self) -> None:
        self._cell: Any = None
        self._line: Any = None
        self._written_at = 0.0
        self._scores: dict[int, str] = {}
        self._stale = False

    def iteration(self, solver: Solver) -> None:
        self._stale = True
        if time.monotonic() - self._written_at >= _REFRESH:
            self._write(solver)

    def test(self, iteration: int, net: int, outputs: list[Scalar], loss: float | None) -> None:
        scores = ", ".join(f"{output.name} {output.value:.4g}" for output in outputs)
        self._scores[net] = f"test net #{net} at {iteration}: {scores}"

    def stepped(self, solver: Solver) -> None:
        if self._stale:
            self._write(solver)

    def _write(self, solver: Solver) -> None:
        shell = compat.notebook()
        if shell is None:
            return
        self._written_at, self._stale = time.monotonic(), False
        total = f" of {solver.param.max_iter}" if solver.param.max_iter >= solver.iter else ""
        parts = [f"iteration {solver.iter}{total}", f"loss {solver.smoothed_loss:.4g}", f"lr {solver.lr:.4g}"]
        text = {"text/plain": ", ".join(parts) + "".join(f"; {scores}" for scores in self._scores.values())}
        display = compat.require("IPython.display").display
        if self._line is None or self._cell != shell.execution_count:
            self._cell, self._line = shell.execution_count, display(text, raw=True, display_id=True)
        else:
            self._line.update(text, raw=True)
