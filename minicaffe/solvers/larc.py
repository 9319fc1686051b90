"""What NVCaffe's solvers adapt while they train: a rate for each param, momentum, weight decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe import proto
from minicaffe.net import Net


class Range(NamedTuple):
    """Elements ``start`` to ``stop`` of the packed params: their rate, and what their weight decay is multiplied by."""

    start: int
    stop: int
    rate: float
    decay_mult: float


def common_rates(net: Net) -> list[Range]:
    """The ``lr_mult`` of the learnable params, those of equal multipliers together, in their order."""
    ranges: dict[tuple[float, float], Range] = {}
    for param in net.learnable:
        lr_mult, decay_mult = param.multipliers
        start, stop = param.offset, param.offset + param.blob.count
        before = ranges.get(param.multipliers)
        if before is not None:
            start, stop = min(start, before.start), max(stop, before.stop)
        ranges[param.multipliers] = Range(start, stop, lr_mult, decay_mult)
    return sorted(ranges.values())


def local_rates(net: Net, p: proto.SolverParameter, rate: float, loss_scale: float) -> list[Range]:
    """The rate of each learnable param, in their order, under ``larc`` (You, Gitman, Ginsburg 2017); gradients are
    times the ``loss_scale``.

    A param's own rate is ``larc_eta ||w|| / ||g||``, g clipped, 1 if either norm is 0, in the place of its ``lr_mult``;
    ``larc_policy`` "scale" multiplies it by the rate of the iteration, "clip" takes the smaller of the two.  A
    ``lr_mult`` of 0 stays.
    """
    params = sorted(net.learnable, key=lambda param: param.offset)
    norms = [(_norm(param.blob.peek_data()), _norm(param.blob.peek_diff()) / loss_scale) for param in params]
    whole, scale = math.hypot(*[g for _, g in norms]), 1 / p.iter_size
    if whole > p.clip_gradients >= 0:
        scale *= p.clip_gradients / whole
    ranges = []
    for param, (w, g) in zip(params, norms, strict=True):
        lr_mult, decay_mult = param.multipliers
        if lr_mult > 0:
            own = p.larc_eta * w / (g * scale) if w > 0 and g * scale > 0 else 1.0
            local = min(rate, own) if p.larc_policy == "clip" else rate * own
        else:
            local = rate * lr_mult
        ranges.append(Range(param.offset, param.offset + param.blob.count, local, decay_mult))
    return ranges


def _norm(x: NDArray) -> float:
    return float(np.linalg.norm(x.astype(np.float64)))


def momentum(p: proto.SolverParameter, i: int, rate: float) -> float:
    """The momentum at iteration i by ``momentum_policy``: "fixed"; "poly", from ``momentum`` to ``max_momentum`` as
    ``(i / max_iter)^momentum_power``; "opt", ``(1 - sqrt(rate) / 2)^2``, at most ``max_momentum`` if that is given.
    """
    if p.momentum_policy == "poly":
        return p.momentum + (p.max_momentum - p.momentum) * (i / p.max_iter) ** p.momentum_power
    if p.momentum_policy == "opt":
        best = (1 - 0.5 * math.sqrt(rate)) ** 2
        return min(best, p.max_momentum) if p.HasField("max_momentum") else best
    return p.momentum


def weight_decay(p: proto.SolverParameter, i: int) -> float:
    """The weight decay at iteration i by ``weight_decay_policy``: as it is, or times ``(i / max_iter)^power`` for
    "poly", the power being ``weight_decay_power``.
    """
    if p.weight_decay_policy == "poly":
        return p.weight_decay * (i / p.max_iter) ** p.weight_decay_power
    return p.weight_decay


def check(p: proto.SolverParameter, require: Callable[[bool, str, str, Any], None]) -> None:
    """Ask ``require(condition, field, problem, found)`` that these fields make sense."""
    for field, known in (
        ("larc_policy", ("scale", "clip")),
        ("momentum_policy", ("fixed", "poly", "opt")),
        ("weight_decay_policy", ("", "fixed", "poly")),
    ):
        value = getattr(p, field)
        require(value in known, field, f"must be one of {', '.join(filter(None, known))}", f"'{value}'")
        if value == "poly":
            require(p.max_iter > 0, "max_iter", f"must be positive for {field} 'poly', which divides by it", p.max_iter)
    moving = p.momentum_policy != "fixed"
    require(
        not moving or p.type in ("SGD", "Nesterov"), "momentum_policy", "only SGD and Nesterov solvers obey it", p.type
    )
    require(not p.local_lr_auto, "local_lr_auto", "is NVCaffe's older form of larc: set larc instead", "true")
    require(not p.larc_turbo, "larc_turbo", "is not in minicaffe; remove it", "true")
