"""The best test of a training so far, and what follows from it: stopping early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minicaffe.errors import NetError
from minicaffe.solvers import progress
from minicaffe.solvers.monitor import STOP, Monitor, Scalar, distinct_names

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver

MODES = ("max", "min")


class Best:
    """The best value so far of one output of a test net, and the iteration of its test.

    ``output`` names an output of the net, with an index where it has several numbers (``accuracy[3]``).  "loss" is,
    where no output is called so, the net's loss: the weighted sum of its outputs.  ``mode``, "max" or "min", says which
    values are better; without it less is for losses (what has a loss weight, or "loss" or "error" in its name), and
    more for all else.  NaN is never best.

    Raises ValueError for another ``mode``.
    """

    def __init__(self, output: str, mode: str = "", net: int = 0) -> None:
        if mode and mode not in MODES:
            raise ValueError(f"mode: expected 'max' or 'min'; found {mode!r}")
        self.output, self.mode, self.net = output, mode, net
        self.value, self.iteration = math.nan, -1
        self._tested = -1

    def __str__(self) -> str:
        return f"{self.output} {self.value:.6g} at iteration {self.iteration}"

    @property
    def name(self) -> str:
        """Which output, of which net, in which sense."""
        return f"{self.output}:{self.mode}:{self.net}"

    def check(self, solver: Solver) -> None:
        """Raise a NetError unless the solver tests a net with that output."""
        place = f"{solver.source.path}: " if solver.source.path else ""
        if self.net >= len(solver.test_nets) or not solver.param.test_iter[self.net]:
            raise NetError(
                f"{place}no test tells which weights are best: expected a test net #{self.net} with a test_iter above "
                f"0, found {len(solver.test_nets)} test nets; add one, with test_iter and test_interval, to the solver"
            )
        outputs = progress.outputs(solver.test_nets[self.net])
        if self._find(outputs) is None:
            raise NetError(
                f"{place}test net #{self.net} has no output '{self.output}'; it has: "
                f"{', '.join(distinct_names(outputs)) or 'none'}"
            )

    def take(self, iteration: int, net: int, outputs: Sequence[Scalar]) -> bool | None:
        """Whether a test found a better value; None for another net's, and for one that was counted before.

        The test of the iteration of a snapshot is repeated by a training that is resumed from there.
        """
        found = self._find(outputs) if net == self.net else None
        if found is None or iteration == self._tested:
            return None
        self._tested = iteration
        less = (self.mode or _usual_mode(found)) == "min"
        better = found.value < self.value if less else found.value > self.value
        if math.isnan(found.value) or not (better or math.isnan(self.value)):
            return False
        self.value, self.iteration = found.value, iteration
        return True

    def _find(self, outputs: Sequence[Scalar]) -> Scalar | None:
        for name, output in zip(distinct_names(outputs), outputs, strict=True):
            if name == self.output:
                return output
        losses = [output for output in outputs if output.weight]
        if self.output == "loss" and losses:
            return Scalar("loss", sum(output.weight * output.value for output in losses), 1)
        return None

    def state(self) -> dict[str, Any]:
        """Values that JSON can hold, for ``restore``."""
        return {"value": self.value, "iteration": self.iteration, "tested": self._tested}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``; KeyError, TypeError or ValueError if it is none."""
        value, iteration, tested = float(state["value"]), int(state["iteration"]), int(state["tested"])
        self.value, self.iteration, self._tested = value, iteration, tested


def _usual_mode(output: Scalar) -> str:
    loss = output.weight or any(word in output.name.lower() for word in ("loss", "error"))
    return "min" if loss else "max"


class EarlyStop(Monitor):
    """Stops the training when so many ``tests`` in a row found no better value of an output; see ``Best``.

    The count goes on in a training that is resumed.
    """

    def __init__(self, tests: int, output: str = "loss", mode: str = "", net: int = 0) -> None:
        if tests < 1:
            raise ValueError(f"tests: expected 1 or more; found {tests}")
        self.tests, self.best = tests, Best(output, mode, net)
        self.name = f"early_stop {self.best.name}"
        self.without_improvement = 0
        self._due = False

    @property
    def reached(self) -> bool:
        """Whether so many tests found nothing better."""
        return self.without_improvement >= self.tests

    def begin(self, solver: Solver) -> None:
        self.best.check(solver)

    def test(self, iteration: int, net: int, outputs: list[Scalar], loss: float | None) -> None:
        better = self.best.take(iteration, net, outputs)
        if better is not None:
            self.without_improvement = 0 if better else self.without_improvement + 1
            self._due = self.reached

    def request(self) -> str | None:
        due, self._due = self._due, False
        return STOP if due else None

    def state(self) -> dict[str, Any]:
        return {**self.best.state(), "without_improvement": self.without_improvement}

    def restore(self, state: dict[str, Any]) -> None:
        count = int(state["without_improvement"])
        self.best.restore(state)
        self.without_improvement = count
