"""Learning-rate policies: the rate at an iteration, as Caffe computes it."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from minicaffe import proto
from minicaffe.errors import PrototxtError

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver

_log = logging.getLogger(__name__)


def _fixed(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    return p.base_lr


def _step(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    _require(p.stepsize > 0, "stepsize", p.stepsize, "positive")
    solver.current_step = i // p.stepsize
    return p.base_lr * p.gamma**solver.current_step


def _exp(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    return p.base_lr * p.gamma**i


def _inv(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    return p.base_lr * (1 + p.gamma * i) ** -p.power


def _multistep(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    """Caffe: one evaluation passes at most one of the ``stepvalue`` marks."""
    if solver.current_step < len(p.stepvalue) and i >= p.stepvalue[solver.current_step]:
        solver.current_step += 1
        _log.info("MultiStep Status: Iteration %d, step = %d", i, solver.current_step)
    return p.base_lr * p.gamma**solver.current_step


def _poly(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    return p.base_lr * (1 - i / p.max_iter) ** p.power if i < p.max_iter else 0.0


def _sigmoid(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    """Caffe: with the gamma >= 0 that it asks for, the rate rises toward base_lr."""
    _require(p.stepsize > 0, "stepsize", p.stepsize, "positive")
    return p.base_lr / (1 + math.exp(-p.gamma * (i - p.stepsize)))


POLICIES: dict[str, Callable[[Solver, proto.SolverParameter, int], float]] = {
    "fixed": _fixed, "step": _step, "exp": _exp, "inv": _inv, "multistep": _multistep, "poly": _poly, "sigmoid": _sigmoid,
}
"""Rate at iteration i, counted before the update, by the solver's ``lr_policy``."""


def check_policy(p: proto.SolverParameter) -> None:
    """PrototxtError unless ``lr_policy`` is known and its numbers make sense."""
    if p.lr_policy not in POLICIES:
        near = difflib.get_close_matches(p.lr_policy, POLICIES, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise PrototxtError(
            f"solver field lr_policy: Unknown learning rate policy: '{p.lr_policy}'{hint} (known: {', '.join(POLICIES)})"
        )
    if p.lr_policy in ("step", "sigmoid"):
        _require(p.stepsize > 0, "stepsize", p.stepsize, f"positive for lr_policy '{p.lr_policy}'")
    if p.lr_policy not in ("fixed", "poly"):
        _require(p.gamma >= 0, "gamma", p.gamma, "0 or more")


def _require(condition: bool, field: str, found: float, expected: str) -> None:
    if not condition:
        raise PrototxtError(f"solver field {field}: must be {expected}; found {found:g}")
