"""Pooling over any number of axes, and with gaps between the taps of a window, as naibaf7's Caffe has it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.kernels.reference import FLT_MAX
from minicaffe.layers.pooling import Pooling, Sizes


class AxesPooling(Pooling):
    """Pooling of naibaf7's Caffe: ``kernel_size``, ``stride`` and ``pad`` once for each axis after the channels, or
    once for all; ``dilation``, the distance of a window's taps, likewise.

    Bottom: (N, C, *in).  Top: (N, C, *out), of sizes as Pooling has them, by the extent of a window, ``dilation (kernel
    - 1) + 1``.  MAX gives the first of equal values, AVE divides by the taps up to in + pad.  There is no mask.
    """

    tops = 1
    obeys = (*Pooling.obeys, "dilation", "kernel_sizes", "strides", "pads")
    capturable_on_device = False
    kernel_sizes: Sequence[int]
    strides: Sequence[int]
    pads: Sequence[int]
    dilation: Sequence[int]

    def check_options(self) -> None:
        self.require(self.pool != self.STOCHASTIC, "over axes or with dilation it must be MAX or AVE", "pool")
        self.require(min(self.dilation, default=1) > 0, f"must be positive; found {list(self.dilation)}", "dilation")

    def _declare(self, top: Sequence[Blob]) -> None:
        self.capturable = False

    def _each(self, field: str, prefix: str, many: str, axes: int, default: int) -> Sizes:
        """A number for each axis; fields with ``_h`` and ``_w`` are those of two axes."""
        values = tuple(getattr(self, many))
        if not values:
            pair = self._pair(field, prefix, default)
            values = pair if pair[0] != pair[1] else pair[:1]
        return self._spread(field, values, axes)

    def _spread(self, field: str, values: Sizes, axes: int) -> Sizes:
        self.require(
            len(values) in (1, axes),
            f"must be given once, or once for each of the {axes} axes; found {len(values)} values",
            field,
        )
        return values * axes if len(values) == 1 else values

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self._declare(top)
        self.require(
            len(x.shape) > 2, f"the input needs axes after its channels; found {x.shape_string}", kind=ShapeError
        )
        sizes, axes = x.shape[2:], len(x.shape) - 2
        kernel = sizes if self.global_pooling else self._each("kernel_size", "kernel", "kernel_sizes", axes, 0)
        stride = self._each("stride", "stride", "strides", axes, 1)
        pad = self._each("pad", "pad", "pads", axes, 0)
        dilation = self._spread("dilation", tuple(self.dilation) or (1,), axes)
        for field, values in (("kernel_size", kernel), ("stride", stride)):
            self.require(min(values) > 0, f"must be positive; found {list(values)}", field)
        self.require(
            all(p < k for p, k in zip(pad, kernel, strict=True)),
            f"must be smaller than the kernel {list(kernel)}; found {list(pad)}",
            "pad",
        )
        extent = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
        pooled = tuple(self._pooled(*axis, any(pad)) for axis in zip(sizes, extent, stride, pad, strict=True))
        top[0].reshape(*x.shape[:2], *pooled)
        reach = [(count - 1) * s + 1 for count, s in zip(pooled, stride, strict=True)]
        steps = [[n * d for n in range(k)] for k, d in zip(kernel, dilation, strict=True)]
        self.taps = [
            (..., *(slice(t, t + r, s) for t, r, s in zip(tap, reach, stride, strict=True)))
            for tap in itertools.product(*steps)
        ]
        self.inside = (..., *(slice(p, p + size) for p, size in zip(pad, sizes, strict=True)))
        room = [max(size + 2 * p, r + e - 1) for size, p, r, e in zip(sizes, pad, reach, extent, strict=True)]
        self.padded, self.padded_slope = (self.scratch(name, (*x.shape[:2], *room)) for name in ("padded", "slope"))
        self.padded[...] = -FLT_MAX if self.pool == self.MAX else 0
        self.part = self.scratch("part", top[0].shape)
        if self.pool == self.MAX:
            self.winner = self.scratch("winner", top[0].shape)
            self.better, self.unknown = (self.scratch(name, top[0].shape, "bool") for name in ("better", "unknown"))
        else:
            self.areas = self.scratch("areas", (1, 1, *pooled))
            counts = (
                [sum(n * s - p + t < size + p for t in tap) for n in range(count)]
                for count, s, p, size, tap in zip(pooled, stride, pad, sizes, steps, strict=True)
            )
            self.areas[0, 0] = self.xp.asarray(math.prod(np.ix_(*counts)).astype(self.dtype))

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(top[0].count * len(self.taps))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        y = top[0].xdata
        self.padded[self.inside] = bottom[0].xdata
        if self.pool == self.AVE:
            y[...] = 0
            for tap in self.taps:
                y += self.padded[tap]
            y /= self.areas
            return
        y[...] = -FLT_MAX
        self.winner[...] = -1
        for n, tap in enumerate(self.taps):
            self._take_larger(n, self.padded[tap], y)

    def _take_larger(self, n: int, values: Any, y: Any) -> None:
        """Put the values of tap ``n`` into y where they are larger, or the first NaN."""
        xp = self.xp
        xp.not_equal(values, values, out=self.unknown)
        xp.equal(y, y, out=self.better)
        self.unknown &= self.better
        xp.greater(values, y, out=self.better)
        self.better |= self.unknown
        xp.maximum(y, values, out=y)
        xp.subtract(n, self.winner, out=self.part)
        self.part *= self.better
        self.winner += self.part

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        dy = top[0].xdiff
        self.padded_slope[...] = 0
        if self.pool == self.AVE:
            self.xp.divide(dy, self.areas, out=self.part)
        for n, tap in enumerate(self.taps):
            if self.pool == self.MAX:
                self.ops.elementwise(AxesPooling.if_chosen, (self.winner, dy), (n,), self.part)
            self.padded_slope[tap] += self.part
        bottom[0].xdiff[...] = self.padded_slope[self.inside]

    @staticmethod
    def if_chosen(winner: float, slope: float, tap: float) -> float:
        return slope if winner == tap else 0.0
