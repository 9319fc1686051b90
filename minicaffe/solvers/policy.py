"""Learning-rate policies, and the schedule of a run: the rate at an iteration, as Caffe and its forks compute it."""

from __future__ import annotations

import bisect
import difflib
import logging
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from minicaffe import proto
from minicaffe.c_math import power

_log = logging.getLogger(__name__)


def _fixed(p: proto.SolverParameter, i: int, step: int) -> float:
    return p.base_lr


def _step(p: proto.SolverParameter, i: int, step: int) -> float:
    return p.base_lr * power(p.gamma, step)


def _exp(p: proto.SolverParameter, i: int, step: int) -> float:
    return p.base_lr * power(p.gamma, i)


def _inv(p: proto.SolverParameter, i: int, step: int) -> float:
    return p.base_lr * power(1 + p.gamma * i, -p.power)


def _poly(p: proto.SolverParameter, i: int, step: int) -> float:
    """After max_iter the rate stays as it is there.  Caffe: it grows again, or is negative or NaN."""
    return p.base_lr * power(max(1 - i / p.max_iter, 0.0), p.power)


def _sigmoid(p: proto.SolverParameter, i: int, step: int) -> float:
    """Caffe: with the gamma >= 0 that it asks for, the rate rises toward base_lr."""
    with np.errstate(over="ignore"):
        return p.base_lr / (1 + float(np.exp(-p.gamma * (i - p.stepsize))))


def _cosine(p: proto.SolverParameter, i: int, step: int) -> float:
    """Half a cosine, from base_lr down to 0 at max_iter (Loshchilov, Hutter 2017, eq. 5, without restarts)."""
    return p.base_lr * (1 + math.cos(math.pi * i / p.max_iter)) / 2 if i < p.max_iter else 0.0


def _multifixed(p: proto.SolverParameter, i: int, step: int) -> float:
    """The rate of the stage that iteration i is in: stage s ends with iteration stageiter[s], the last one never."""
    ends = list(p.stageiter)
    return p.stagelr[min(bisect.bisect_left(ends, i), len(ends) - 1)]


POLICIES: dict[str, Callable[[proto.SolverParameter, int, int], float]] = {
    "fixed": _fixed, "step": _step, "exp": _exp, "inv": _inv, "multistep": _step, "poly": _poly, "sigmoid": _sigmoid,
    "cosine": _cosine, "plateau": _step, "multifixed": _multifixed,
}  # fmt: skip
"""Rate at iteration i, counted before the update, after so many steps down, by the solver's ``lr_policy``."""


class _Reached(NamedTuple):
    """How far a schedule has come; see ``Schedule``."""

    current_step: int = 0
    minimum_loss: float = math.inf
    last_event: int = 0


