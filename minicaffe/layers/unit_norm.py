"""Normalize: values scaled to a length of 1, and from there to one that is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer, same


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
    capturable = True
    by_image = True
    per_element = 4
    across_spatial: bool
    channel_shared: bool
    eps: float
    vectors: tuple[int, ...]
    """How x is seen for the norm: along the middle one of three axes."""
    scaled: tuple[int, ...]
    """How it is seen for the scale: each has its place along the middle axis."""

    reads_bottoms = ()
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
        self.reads_tops = (0,) if self.by_position else ()
        if not self.by_position:
            filler = self.given("scale_filler", proto.FillerParameter(value=1))
            self.add_param(() if self.channel_shared else (bottom[0].shape[1],), filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(len(x.shape) >= 2, f"needs channels; found {x.shape_string}", kind=ShapeError)
        (self._reshape_by_position if self.by_position else self._reshape_with_scale)(x, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.by_position:
            self._forward_by_position(bottom, top)
        else:
            self._forward_with_scale(bottom, top)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not self.by_position:
            self._backward_with_scale(top, propagate_down, bottom)
        elif propagate_down[0]:
            self._backward_by_position(top, bottom)

    # --- SSD's dialect -------------------------------------------------------------------------------------------

    def _reshape_with_scale(self, x: Blob, top: Sequence[Blob]) -> None:
        count = 1 if self.channel_shared else x.shape[1]
        self.require(
            self.blobs[0].count == count, f"the scale must hold {count} value(s); found {self.blobs[0].shape_string}",
            "blobs", ShapeError,
        )  # fmt: skip
        top[0].reshape_like(x)
        num, channels, inner = *x.shape[:2], x.span(2)
        self.vectors = (num, channels * inner, 1) if self.across_spatial else (num, channels, inner)
        self.scaled = (num, 1, channels * inner) if self.channel_shared else (num, channels, inner)
        self.norm = self.scratch("norm", self.vectors[::2])
        self.unit = self.scratch_for_backward(x.shape)

    def _forward_with_scale(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata, top[0].xdata
        unit = y if self.unit is None else self.unit
        self.ops.unit_norm(x.reshape(self.vectors), self.eps, 2, self.norm, unit.reshape(self.vectors))
        self._scale(unit, y)

    def _scale(self, x: Any, y: Any) -> None:
        scale = self.blobs[0].xdata.reshape(-1)
        self.ops.scale(x.reshape(self.scaled), scale, None, y.reshape(self.scaled), None)

    def _backward_with_scale(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """``ds = sum(dy z)`` and ``dx = s (dy - z (z . dy)) / norm``, z being the vectors of length 1."""
        self.require_kept(self.unit)
        dy, scale = top[0].xdiff, self.blobs[0]
        if self.param_propagate_down[0]:
            unit, gradient = self.unit.reshape(self.scaled), scale.xdiff.reshape(-1)
            self.ops.scale_grad(unit, dy.reshape(self.scaled), scale.xdata.reshape(-1), None, gradient, None)
        if propagate_down[0]:
            dx = bottom[0].xdiff
            unit, dy, through = (a.reshape(self.vectors) for a in (self.unit, dy, dx))
            self.ops.unit_norm_grad(unit, self.norm, dy, 2, None, through)
            self._scale(dx, dx)

    # --- happynear's dialect -------------------------------------------------------------------------------------

    def _reshape_by_position(self, x: Blob, top: Sequence[Blob]) -> None:
        shape = (*x.shape, *[1] * (4 - len(x.shape)))
        top[0].reshape(*shape)
        if len(top) > 1:
            top[1].reshape(shape[0], 1, *shape[2:])
        self.vectors = (*x.shape[:2], x.span(2))
        self.norm = self.scratch("norm", self.vectors[::2])
        self.power = int(self.layer_param.normalize_param.normalize_type[1])

    def _forward_by_position(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = (blob.xdata.reshape(self.vectors) for blob in (bottom[0], top[0]))
        self.ops.unit_norm(x, 1e-6, self.power, self.norm, y)
        if len(top) > 1:
            self.ops.elementwise(same, (self.norm,), (), top[1].xdata)

    def _backward_by_position(self, top: Sequence[Blob], bottom: Sequence[Blob]) -> None:
        y, dy, dx = (a.reshape(self.vectors) for a in (top[0].xdata, top[0].xdiff, bottom[0].xdiff))
        counts = len(top) > 1 and self.layer_param.normalize_param.bp_norm
        dnorm = top[1].xdiff.reshape(self.norm.shape) if counts else None
        self.ops.unit_norm_grad(y, self.norm, dy, self.power, dnorm, dx)
