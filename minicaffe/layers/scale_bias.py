"""Bias, Scale and EltwiseAffine: an operand that is stretched over the axes it does not have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count, Layer


class Broadcast(Layer):
    """Base of Bias and Scale: an operand v with the sizes of some axes of x, the same for all others.

    With one bottom v is learned and covers ``num_axes`` (1) axes of x from ``axis`` (1) on: -1 covers all that follow,
    0 none (one number for all of x).  A second bottom is v itself; ``num_axes`` is not read then.
    """

    bottoms: Count = (1, 2)
    in_place = "always"
    reads_tops = ()
    fixed: ClassVar[Collection[str] | None] = ("num_axes", "filler", "bias_filler")
    axis: int
    num_axes: int

    def add_operand(self, bottom: Sequence[Blob], filler: proto.FillerParameter) -> None:
        """Make v, unless it is a bottom."""
        if len(bottom) > 1:
            return
        x, start = bottom[0], self.axis_of(bottom[0], self.axis)
        self.require(self.num_axes >= -1, f"must be -1 or more; found {self.num_axes}", "num_axes")
        end = len(x.shape) if self.num_axes == -1 else start + self.num_axes
        self.require(
            end <= len(x.shape),
            f"{self.num_axes} axes from axis {start} on go beyond shape {x.shape_string}",
            "num_axes",
            ShapeError,
        )
        self.add_param(x.shape[start:end], filler)

    def operand(self, bottom: Sequence[Blob]) -> Blob:
        """The blob v."""
        return bottom[1] if len(bottom) > 1 else self.blobs[0]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, v = bottom[0], self.operand(bottom)
        start = self.axis_of(x, self.axis) if v.shape else 0
        end = start + len(v.shape)
        if x.shape[start:end] != v.shape:
            raise self.error(
                f"the input's axes from {start} on must have the sizes {list(v.shape)}; found {x.shape_string}",
                "axis",
                ShapeError,
            )
        self.rows = (x.span(0, start), v.count, x.span(end))
        top[0].reshape_like(x)

    def wants_operand(self, propagate_down: Sequence[bool]) -> bool:
        """Whether v gets a gradient."""
        return propagate_down[1] if len(propagate_down) > 1 else self.param_propagate_down[0]

    def operand_diff(self, bottom: Sequence[Blob]) -> Any:
        """Where v's gradient is to be added: a learned one adds up, that of a bottom starts from 0."""
        dv = self.operand(bottom).xdiff.reshape(-1)
        if len(bottom) > 1:
            dv.fill(0)
        return dv


class Bias(Broadcast):
    """Add v to x: ``y = x + v``, v (0 at first) stretched over the axes it does not have; see ``Broadcast``.

    Bottoms: x; optionally v.  Top: as x.  Param with one bottom: v.
    """

    type = "Bias"
    capturable_on_device = True
    param = "bias_param"
    fixed = Broadcast.fixed
    reads_bottoms = ()

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.add_operand(bottom, self.layer_param.bias_param.filler)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if top[0] is not bottom[0]:
            top[0].xdata[...] = bottom[0].xdata
        self.ops.bias_add(top[0].xdata.reshape(self.rows), self.operand(bottom).xdata.reshape(-1))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if self.wants_operand(propagate_down):
            self.ops.bias_grad(top[0].xdiff.reshape(self.rows), self.operand_diff(bottom))
        if propagate_down[0] and top[0] is not bottom[0]:
            bottom[0].xdiff[...] = top[0].xdiff


class Scale(Broadcast):
    """Multiply x by v, and add a bias if ``bias_term``: ``y = v x + b``, both stretched over the axes they do not have.

    Bottoms: x; optionally v.  Top: as x.  Params: v with one bottom (1 at first, unless there is a ``filler``); b of
    v's shape (0 at first).  In place, a copy of x is kept.
    Caffe: its gradient of v overwrites instead of adding up if v is as large as x, or x has one item; here it always
    adds up.
    """

    type = "Scale"
    capturable = True
    by_image = True
    takes_halves = True
    capturable_on_device = True
    param = "scale_param"
    fixed = Broadcast.fixed
    bias_term: bool

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.capturable = len(bottom) == 1
        self.takes_halves = self.takes_halves and len(bottom) == 1
        self.reads_bottoms = range(1 if top[0] is bottom[0] else 0, len(bottom))
        self.add_operand(
            bottom, self.layer_param.scale_param.filler if self.has("filler") else proto.FillerParameter(value=1)
        )
        if self.bias_term:
            self.add_param(self.operand(bottom).shape, self.layer_param.scale_param.bias_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        # kernels take rows of several elements; single ones NumPy multiplies
        self.only_by_image_if(len(bottom) == 1 and self.axis_of(bottom[0], self.axis) > 0 and self.rows[2] > 1)
        self.kept = self.input_copy(bottom, top, self.rows)
        if self.bias_term:
            expected = 2 if len(bottom) == 1 else 1
            self.require(len(self.blobs) >= expected, f"with a bias it has {expected} blobs; found {len(self.blobs)}")
            b, v = self.blobs[-1], self.operand(bottom)
            self.require(
                b.count == v.count,
                f"the bias has shape {b.shape_string}, the factors {v.shape_string}",
                kind=ShapeError,
            )

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(top[0].count * (1 + self.bias_term))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata.reshape(self.rows), top[0].xdata.reshape(self.rows)
        b = self.blobs[-1].xdata.reshape(-1) if self.bias_term else None
        self.ops.scale(x, self.operand(bottom).xdata.reshape(-1), b, y, self.kept)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        x = bottom[0].xdata.reshape(self.rows) if self.kept is None else self.kept
        dy, v = top[0].xdiff.reshape(self.rows), self.operand(bottom).xdata.reshape(-1)
        dx = bottom[0].xdiff.reshape(self.rows) if propagate_down[0] else None
        dv = self.operand_diff(bottom) if self.wants_operand(propagate_down) else None
        db = self.blobs[-1].xdiff.reshape(-1) if self.bias_term and self.param_propagate_down[-1] else None
        self.ops.scale_grad(x, dy, v, dx, dv, db)

    def keep_input(self, shape: tuple[int, ...]) -> Any:
        """Memory of this shape for the input that backward reads, where forward did not keep it itself."""
        if self.kept is None:
            self.kept = self.scratch("kept", shape)
            self.changed()
        return self.kept


class EltwiseAffine(Scale):
    """Multiply each channel and add to it: ``y = a_c x + b_c`` (happynear/caffe-windows).

    Bottom and top: (N, C, …).  Params: a (C), b (C), or scalars if ``channel_shared``; 1.0001 and 0.0001 at first,
    unless there are a ``slope_filler`` and a ``bias_filler``.  There gradients overwrite instead of adding up.
    """

    type = "EltwiseAffine"
    param = "eltwise_affine_param"
    bottoms = 1
    fixed = ("channel_shared", "slope_filler", "bias_filler")
    axis = 1
    bias_term = True
    channel_shared: bool

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.reads_bottoms = () if top[0] is bottom[0] else (0,)
        x = bottom[0]
        self.require(len(x.shape) >= 2, f"the input must have channels; found {x.shape_string}", kind=ShapeError)
        for field, value in (("slope_filler", 1.0001), ("bias_filler", 0.0001)):
            given = getattr(self.layer_param.eltwise_affine_param, field)
            filler = given if self.has(field) else proto.FillerParameter(value=value)
            self.add_param(() if self.channel_shared else x.shape[1:2], filler)
