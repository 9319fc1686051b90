"""What a person sees of a training in a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from minicaffe.solvers import Monitor, Scalar, Solver

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_REFRESH = 0.5  # seconds between two looks at the loss, each of which waits for the device


class ProgressBar(Monitor):
    """A bar with iteration, iterations a second, time left, loss and test scores; what is reported scrolls above it."""

    def __init__(self, progress: Progress, solver: Solver) -> None:
        self._progress = progress
        self._task = progress.add_task(
            "", total=solver.param.max_iter, completed=solver.iter, speed="", loss="", test=""
        )
        self._looked_at = 0.0

    @classmethod
    @contextlib.contextmanager
    def shown(cls, console: Console, solver: Solver) -> Iterator[ProgressBar]:
        """The bar for ``solver`` on ``console``, for the length of a block."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            MofNCompleteColumn(),
            BarColumn(None),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("[bold]{task.fields[loss]}"),
            TextColumn("{task.fields[test]}", markup=False),
        )
        with Progress(*columns, console=console) as progress:
            yield cls(progress, solver)

    def iteration(self, solver: Solver) -> None:
        self._progress.update(self._task, completed=solver.iter)
        now = time.monotonic()
        if now - self._looked_at >= _REFRESH:
            self._looked_at = now
            speed = self._progress.tasks[0].speed or 0
            self._progress.update(self._task, speed=f"{speed:.3g} it/s", loss=f"loss {solver.smoothed_loss:.4g}")

    def display(self, iteration: int, loss: float, outputs: list[Scalar], rate: float) -> None:
        self._say(f"iteration {iteration}: loss {loss:.4g}, lr {rate:.4g}")

    def test(self, iteration: int, net: int, outputs: list[Scalar], loss: float | None) -> None:
        scores = ", ".join(f"{output.name} {output.value:.4g}" for output in outputs)
        self._progress.update(self._task, test=f"test {scores}")
        self._say(f"iteration {iteration}: test net #{net}: {scores}")

    def snapshot(self, model: str, state: str) -> None:
        self._say(f"snapshot: {state}")

    def _say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)
