"""InnerProduct, and Embed, which multiplies rows of one 1 by its weights: it looks them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer, LayerClass


class InnerProduct(Layer):
    """Fully connected layer: ``y = x w^T + b``.

    Bottom: (…, K…), the axes from ``axis`` (1) on flattened into K inputs; the M rows before them are kept.  Top: (…,
    num_output). Params: w (num_output, K), or (K, num_output) with ``transpose``; b (num_output,) unless ``bias_term:
    false``.  ``normalize`` (happynear): see ``NormalizedInnerProduct``.
    Caffe: without a filler the weights are 0.
    """

    type = "InnerProduct"
    param = "inner_product_param"
    reads_tops = ()
    claims = (0,)
    capturable = True
    takes_halves = True
    fixed = ("weight_filler", "bias_filler")
    num_output: int
    bias_term: bool
    transpose: bool
    axis: int

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        """happynear's if ``normalize`` asks for it."""
        return NormalizedInnerProduct if layer_param.inner_product_param.normalize else cls

    def check_options(self) -> None:
        self.require(self.num_output > 0, f"must be positive; found {self.num_output}", "num_output")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        options = self.layer_param.inner_product_param
        self.inputs = bottom[0].span(self.axis_of(bottom[0], self.axis))
        shape = (self.num_output, self.inputs)
        self.add_param(shape[::-1] if self.transpose else shape, options.weight_filler)
        if self.bias_term:
            self.add_param((self.num_output,), options.bias_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        axis = self.axis_of(x, self.axis)
        if x.span(axis) != self.inputs:
            raise self.error(
                f"the input must keep {self.inputs} values a row from axis {axis} on; found {x.shape_string}",
                kind=ShapeError,
            )
        self.rows = x.span(0, axis)
        self.of_matrices = x.shape == (self.rows, self.inputs)
        shape = (self.num_output, self.inputs)
        self.require_blobs(shape[::-1] if self.transpose else shape, *([(self.num_output,)] if self.bias_term else []))
        top[0].reshape(*x.shape[:axis], self.num_output)

    def matrix(self, array: Any, columns: int) -> Any:
        """Values or gradients of bottom or top as (rows, columns)."""
        return array if self.of_matrices else array.reshape(self.rows, columns)

    def products(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return 2.0 * self.rows * self.inputs * self.num_output

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(top[0].count * self.bias_term)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        ops, x, y = self.ops, self.matrix(bottom[0].xdata, self.inputs), self.matrix(top[0].xdata, self.num_output)
        ops.gemm(x, self.blobs[0].xdata, y, transpose_b=not self.transpose)
        if self.bias_term:
            ops.bias_add(y, self.blobs[1].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        ops, w, dy = self.ops, self.blobs[0], self.matrix(top[0].xdiff, self.num_output)
        if self.param_propagate_down[0]:
            x = self.matrix(bottom[0].xdata, self.inputs)
            first, second = (x, dy) if self.transpose else (dy, x)
            dw, begun = w.claim_xdiff()
            ops.gemm(first, second, dw, transpose_a=True, accumulate=begun)
        if self.bias_term and self.param_propagate_down[1]:
            ops.bias_grad(dy, self.blobs[1].xdiff)
        if propagate_down[0]:
            ops.gemm(dy, w.xdata, self.matrix(bottom[0].xdiff, self.inputs), transpose_b=self.transpose)


class NormalizedInnerProduct(InnerProduct):
    r"""InnerProduct with ``normalize``: before each forward pass each row of w is divided, in the param itself, by its
    length :math:`\sqrt{10^{-6} + \sum w^2}` (happynear/caffe-windows).

    happynear: backward takes the divided weights for what is learned.
    """

    type = ""
    obeys = ("normalize",)

    def check_options(self) -> None:
        super().check_options()
        self.require(not self.transpose, "does not go with normalize, which is of rows", "transpose")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.squares = self.scratch("squares", self.blobs[0].shape)
        self.lengths = self.scratch("lengths", (self.num_output, 1))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        w = self.blobs[0].xdata
        self.xp.multiply(w, w, out=self.squares)
        self.xp.sum(self.squares, axis=1, keepdims=True, out=self.lengths)
        self.lengths += 1e-6
        self.xp.sqrt(self.lengths, out=self.lengths)
        w /= self.lengths
        super().forward(bottom, top)


class Embed(Layer):
    """Look up a row of weights for each integer: ``y[m] = w[x[m]] + b``.

    Bottom: integers in 0 .. input_dim - 1, any shape.  Top: that shape, and num_output.  Params: w (input_dim,
    num_output), b (num_output,) unless ``bias_term: false``.  The bottom cannot get a gradient.
    Caffe: without a filler the weights are 0.
    """

    type = "Embed"
    param = "embed_param"
    reads_tops = ()
    per_element = 0
    differentiable = ()
    fixed = ("weight_filler", "bias_filler")
    num_output: int
    input_dim: int
    bias_term: bool

    def check_options(self) -> None:
        for field in ("num_output", "input_dim"):
            self.require(getattr(self, field) > 0, f"must be positive; found {getattr(self, field)}", field)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        options = self.layer_param.embed_param
        self.add_param((self.input_dim, self.num_output), options.weight_filler)
        if self.bias_term:
            self.add_param((self.num_output,), options.bias_filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require_blobs((self.input_dim, self.num_output), *([(self.num_output,)] if self.bias_term else []))
        top[0].reshape(*bottom[0].shape, self.num_output)
        self.rows = (bottom[0].count, self.num_output)
        self.bad_index = self.flag("bad_index")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        index, y = bottom[0].xdata.reshape(-1), top[0].xdata.reshape(self.rows)
        self.check_indices(index, self.input_dim, self.bad_index, hint="; check input_dim")
        self.ops.gather_rows(self.blobs[0].xdata, index, y)
        if self.bias_term:
            self.ops.bias_add(y, self.blobs[1].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = top[0].xdiff.reshape(self.rows)
        if self.param_propagate_down[0]:
            self.ops.scatter_rows(dy, bottom[0].xdata.reshape(-1), self.blobs[0].xdiff)
        if self.bias_term and self.param_propagate_down[1]:
            self.ops.bias_grad(dy, self.blobs[1].xdiff)
