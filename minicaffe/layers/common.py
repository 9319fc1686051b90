"""Layers with weights that are not windows, and the softmax: InnerProduct, Softmax."""

from __future__ import annotations

from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer


class InnerProduct(Layer):
    """Fully connected layer: ``y = x w^T + b``.

    Bottom: (…, K…), the axes from ``axis`` (1) on flattened into K inputs; the M rows before them are kept.  Top: (…, num_output).
    Params: w (num_output, K), or (K, num_output) with ``transpose``; b (num_output,) unless ``bias_term: false``.
    Caffe: without a filler the weights are 0.
    """

    type = "InnerProduct"
    param = "inner_product_param"
    num_output: int
    bias_term: bool
    transpose: bool
    axis: int

    def setup(self, bottom, top):
        self.require(self.num_output > 0, f"must be positive; found {self.num_output}", "num_output")
        options = self.layer_param.inner_product_param
        self.inputs = bottom[0].span(self.axis_of(bottom[0], self.axis))
        shape = (self.num_output, self.inputs)
        self.add_param(shape[::-1] if self.transpose else shape, options.weight_filler)
        if self.bias_term:
            self.add_param((self.num_output,), options.bias_filler)

    def reshape(self, bottom, top):
        x = bottom[0]
        axis = self.axis_of(x, self.axis)
        if x.span(axis) != self.inputs:
            raise self.error(
                f"the input must keep {self.inputs} values a row from axis {axis} on; found {x.shape_string}", kind=ShapeError
            )
        self.rows = x.span(0, axis)
        top[0].reshape(*x.shape[:axis], self.num_output)

    def forward(self, bottom, top):
        x, y = bottom[0].xdata.reshape(self.rows, self.inputs), top[0].xdata.reshape(self.rows, self.num_output)
        self.ops.gemm(x, self.blobs[0].xdata, y, transpose_b=not self.transpose)
        if self.bias_term:
            self.ops.bias_add(y[:, :, None], self.blobs[1].xdata)

    def backward(self, top, propagate_down, bottom):
        dy = top[0].xdiff.reshape(self.rows, self.num_output)
        x, w = bottom[0].xdata.reshape(self.rows, self.inputs), self.blobs[0]
        if self.param_propagate_down[0]:
            first, second = (x, dy) if self.transpose else (dy, x)
            self.ops.gemm(first, second, w.xdiff, transpose_a=True, accumulate=True)
        if self.bias_term and self.param_propagate_down[1]:
            self.ops.bias_grad(dy[:, :, None], self.blobs[1].xdiff)
        if propagate_down[0]:
            dx = bottom[0].xdiff.reshape(self.rows, self.inputs)
            self.ops.gemm(dy, w.xdata, dx, transpose_b=self.transpose)


class Softmax(Layer):
    r"""Scores to probabilities along ``axis`` (1): :math:`y_i = e^{x_i} / \sum_j e^{x_j}`.

    Bottom and top: one shape.  The largest score is subtracted first, so that nothing overflows.
    """

    type = "Softmax"
    param = "softmax_param"
    in_place = "always"
    axis: int

    def reshape(self, bottom, top):
        x = bottom[0]
        axis = self.axis_of(x, self.axis)
        top[0].reshape_like(x)
        self.shape = (x.span(0, axis), x.shape[axis], x.span(axis + 1))

    def forward(self, bottom, top):
        self.ops.softmax(bottom[0].xdata.reshape(self.shape), top[0].xdata.reshape(self.shape))

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            y, dy = top[0].xdata.reshape(self.shape), top[0].xdiff.reshape(self.shape)
            self.ops.softmax_grad(y, dy, bottom[0].xdiff.reshape(self.shape))
