"""Learning-rate policies: the rate at an iteration, as Caffe and its forks compute it."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from minicaffe import proto

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver

_log = logging.getLogger(__name__)


def _power(base: float, exponent: float) -> float:
    """``pow`` as C has it: infinite where it overflows, NaN where it is not defined."""
    with np.errstate(all="ignore"):
        return float(np.float64(base) ** exponent)


def _fixed(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    return p.base_lr


def _step(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    solver.current_step = i // p.stepsize
    return p.base_lr * _power(p.gamma, solver.current_step)


def _exp(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    return p.base_lr * _power(p.gamma, i)


def _inv(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    return p.base_lr * _power(1 + p.gamma * i, -p.power)


def _multistep(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    """Caffe: one evaluation passes at most one of the ``stepvalue`` marks."""
    if solver.current_step < len(p.stepvalue) and i >= p.stepvalue[solver.current_step]:
        solver.current_step += 1
        _log.info("MultiStep Status: Iteration %d, step = %d", i, solver.current_step)
    return p.base_lr * _power(p.gamma, solver.current_step)


def _poly(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    """After max_iter the rate stays as it is there.  Caffe: it grows again, or is negative or NaN."""
    return p.base_lr * _power(max(1 - i / p.max_iter, 0.0), p.power)


def _sigmoid(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    """Caffe: with the gamma >= 0 that it asks for, the rate rises toward base_lr."""
    with np.errstate(over="ignore"):
        return p.base_lr / (1 + float(np.exp(-p.gamma * (i - p.stepsize))))


def _cosine(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    """Half a cosine, from base_lr down to 0 at max_iter (Loshchilov, Hutter 2017, eq. 5, without restarts)."""
    return p.base_lr * (1 + math.cos(math.pi * i / p.max_iter)) / 2 if i < p.max_iter else 0.0


def _plateau(solver: Solver, p: proto.SolverParameter, i: int) -> float:
    """One step down whenever the smoothed loss finds no new minimum for ``plateau_winsize[current_step]`` iterations.

    After the last window the rate stays (SSD's fork of Caffe).  It looks at the loss, so every iteration waits for the
    device.
    """
    loss = solver.smoothed_loss
    if loss < solver.minimum_loss:
        solver.minimum_loss, solver.last_event = loss, i
    if solver.current_step < len(p.plateau_winsize) and i >= solver.last_event + p.plateau_winsize[solver.current_step]:
        solver.current_step, solver.last_event = solver.current_step + 1, i
        _log.info("Plateau Status: Iteration %d, step = %d", i, solver.current_step)
    return p.base_lr * _power(p.gamma, solver.current_step)


POLICIES: dict[str, Callable[[Solver, proto.SolverParameter, int], float]] = {
    "fixed": _fixed, "step": _step, "exp": _exp, "inv": _inv, "multistep": _multistep, "poly": _poly, "sigmoid": _sigmoid,
    "cosine": _cosine, "plateau": _plateau,
}  # fmt: skip
"""Rate at iteration i, counted before the update, by the solver's ``lr_policy``."""


def learning_rate(solver: Solver) -> float:
    """The rate of the coming update: on the line from ``warmup_start_lr`` to ``base_lr`` for ``warmup_iter`` iterations
    (Intel's fork of Caffe), from then on what the policy gives at that iteration.

    As in Caffe, where it is a float, it is infinite if it is larger than the net's numbers can be."""
    p, i = solver.param, solver.iter
    if i < p.warmup_iter:
        rate = p.warmup_start_lr + (p.base_lr - p.warmup_start_lr) * i / p.warmup_iter
    else:
        rate = POLICIES[p.lr_policy](solver, p, i)
    return math.copysign(math.inf, rate) if abs(rate) > float(np.finfo(solver.net.dtype).max) else rate


def check_policy(p: proto.SolverParameter, require: Callable[[bool, str, str, Any], None]) -> None:
    """Ask ``require(condition, field, problem, found)`` that ``lr_policy`` is known and that its numbers make sense."""
    name = p.lr_policy
    near = difflib.get_close_matches(name, POLICIES, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    known = ", ".join(POLICIES)
    require(
        name in POLICIES, "lr_policy", f"Unknown learning rate policy: '{name}'{hint} (known: {known})", f"'{name}'"
    )
    given = f"for lr_policy '{name}'"
    if name in ("step", "sigmoid"):
        require(p.stepsize > 0, "stepsize", f"must be positive {given}", p.stepsize)
    if name in ("poly", "cosine"):
        require(p.HasField("max_iter"), "max_iter", f"must be given {given}, which ends there", "none")
        require(p.max_iter > 0, "max_iter", f"must be positive {given}, which divides by it", p.max_iter)
    if name not in ("fixed", "poly", "cosine"):
        require(p.gamma >= 0, "gamma", "must be 0 or more", p.gamma)
    if name == "plateau":
        windows = list(p.plateau_winsize)
        require(p.HasField("gamma"), "gamma", f"must be given {given}: the factor of each step down", "none")
        require(bool(windows) and min(windows) > 0, "plateau_winsize",
                f"must be given {given}, once a step down, each a positive number of iterations", windows or "none")  # fmt: skip
    for field in ("base_lr", "gamma") if name in ("step", "exp", "multistep") else ("base_lr",):
        if not p.HasField(field):
            _log.warning("solver field %s is not given: it is 0, and so the learning rate will be", field)
    require(p.warmup_iter >= 0, "warmup_iter", "must be 0 or more", p.warmup_iter)
    require(p.warmup_start_lr >= 0, "warmup_start_lr", "must be 0 or more", p.warmup_start_lr)
    require(p.warmup_iter > 0 or not p.HasField("warmup_start_lr"), "warmup_start_lr",
            "needs warmup_iter, the number of iterations of the warm-up", "none")  # fmt: skip
    require(not p.max_iter or p.warmup_iter <= p.max_iter, "warmup_iter",
            f"the warm-up must end within max_iter, {p.max_iter} iterations", p.warmup_iter)  # fmt: skip
