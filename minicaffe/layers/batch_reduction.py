"""BatchReduction: sums, means and largest values along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer


class BatchReduction(Layer):
    """Reduce one axis, the segments of a video (temporal segment networks, Wang et al. 2016; yjxiong/caffe).

    ``batch_reduction_param.reduction_param``: ``axis`` (0); ``operation`` SUM, MEAN or TOPK, the mean of the ``k``
    largest.  Bottom: (…, T, …), T at that axis.  Top: without that axis.

    With ``level`` l, l', …, other than a single 1, T is the sum of their squares; each level reduces its l^2 rows to
    one, and that axis of the top is as long as there are levels.  With ``pos``, and one level at most, the next axis is
    reduced as well, which is as long: of its rows the one at the same place counts.
    TOPK computes on the host; of equal values the first ones count.
    """

    type = "BatchReduction"
    param = "batch_reduction_param"
    reads_bottoms = reads_tops = ()
    per_element = 1
    level: Sequence[int]
    pos: bool
    reduction_param: Any

    SUM, MEAN, TOPK = 1, 4, 20001

    def check_options(self) -> None:
        options, levels = self.reduction_param, list(self.level)
        self.require(
            options.operation in (self.SUM, self.MEAN, self.TOPK),
            "operation must be SUM, MEAN or TOPK",
            "reduction_param",
        )
        self.require(options.coeff == 1, "has no coeff, unlike Reduction", "reduction_param")
        self.require(all(level > 0 for level in levels), f"must be positive; found {levels}", "level")
        single = "takes a single level at most"
        self.require(len(levels) < 2 or not self.pos, single, "pos")
        self.require(len(levels) < 2 or options.operation != self.TOPK, f"TOPK {single}", "reduction_param")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        axis = self.axis_of(x, self.reduction_param.axis, "reduction_param")
        steps, levels = x.shape[axis], [level**2 for level in self.level]
        whole = levels in ([], [1])
        self.parts = [steps] if whole else levels
        self.require(
            sum(self.parts) == steps,
            f"the squares of the levels must add up to {steps}, the size of axis {axis}; found {list(self.level)}",
            "level",
            ShapeError,
        )
        after = axis + 2 if self.pos else axis + 1
        self.require(
            not self.pos or x.shape[axis : axis + 2] == (steps, steps),
            f"axes {axis} and {axis + 1} must be equally long; found {x.shape_string}",
            "pos",
            ShapeError,
        )
        self.require(steps > 0, f"axis {axis} is empty; found {x.shape_string}", kind=ShapeError)
        inner = x.span(after)
        top[0].reshape(*x.shape[:axis], *([] if whole else [len(self.parts)]), *x.shape[after:])
        self.rows = (x.span(0, axis), steps * steps if self.pos else steps, inner)
        self.every = steps + 1 if self.pos else 1
        if self.reduction_param.operation == self.TOPK:
            self._expect_k(steps)
            self.chosen = np.zeros((self.rows[0], steps, inner), bool)

    def _expect_k(self, steps: int) -> None:
        k = self.reduction_param.k
        self.require(1 <= k <= steps, f"k must lie in 1 .. {steps}; found {k}", "reduction_param")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        shape = (self.rows[0], len(self.parts), self.rows[2])
        if self.reduction_param.operation == self.TOPK:
            values = bottom[0].peek_data().reshape(self.rows)[:, :: self.every]
            self._choose(values)
            largest = np.where(self.chosen, values, 0)
            top[0].data.reshape(shape)[:, 0] = largest.sum(axis=1) / self.reduction_param.k
            return
        x, y, start = bottom[0].xdata.reshape(self.rows)[:, :: self.every], top[0].xdata.reshape(shape), 0
        for n, steps in enumerate(self.parts):
            y[:, n] = x[:, start : start + steps].sum(axis=1) * self._weight(steps)
            start += steps

    def _choose(self, x: np.ndarray) -> None:
        """Note the k largest of each column; NaN counts as the largest."""
        order = np.argsort(np.where(np.isnan(x), -np.inf, -x), axis=1, kind="stable")
        self.chosen.fill(False)
        np.put_along_axis(self.chosen, order[:, : self.reduction_param.k], True, axis=1)

    def _weight(self, steps: int) -> Any:
        """What each of so many rows counts."""
        mean = self.reduction_param.operation == self.MEAN
        return self.dtype.type(1 / steps if mean else 1)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        shape = (self.rows[0], len(self.parts), self.rows[2])
        if self.reduction_param.operation == self.TOPK:
            bottom[0].diff.fill(0)
            dx = bottom[0].diff.reshape(self.rows)[:, :: self.every]
            dx[...] = self.chosen * (top[0].peek_diff().reshape(shape) / self.reduction_param.k)
            return
        dx, dy, start = bottom[0].xdiff.reshape(self.rows), top[0].xdiff.reshape(shape), 0
        if self.pos:
            dx.fill(0)
        for n, steps in enumerate(self.parts):
            dx[:, :: self.every][:, start : start + steps] = dy[:, n : n + 1] * self._weight(steps)
            start += steps
