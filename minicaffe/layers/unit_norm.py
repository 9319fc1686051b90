"""Normalize: values scaled to a length of 1, and from there to one that is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer


class Normalize(Layer):
    r"""Divide by the L2 norm and multiply by a learned scale (ParseNet, Liu et al. 2015; SSD).

    .. math:: y = s \, x / \sqrt{\epsilon + \sum x^2}

    The sum runs over an item (``across_spatial``, the default) or over the channels at each position.  Bottom and top:
    (N, C, …).  Param: s, a scalar (``channel_shared``, the default) or (C,), 1 at first unless there is a
    ``scale_filler``.
    Caffe: with a scale for each channel the gradient is multiplied by it last, so that it is not the true one.
    """

    type = "Normalize"
    param = "norm_param"
    per_element = 4
    across_spatial: bool
    channel_shared: bool
    eps: float

    reads_tops = ()
    fixed = ("channel_shared", "scale_filler")

    def check_options(self) -> None:
        self.require(
            not self.layer_param.HasField("normalize_param"),
            "is happynear's dialect of Normalize, which has no scale; this one, SSD's, is said by norm_param",
            "normalize_param",
        )

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        filler = self.given("scale_filler", proto.FillerParameter(value=1))
        self.require(len(bottom[0].shape) >= 2, f"needs channels; found {bottom[0].shape_string}", kind=ShapeError)
        self.add_param(() if self.channel_shared else (bottom[0].shape[1],), filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(len(x.shape) >= 2, f"needs channels; found {x.shape_string}", kind=ShapeError)
        count = 1 if self.channel_shared else x.shape[1]
        self.require(
            self.blobs[0].count == count, f"the scale must hold {count} value(s); found {self.blobs[0].shape_string}",
            "blobs", ShapeError,
        )  # fmt: skip
        top[0].reshape_like(x)
        self.rows = (*x.shape[:2], x.span(2))
        self.axes = (1, 2) if self.across_spatial else (1,)
        sums = (x.shape[0], 1, 1 if self.across_spatial else x.span(2))
        self.product = self.scratch("product", self.rows)
        self.norm, self.along = self.scratch("norm", sums), self.scratch("along", sums)
        self.scale_shape = (1, count, 1)
        self.scale_sum = self.scratch("scale_sum", self.blobs[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata.reshape(self.rows), top[0].xdata.reshape(self.rows)
        self.xp.multiply(x, x, out=self.product)
        self.xp.sum(self.product, axis=self.axes, keepdims=True, out=self.norm)
        self.norm += self.eps
        self.xp.sqrt(self.norm, out=self.norm)
        self.xp.divide(x, self.norm, out=y)
        y *= self.blobs[0].xdata.reshape(self.scale_shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        x, dy = bottom[0].xdata.reshape(self.rows), top[0].xdiff.reshape(self.rows)
        if self.param_propagate_down[0]:
            self._add_scale_gradient(x, dy)
        if propagate_down[0]:
            self._project(x, dy, bottom[0].xdiff.reshape(self.rows))

    def _add_scale_gradient(self, x: Any, dy: Any) -> None:
        """Sum of ``dy x / norm`` over all that one scale multiplies."""
        self.xp.multiply(x, dy, out=self.product)
        self.product /= self.norm
        shared = self.channel_shared
        self.xp.sum(self.product, axis=None if shared else (0, 2), out=self.scale_sum)
        self.blobs[0].xdiff[...] += self.scale_sum

    def _project(self, x: Any, dy: Any, dx: Any) -> None:
        """``dx = scale (dy - x (x . dy) / norm^2) / norm``."""
        self.xp.multiply(x, dy, out=self.product)
        self.xp.sum(self.product, axis=self.axes, keepdims=True, out=self.along)
        self.along /= self.norm
        self.along /= self.norm
        self.xp.multiply(x, self.along, out=self.product)
        self.xp.subtract(dy, self.product, out=dx)
        dx /= self.norm
        dx *= self.blobs[0].xdata.reshape(self.scale_shape)
