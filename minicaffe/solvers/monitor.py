"""What a solver tells about its work, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver


@dataclass
class Scalar:
    """One number of an output blob, with its loss weight."""

    name: str
    value: float
    weight: float = 0.0

    def __str__(self) -> str:
        weighted = f" (* {self.weight:g} = {self.weight * self.value:g} loss)" if self.weight else ""
        return f"{self.name} = {self.value:g}{weighted}"


class Monitor:
    """Told what a solver does, as it does it; derive from it and pass an instance to ``Solver.monitors``."""

    def iteration(self, solver: Solver) -> None:
        """An iteration ended; ``solver.iter`` counts it already."""

    def stepped(self, solver: Solver) -> None:
        """``Solver.step`` has done its iterations, or was stopped."""

    def display(self, iteration: int, loss: float, outputs: list[Scalar], rate: float) -> None:
        """The (smoothed) training loss, the train net's outputs, and the learning rate."""

    def test(self, iteration: int, net: int, outputs: list[Scalar], loss: float | None) -> None:
        """Mean outputs of test net number ``net``, and its mean loss if ``test_compute_loss`` is on."""

    def snapshot(self, model: str, state: str) -> None:
        """Snapshot files were written."""
