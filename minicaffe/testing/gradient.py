"""Compare a layer's backward with finite differences of its forward, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minicaffe import backend
from minicaffe.testing.definition import Definition
from minicaffe.testing.differences import LEVELS, REDUCTION, derivative, one_sided
from minicaffe.testing.rig import Rig, own_stream

SHOWN = 5
"""How many of the wrong elements a message lists."""

ROUNDING = 64 * np.finfo(np.float64).eps
"""Relative error of a sum of tops, a few dozen roundings; what is left of it in a difference grows as the step shrinks.
"""


def check_gradient(
    layer: Definition,
    bottoms: Sequence[ArrayLike] = (),
    /,
    *,
    params: Sequence[ArrayLike] | None = None,
    mode: str = "directions",
    step: float = 1e-2,
    tolerance: float = 1e-6,
    kink: float = 0.0,
    kink_range: float = -1.0,
    check_bottom: Sequence[int] | None = None,
    check_top: Sequence[int] | None = None,
    seed: int = 0,
    **how: Any,
) -> float:
    """Check every gradient that a layer computes, in float64; returns the largest relative error seen.

    ``check_gradient("LRN", [x], alpha=5.0)``

    Compared are the gradients of an objective that is linear in the tops, with respect to each bottom that can get a
    gradient and each learned blob.  Central differences at steps from ``step`` down to ``step / 128`` are extrapolated
    (Ridders 1982), and for each derivative the most consistent value is taken: a kink further away than the smallest
    step does no harm.  Random layers see the same random numbers at each evaluation, recurrent ones the same state.  It
    is also checked that a second backward overwrites the gradients of bottoms, and adds to those of learned blobs.

    Args:
        layer: as for ``run``.
        bottoms: as for ``run``.
        params: as for ``run``.  Learned blobs that are all zero are drawn from N(0, 1), unless they are given here.
        mode: "directions": one random weighting of all tops, and for each bottom and blob one random direction; only
            where that is wrong, element by element.  "exhaustive": each element of each top by each element.
        step: the largest step.
        tolerance: relative to the larger gradient; in directions mode, to the root mean square of the gradient.
        kink: elements x of the bottoms with ``kink - kink_range <= |x| <= kink + kink_range`` are not checked (Caffe's
            GradientChecker): there the layer has no derivative.
        kink_range: see ``kink``.
        check_bottom: bottoms to check, by number; default: those that a net can turn on.
        check_top: tops that the objective looks at; default: all.  A top without a gradient, like the mask of Pooling,
            is left out this way.
        seed: of the layer's random numbers and those of the check.
        **how: as for ``run``.

    Raises AssertionError saying which elements of which bottom or learned blob are wrong, found and expected;
    LayerError if there is nothing to check.
    """
    if mode not in ("directions", "exhaustive"):
        raise ValueError(f"mode must be 'directions' or 'exhaustive'; found {mode!r}")
    rig = Rig(layer, bottoms, params=params, dtype=np.float64, seed=seed, **how)
    if check_bottom is not None:
        rig.wanted = [i in check_bottom for i in range(len(rig.bottom))]
    rng = own_stream(seed)
    if params is None:
        rig.fill_zero_params(rng)
    probe = _Probe(rig, bottoms, range(len(rig.top)) if check_top is None else check_top)
    if not probe.inputs:
        raise rig.layer.error("has no bottom that can get a gradient, and no learned blob: there is nothing to check")
    size = probe.tops().size
    rows = rng.standard_normal((1, size)) if mode == "directions" else np.eye(max(size, 1), size)
    check = _Check(probe, rows, rng, step, tolerance)
    try:
        check.repeated()
        for k, key in enumerate(probe.inputs):
            values = probe.values[key]
            far = (np.abs(values) < kink - kink_range) | (np.abs(values) > kink + kink_range) | (key[0] == "param")
            if mode == "exhaustive":
                check.elements(k, far)
            elif not check.direction(k, far) and not check.elements(k, far):
                check.wrong.append(
                    f"  {key[0]} {key[1]}: wrong along a random direction, right for each element by itself"
                )
    finally:
        rig.net.close()
    if check.wrong:
        raise AssertionError(
            f"{rig.layer.error(f'wrong gradient (float64, tolerance {tolerance:g})')}\n" + "\n".join(check.wrong)
        )
    return check.largest


class _Probe:
    """A rig as a function of its bottoms and params, that gives the same numbers each time it is called."""

    def __init__(self, rig: Rig, bottoms: Sequence[ArrayLike], tops: Sequence[int]) -> None:
        self.rig = rig
        self.top_ids = list(tops)
        self.values: dict[tuple[str, int], NDArray] = {
            ("bottom", i): np.array(x, np.float64) for i, x in enumerate(bottoms)
        }
        self.values |= {("param", i): blob.data.copy() for i, blob in enumerate(rig.layer.blobs)}
        self.inputs = [("bottom", i) for i, flag in enumerate(rig.wanted) if flag and self.values["bottom", i].size]
        self.inputs += [("param", i) for i in rig.learned]
        self._state = rig.layer.state()
        self._random = backend.current().random.get_state(), np.random.get_state()

    def tops(self, changed: dict[tuple[str, int], NDArray] | None = None) -> NDArray:
        """All elements of the tops, with these bottoms and params instead of the given ones."""
        values = {**self.values, **(changed or {})}
        where = backend.current()
        where.random.set_state(self._random[0])
        np.random.set_state(self._random[1])
        if self._state:
            self.rig.layer.restore(self._state)
        self.rig.feed([values["bottom", i] for i in range(len(self.rig.bottom))])
        self.rig.set_params([values["param", i] for i in range(len(self.rig.layer.blobs))])
        self.rig.forward()
        return np.concatenate([np.zeros(0), *(self.rig.top[i].data.reshape(-1) for i in self.top_ids)])

    def weigh(self, row: NDArray) -> list[NDArray]:
        """Gradients of all tops for an objective that weighs the elements of ``tops`` by ``row``."""
        diffs, start = [np.zeros(blob.shape) for blob in self.rig.top], 0
        for i in self.top_ids:
            diffs[i][...] = row[start : start + diffs[i].size].reshape(diffs[i].shape)
            start += diffs[i].size
        return diffs

    def gradients(self) -> list[NDArray]:
        """Copies of the gradients that the last backward left, one for each of ``inputs``."""
        blobs = {"bottom": self.rig.bottom, "param": self.rig.layer.blobs}
        return [blobs[kind][i].diff.copy() for kind, i in self.inputs]


class _Check:
    """The comparisons; ``wrong`` gathers what to say, ``largest`` the largest relative error of what is right."""

    def __init__(self, probe: _Probe, rows: NDArray, rng: np.random.Generator, step: float, tolerance: float) -> None:
        self.probe, self.rows, self.rng, self.step, self.tolerance = probe, rows, rng, step, tolerance
        self.wrong: list[str] = []
        self.largest = 0.0
        found = []
        for row in rows:
            tops = probe.tops()
            probe.rig.backward(probe.weigh(row))
            found.append(probe.gradients())
        self.found = [np.array(gradients) for gradients in zip(*found, strict=True)]
        """The analytic gradients: for each input (rows, *shape)."""
        noise = ROUNDING / (step / REDUCTION ** (LEVELS - 1))
        self.noise = noise * (np.abs(rows) @ np.abs(tops))
        """For each row, the rounding error of a difference at the smallest step."""

    def repeated(self) -> None:
        """A second backward: the gradients of bottoms are overwritten, those of learned blobs add up."""
        rig = self.probe.rig
        if any(top is bottom for top in rig.top for bottom in rig.bottom):
            return  # in place, the first backward has used up what the forward kept
        self.probe.tops()
        for blob, diff in zip(rig.top, self.probe.weigh(self.rows[-1]), strict=True):
            blob.diff[...] = diff
        rig.add_backward()
        for (kind, i), again, once in zip(self.probe.inputs, self.probe.gradients(), self.found, strict=True):
            expected = once[-1] * (2 if kind == "param" else 1)
            if not np.allclose(again, expected, rtol=1e-9, atol=1e-12, equal_nan=True):
                rule = "add to it (+=)" if kind == "param" else "overwrite it (=)"
                self.wrong.append(f"  {kind} {i}: a second backward gives another gradient than it must; {rule}")

    def direction(self, k: int, varied: NDArray) -> bool:
        """Whether the derivative along a random direction of input ``k``, zero where not ``varied``, is right."""
        key, x = self.probe.inputs[k], self.probe.values[self.probe.inputs[k]]
        v = self.rng.standard_normal(x.shape) * varied
        expected = derivative(lambda t: self.rows @ self.probe.tops({key: x + t * v}), self.step)[0]
        gradient = self.found[k][0] * varied
        error = abs((gradient * v).sum() - expected)
        scale = max(abs(expected), float(np.linalg.norm(gradient))) / max(np.sqrt(varied.sum()), 1.0)
        return self._right(error, scale, self.noise[0])

    def elements(self, k: int, varied: NDArray) -> bool:
        """Check each varied element of input ``k``; whether any is wrong."""
        key, x = self.probe.inputs[k], self.probe.values[self.probe.inputs[k]]
        faults = []
        for index in np.argwhere(varied):
            at = tuple(int(i) for i in index)

            def objective(t: float, at: tuple[int, ...] = at) -> NDArray:
                moved = x.copy()
                moved[at] += t
                return self.rows @ self.probe.tops({key: moved})

            found, expected = np.array([gradient[at] for gradient in self.found[k]]), derivative(objective, self.step)
            for row in range(len(self.rows)):
                error, scale = abs(found[row] - expected[row]), max(abs(found[row]), abs(expected[row]))
                if not self._right(error, scale, self.noise[row]):
                    faults.append(_Fault(error, at, row, found[row], expected[row], objective))
        if faults:
            self.wrong.append(self._describe(key, faults, int(varied.sum())))
        return bool(faults)

    def _right(self, error: float, scale: float, noise: float) -> bool:
        right = bool(error <= self.tolerance * scale + noise)
        if right and self.tolerance * scale > noise:
            self.largest = max(self.largest, float(error / scale))
        return right

    def _describe(self, key: tuple[str, int], faults: list[_Fault], varied: int) -> str:
        faults.sort(key=lambda fault: -fault.error if fault.error == fault.error else -np.inf)
        places = len({fault.at for fault in faults})
        lines = [f"  {key[0]} {key[1]}, shape {self.probe.values[key].shape}: {places} of {varied} elements"]
        for fault in faults[:SHOWN]:
            left, right = one_sided(fault.objective, self.step / REDUCTION ** (LEVELS - 1))
            bend = abs(left[fault.row] - right[fault.row])
            kinked = bend > 1e-3 * max(abs(left[fault.row]), abs(right[fault.row])) + 1e3 * self.noise[fault.row]
            lines.append(
                f"    {list(fault.at)}{self._top(fault.row)}: found {fault.found:.9g}, expected {fault.expected:.9g}"
                + (
                    f" (a kink: from the left {left[fault.row]:.6g}, from the right {right[fault.row]:.6g}; "
                    "move the input, or skip it with kink and kink_range)"
                    if kinked
                    else ""
                )
            )
        if len(faults) > SHOWN:
            lines.append(f"    and {len(faults) - SHOWN} more")
        return "\n".join(lines)

    def _top(self, row: int) -> str:
        """Which element of which top a row of exhaustive mode looks at."""
        if len(self.rows) == 1:
            return ""
        for i, diff in enumerate(self.probe.weigh(self.rows[row])):
            if diff.any():
                return f" by top {i} {[int(j) for j in np.argwhere(diff)[0]]}"
        return ""


@dataclass
class _Fault:
    error: float
    at: tuple[int, ...]
    row: int
    found: float
    expected: float
    objective: Callable[[float], NDArray]
