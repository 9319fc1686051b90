"""Downsample: images and flow made smaller, without what is not known of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

from minicaffe.blob import Blob
from minicaffe.layers.base import Count
from minicaffe.layers.sampling import Resize


class Downsample(Resize):
    r"""Images of another size, each pixel a mean over its surroundings, from corner to corner (FlowNet2).

    .. math:: y_p = \sum_q \max(1 - |p - q / s| , 0) \, x_q \, / \sum_q \max(1 - |p - q / s|, 0)

    along each axis, with s the old distance of the corners over the new one.  NaN (flow that is not known) is left out
    of both sums, and is the result where it weighs more than half of the rest.  Bottom: (N, C, H, W); a second one
    gives the size of the top and nothing else.  Top: (N, C, ``top_height``, ``top_width``) or the second bottom's size.
    There is no backward pass.
    """

    type = "Downsample"
    param = "downsample_param"
    bottoms: Count = (1, 2)
    differentiable = ()
    top_height: int
    top_width: int

    def check_options(self) -> None:
        """Sizes are checked with the bottoms."""

    def new_size(self, bottom: Sequence[Blob]) -> tuple[int, int]:
        if len(bottom) > 1:
            self.require(len(bottom[1].shape) == 4, f"bottom 1 must have 4 axes; found {bottom[1].shape_string}")
            return bottom[1].shape[2], bottom[1].shape[3]
        for field in ("top_height", "top_width"):
            self.require(getattr(self, field) > 0, "must be positive without a second bottom; found 0", field)
        return self.top_height, self.top_width

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.known = self.scratch("known", bottom[0].shape)
        self.values = self.scratch("values", bottom[0].shape)
        self.weights = self.scratch("weights", top[0].shape)
        self.all_weights = self.scratch("all_weights", (self.down.shape[0], self.right.shape[0]))
        self.xp.matmul(
            self.xp.sum(self.down, axis=1)[:, None], self.xp.sum(self.right, axis=1)[None], out=self.all_weights
        )
        self.ratio = self.scratch("ratio", top[0].shape)

    def fill(self) -> None:
        for matrix in (self.down, self.right):
            new, old = matrix.shape
            if new:
                scale = (old - 1) / max(1, new - 1) or 1.0
                places = self.xp.arange(new, dtype=self.dtype)[:, None] * scale
                matrix[...] = self.xp.abs(places - self.xp.arange(old, dtype=self.dtype)) / scale
                matrix[...] = self.xp.maximum(1 - matrix, 0)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata, top[0].xdata
        if x.shape == y.shape:
            y[...] = x
            return
        self.ops.elementwise(Downsample.is_known, (x,), (), self.known)
        self.ops.elementwise(Downsample.or_zero, (x,), (), self.values)
        for images, means in ((self.values, y), (self.known, self.weights)):
            self.xp.matmul(images, self.right.T, out=self.between)
            self.xp.matmul(self.down, self.between, out=means)
        self.ratio[...] = self.all_weights
        self.ops.elementwise(Downsample.mean, (y, self.weights, self.ratio), (nan,), y)

    @staticmethod
    def is_known(x: float) -> float:
        return 1.0 if x == x else 0.0

    @staticmethod
    def or_zero(x: float) -> float:
        return x if x == x else 0.0

    @staticmethod
    def mean(total: float, known: float, weight: float, unknown: float) -> float:
        return unknown if weight - known > 0.5 * known else total / known
