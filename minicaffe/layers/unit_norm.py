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
    happynear's dialect, said by ``normalize_param``, a second top or ``fork: "happynear"``, has no scale: it divides
    each position by its norm over channels, :math:`\sqrt{10^{-6} + \sum x^2}` (``normalize_type: "L2"``) or
    :math:`10^{-6} + \sum |x|` ("L1").
    The second top (N, 1, …) is that norm, whose gradient counts if ``bp_norm`` is set.  ``fix_gradient`` is refused.
    Caffe: with a scale for each channel the gradient is multiplied by it last, so that it is not the true one.
    """

    type = "Normalize"
    param = "norm_param"
    tops = (1, 2)
    per_element = 4
    across_spatial: bool
    channel_shared: bool
    eps: float

    reads_tops = ()
    fixed = ("channel_shared", "scale_filler")
    dialects = ("SSD", "happynear")
    ambiguity = "happynear's divides each position by its norm over channels, and has no scale to learn"
    by_position = False
    """Whether it is happynear's dialect."""

    def check_options(self) -> None:
        theirs, ours = self.layer_param.normalize_param, self.layer_param.norm_param.ListFields()
        self.require(
            not (self.layer_param.HasField("normalize_param") and ours),
            "is happynear's dialect of Normalize, and norm_param SSD's: give one of them",
            "normalize_param",
        )
        self.require(
            not (self.by_position and ours),
            "is SSD's dialect of Normalize, and a second top or fork: \"happynear\" say happynear's, which has no "
            "norm_param: give one of them",
            "norm_param",
        )
        self.require(
            theirs.normalize_type in ("L1", "L2"), f'must be "L1" or "L2"; found {theirs.normalize_type!r}',
            "normalize_param.normalize_type",
        )  # fmt: skip
        self.require(not theirs.fix_gradient, "is not in minicaffe; leave it out", "normalize_param.fix_gradient")

    def is_ambiguous(self) -> bool:
        return not (self.layer_param.HasField("norm_param") or self._says_happynear(len(self.layer_param.top)))

    def _says_happynear(self, tops: int) -> bool:
        return self.layer_param.HasField("normalize_param") or tops > 1 or self.layer_param.fork == "happynear"

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.by_position = self._says_happynear(len(top))
        self.check_options()
        self.require(len(bottom[0].shape) >= 2, f"needs channels; found {bottom[0].shape_string}", kind=ShapeError)
        if not self.by_position:
            filler = self.given("scale_filler", proto.FillerParameter(value=1))
            self.add_param(() if self.channel_shared else (bottom[0].shape[1],), filler)

    def _reshape_by_position(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        shape = (*x.shape, *[1] * (4 - len(x.shape)))
        top[0].reshape(*shape)
        if len(top) > 1:
            top[1].reshape(shape[0], 1, *shape[2:])
        self.rows = (*x.shape[:2], x.span(2))
        self.product = self.scratch("product", self.rows)
        sums = (x.shape[0], 1, x.span(2))
        self.norm, self.along = self.scratch("norm", sums), self.scratch("along", sums)
        self.l1 = self.layer_param.normalize_param.normalize_type == "L1"

    def _forward_by_position(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].xdata.reshape(self.rows)
        self.ops.elementwise(Normalize.size if self.l1 else Normalize.square, (x,), (), self.product)
        self.xp.sum(self.product, axis=1, keepdims=True, out=self.norm)
        self.norm += 1e-6
        if not self.l1:
            self.xp.sqrt(self.norm, out=self.norm)
        self.xp.divide(x, self.norm, out=top[0].xdata.reshape(self.rows))
        if len(top) > 1:
            top[1].xdata.reshape(self.norm.shape)[...] = self.norm

    def _backward_by_position(self, top: Sequence[Blob], bottom: Sequence[Blob]) -> None:
        """``dx = (dy - g (x . dy) / norm) / norm + dnorm g``, g being the gradient of the norm."""
        x, dy, dx = (a.reshape(self.rows) for a in (bottom[0].xdata, top[0].xdiff, bottom[0].xdiff))
        self.xp.multiply(x, dy, out=self.product)
        self.xp.sum(self.product, axis=1, keepdims=True, out=self.along)
        self.along /= self.norm
        self.along /= self.norm
        if len(top) > 1 and self.layer_param.normalize_param.bp_norm:
            self.along -= top[1].xdiff.reshape(self.norm.shape)
        if self.l1:
            self.ops.elementwise(Normalize.sign, (x,), (), self.product)
        else:
            self.xp.divide(x, self.norm, out=self.product)
        self.product *= self.along
        self.xp.divide(dy, self.norm, out=dx)
        dx -= self.product

    @staticmethod
    def size(x: float) -> float:
        return abs(x)

    @staticmethod
    def square(x: float) -> float:
        return x * x

    @staticmethod
    def sign(x: float) -> float:
        return 1.0 if x > 0 else -1.0 if x < 0 else x

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(len(x.shape) >= 2, f"needs channels; found {x.shape_string}", kind=ShapeError)
        if self.by_position:
            self._reshape_by_position(bottom, top)
            return
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
        if self.by_position:
            self._forward_by_position(bottom, top)
            return
        x, y = bottom[0].xdata.reshape(self.rows), top[0].xdata.reshape(self.rows)
        self.xp.multiply(x, x, out=self.product)
        self.xp.sum(self.product, axis=self.axes, keepdims=True, out=self.norm)
        self.norm += self.eps
        self.xp.sqrt(self.norm, out=self.norm)
        self.xp.divide(x, self.norm, out=y)
        y *= self.blobs[0].xdata.reshape(self.scale_shape)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if self.by_position:
            if propagate_down[0]:
                self._backward_by_position(top, bottom)
            return
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
