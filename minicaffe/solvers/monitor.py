"""What a solver tells about its work, and to whom; and what those may ask of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver

SNAPSHOT, STOP = "snapshot", "stop"


@dataclass
class Scalar:
    """One number of an output blob, with its loss weight."""

    name: str
    value: float
    weight: float = 0.0

    def __str__(self) -> str:
        weighted = f" (* {self.weight:g} = {self.weight * self.value:g} loss)" if self.weight else ""
        return f"{self.name} = {self.value:g}{weighted}"


def distinct_names(outputs: Sequence[Scalar]) -> list[str]:
    """A name for each number: the output's, with an index where it has several (``accuracy[3]``)."""
    total, seen = Counter(output.name for output in outputs), Counter[str]()
    names = []
    for output in outputs:
        names.append(f"{output.name}[{seen[output.name]}]" if total[output.name] > 1 else output.name)
        seen[output.name] += 1
    return names


class Monitor:
    """Told what a solver does, as it does it; derive from it and append an instance to ``Solver.monitors``.

    One with a ``name`` has its ``state`` kept in every snapshot, and gets it back when a solver is restored from that.
    """

    name: str = ""

    def begin(self, solver: Solver) -> None:
        """The solver is about to work: for the first time since this monitor was appended, or since a ``restore``."""

    def gradients(self, solver: Solver) -> None:
        """The gradients of an iteration are complete: summed over ``iter_size`` passes, and not yet clipped."""

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

    def request(self) -> str | None:
        """``SNAPSHOT`` or ``STOP``, which the solver then obeys, or None; asked after tests and iterations."""
        return None

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs, as values that JSON can hold."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``.  A KeyError, TypeError or ValueError says that it is damaged, and changes nothing."""

    def close(self) -> None:
        """The solver is closed: files are, too."""


def states(monitors: Sequence[Monitor]) -> dict[str, dict[str, Any]]:
    """The state of each monitor with a name."""
    return {monitor.name: monitor.state() for monitor in monitors if monitor.name}


def restore(monitors: Sequence[Monitor], kept: dict[str, dict[str, Any]]) -> None:
    """Give each monitor its state of those ``kept``, and take it out of there."""
    for monitor in monitors:
        if monitor.name in kept:
            monitor.restore(kept.pop(monitor.name))