class Schedule:
    """The learning rate of a training run, from the solver's fields, which may change while it goes on.

    It counts the steps down of the policies "step", "multistep" and "plateau" (``current_step``), and for "plateau"
    keeps the smallest smoothed loss so far and the iteration of that, or of the last step down (``minimum_loss``,
    ``last_event``).  Only ``advance`` changes them.

    ``smoothed_loss`` is asked under "plateau" alone: it waits for the device.  Rates beyond the largest number of
    ``dtype`` are infinite, as in Caffe, where they are floats.
    """

    def __init__(self, param: proto.SolverParameter, dtype: DTypeLike, smoothed_loss: Callable[[], float]) -> None:
        self._param, self._smoothed_loss = param, smoothed_loss
        self._largest = float(np.finfo(dtype).max)
        self.current_step, self.minimum_loss, self.last_event = _Reached()

    def rate(self, i: int) -> float:
        """The rate of an update at iteration ``i``, if none has advanced the schedule since: on the line from
        ``warmup_start_lr`` to ``base_lr`` for ``warmup_iter`` iterations (Intel's fork of Caffe), from then on what the
        policy gives there.  Of NVCaffe: for ``rampup_interval`` iterations it rises from ``rampup_lr`` with the square
        of i, and it is never below ``min_lr``.
        """
        p = self._param
        if i < p.warmup_iter:
            rate = p.warmup_start_lr + (p.base_lr - p.warmup_start_lr) * i / p.warmup_iter
        elif i < p.rampup_interval:
            rate = p.rampup_lr + (p.base_lr - p.rampup_lr) * (i / p.rampup_interval) ** 2
        else:
            rate = POLICIES[p.lr_policy](p, i, self._reached_at(i).current_step)
        if p.HasField("min_lr"):
            rate = max(rate, p.min_lr)
        return math.copysign(math.inf, rate) if abs(rate) > self._largest else rate

    def advance(self, i: int) -> None:
        """Note that iteration ``i`` updates: once an iteration, after its ``rate``."""
        before = self.current_step
        self.current_step, self.minimum_loss, self.last_event = self._reached_at(i)
        name = {"multistep": "MultiStep", "plateau": "Plateau"}.get(self._param.lr_policy)
        if name and self.current_step != before:
            _log.info("%s Status: Iteration %d, step = %d", name, i, self.current_step)

    def _reached_at(self, i: int) -> _Reached:
        """Where the policy stands at iteration ``i``."""
        p, reached = self._param, _Reached(self.current_step, self.minimum_loss, self.last_event)
        if i < max(p.warmup_iter, p.rampup_interval):
            return reached
        if p.lr_policy == "step":
            return reached._replace(current_step=i // p.stepsize)
        if p.lr_policy == "multistep":
            return self._past_mark(i, reached)
        if p.lr_policy == "plateau":
            return self._past_window(i, reached)
        return reached

    def _past_mark(self, i: int, reached: _Reached) -> _Reached:
        """Caffe: one update passes at most one of the ``stepvalue`` marks."""
        step, marks = reached.current_step, self._param.stepvalue
        return reached._replace(current_step=step + 1) if step < len(marks) and i >= marks[step] else reached

    def _past_window(self, i: int, reached: _Reached) -> _Reached:
        """One step down whenever the smoothed loss finds no new minimum for ``plateau_winsize[current_step]``
        iterations.

        After the last window the rate stays (SSD's fork of Caffe).
        """
        loss, windows = self._smoothed_loss(), self._param.plateau_winsize
        if loss < reached.minimum_loss:
            reached = reached._replace(minimum_loss=loss, last_event=i)
        step = reached.current_step
        if step < len(windows) and i >= reached.last_event + windows[step]:
            return reached._replace(current_step=step + 1, last_event=i)
        return reached


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
    if name == "multifixed":
        ends = list(p.stageiter)
        require(len(ends) > 0, "stageiter", f"must be given {given}: the iteration at which each stage ends", "none")
        require(len(p.stagelr) == len(ends), "stagelr", f"must give one rate for each of {len(ends)} stages",
                f"{len(p.stagelr)}")  # fmt: skip
        require(ends == sorted(ends), "stageiter", "must not fall", ends)
    if name not in ("fixed", "poly", "cosine", "multifixed"):
        require(p.gamma >= 0, "gamma", "must be 0 or more", p.gamma)
    if name == "plateau":
        windows = list(p.plateau_winsize)
        require(p.HasField("gamma"), "gamma", f"must be given {given}: the factor of each step down", "none")
        require(bool(windows) and min(windows) > 0, "plateau_winsize",
                f"must be given {given}, once a step down, each a positive number of iterations",
                windows or "none")  # fmt: skip
    needed = {"step": 2, "exp": 2, "multistep": 2, "multifixed": 0}.get(name, 1)
    for field in ("base_lr", "gamma")[:needed]:
        if not p.HasField(field):
            _log.warning("solver field %s is not given: it is 0, and so the learning rate will be", field)
    for field in ("rampup_interval", "rampup_lr", "min_lr"):
        require(getattr(p, field) >= 0, field, "must be 0 or more", getattr(p, field))
    require(not (p.warmup_iter and p.rampup_interval), "rampup_interval", "and warmup_iter are two ways to say the "
            "same; give one of them", p.rampup_interval)  # fmt: skip
    require(p.warmup_iter >= 0, "warmup_iter", "must be 0 or more", p.warmup_iter)
    require(p.warmup_start_lr >= 0, "warmup_start_lr", "must be 0 or more", p.warmup_start_lr)
    require(p.warmup_iter > 0 or not p.HasField("warmup_start_lr"), "warmup_start_lr",
            "needs warmup_iter, the number of iterations of the warm-up", "none")  # fmt: skip
    require(not p.max_iter or p.warmup_iter <= p.max_iter, "warmup_iter",
            f"the warm-up must end within max_iter, {p.max_iter} iterations", p.warmup_iter)  # fmt: skip
