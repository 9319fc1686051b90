"""DomainTransform: smoothing that stops at edges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import exp, isfinite, sqrt
from typing import Any

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer

MOST_PASSES = 50
"""Each smooths over half the distance of the one before; that of so many is 0 beside 1 pixel."""


class DomainTransform(Layer):
    r"""Smooth images, but not across edges (Gastal and Oliveira 2011; Chen et al. 2016).

    .. math:: y_i \leftarrow y_i + w_i (y_{i-1} - y_i), \qquad
        w_i = \exp\Big( -\frac{\sqrt 2}{\sigma_k} \Big( 1 + g_i \frac{\sigma_s}{\sigma_r} \Big) \Big), \qquad
        \sigma_k = \sigma_s \sqrt 3 \, \frac{2^{K - k}}{\sqrt{4^K - 1}}

    For k = 1 … K = ``num_iter`` (3): along rows to the right and to the left, down and up columns.  w is held to
    ``min_weight`` (0) … 1; :math:`\sigma_s` is ``spatial_sigma`` (50), :math:`\sigma_r` ``range_sigma`` (5).
    Bottoms: images (N, C, H, W); edges g (N, 1, H, W); the height and width of what is to be smoothed in each image,
    (N, 2, …), from the upper left corner on.  Top: as the images.  Images and edges can get a gradient.
    Source: DeepLab's layer in PSPNet; the gradient of g takes no notice of the bounds of w.
    """

    type = "DomainTransform"
    param = "domain_transform_param"
    bottoms = 3
    reads_bottoms = (1,)
    reads_tops = ()
    differentiable = forcible = (0, 1)
    per_element = 60
    num_iter: int
    spatial_sigma: float
    range_sigma: float
    min_weight: float

    def check_options(self) -> None:
        self.require(
            0 < self.num_iter <= MOST_PASSES, f"must lie in 1 .. {MOST_PASSES}; found {self.num_iter}", "num_iter"
        )
        for field in ("spatial_sigma", "range_sigma"):
            value = getattr(self, field)
            self.require(isfinite(value) and value > 0, f"must be positive; found {value:g}", field)
        self.require(self.min_weight >= 0, f"must not be negative; found {self.min_weight:g}", "min_weight")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, edges, sizes = bottom
        self.require(
            len(x.shape) == 4 and edges.shape == (x.shape[0], 1, *x.shape[2:]),
            f"must be (N, C, H, W) and (N, 1, H, W); found {x.shape_string} and {edges.shape_string}",
            kind=ShapeError,
        )
        self.require(
            sizes.shape[:1] == x.shape[:1] and sizes.span(1) >= 2,
            f"a height and a width for each image are needed, (N, 2); found {sizes.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape_like(x)
        num, channels, height, width = x.shape
        self.weight, self.weight_grad, self.limit = (
            self.scratch(name, edges.shape) for name in ("weight", "weight_grad", "limit")
        )
        self.places = self.scratch("places", (2, *edges.shape))
        self.places[0] = self.xp.arange(height, dtype=self.dtype)[:, None]
        self.places[1] = self.xp.arange(width, dtype=self.dtype)
        self.steps = self.scratch("steps", (self.num_iter, 4, *x.shape))
        self.line = self.scratch("line", (num * channels * max(height, width),))
        self.total = self.scratch("total", (num * max(height, width),))
        self.sizes = self.scratch("sizes", (2, num))
        self.bad_sizes = (self.flag("bad_height"), self.flag("bad_width"))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self._check_sizes(bottom)
        y = top[0].xdata
        y[...] = bottom[0].xdata
        for k in range(self.num_iter):
            self._weigh(bottom, k)
            for number, (axis, places) in enumerate(self._passes(y)):
                values, weight, steps = self._along(axis, y, self.weight, self.steps[k, number])
                line = self._part(self.line, values[:1])
                for here, before, which in places:
                    self.xp.subtract(values[before], values[here], out=steps[here])
                    self.xp.multiply(steps[here], weight[which], out=line)
                    values[here] += line

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not (propagate_down[0] or propagate_down[1]):
            return
        dy, slope = bottom[0].xdiff, bottom[1].xdiff
        dy[...] = top[0].xdiff
        slope.fill(0)
        for k in reversed(range(self.num_iter)):
            self._weigh(bottom, k)
            self.weight_grad.fill(0)
            for number, (axis, places) in reversed(list(enumerate(self._passes(dy)))):
                self._pass_back(axis, reversed(places), dy, self.steps[k, number])
            self.weight_grad *= self.weight
            self.weight_grad *= -sqrt(2) / self._sigma(k) * self.spatial_sigma / self.range_sigma
            slope += self.weight_grad

    def _pass_back(self, axis: int, places: Any, dy: Any, kept: Any) -> None:
        values, weight, steps, grad = self._along(axis, dy, self.weight, kept, self.weight_grad)
        line, total = self._part(self.line, values[:1]), self._part(self.total, grad[:1])
        for here, before, which in places:
            self.xp.multiply(values[here], steps[here], out=line)
            self.xp.sum(line, axis=1, keepdims=True, out=total)
            grad[which] += total
            self.xp.multiply(values[here], weight[which], out=line)
            values[before] += line
            values[here] -= line

    def _passes(self, y: Any) -> Iterator[tuple[int, list[tuple[int, int, int]]]]:
        """The axis of each pass; and of each of its steps: where it is, where it comes from, and the weight between."""
        for axis in (3, 2):
            size = y.shape[axis]
            yield axis, [(at, at - 1, at) for at in range(1, size)]
            yield axis, [(at, at + 1, at + 1) for at in range(size - 2, -1, -1)]

    def _along(self, axis: int, *arrays: Any) -> list[Any]:
        """Views whose first axis is ``axis``."""
        return [self.xp.moveaxis(array, axis, 0) for array in arrays]

    def _part(self, memory: Any, like: Any) -> Any:
        """Memory of the shape of what is in ``like``, which has a first axis of length 1 or 0."""
        shape = like.shape[1:]
        count = shape[0] * shape[1] * shape[2]
        return memory[:count].reshape(shape)

    def _sigma(self, k: int) -> float:
        return self.spatial_sigma * sqrt(3) * 0.5 ** (k + 1) / sqrt(1 - 0.25**self.num_iter)

    def _weigh(self, bottom: Sequence[Blob], k: int) -> None:
        """Set ``weight``: 0 beyond what is to be smoothed."""
        options = (-sqrt(2) / self._sigma(k), self.spatial_sigma / self.range_sigma, self.min_weight)
        self.ops.elementwise(self.share, (bottom[1].xdata,), options, self.weight)
        for axis in (0, 1):
            self.limit[...] = self.sizes[axis][:, None, None, None]
            self.ops.elementwise(self.inside, (self.weight, self.places[axis], self.limit), (), self.weight)

    def _check_sizes(self, bottom: Sequence[Blob]) -> None:
        sizes = bottom[2].xdata.reshape(bottom[2].shape[0], bottom[2].span(1))
        for axis, (flag, name) in enumerate(zip(self.bad_sizes, ("heights", "widths"), strict=True)):
            self.sizes[axis] = sizes[:, axis]
            limit = bottom[0].shape[2 + axis] + 1
            self.check_indices(self.sizes[axis], limit, flag, hint=f" among the {name} of what is to be smoothed")

    @staticmethod
    def share(edge: float, rate: float, ratio: float, least: float) -> float:
        return min(max(exp(rate * (1.0 + edge * ratio)), least), 1.0)

    @staticmethod
    def inside(weight: float, place: float, limit: float) -> float:
        return weight if place < limit else 0.0
