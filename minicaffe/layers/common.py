"""Layers with weights that are not windows, and others of many nets.

InnerProduct, Embed, Parameter, Bias, Scale, Eltwise, Softmax.
"""

from __future__ import annotations

from minicaffe.layers.base import Layer


class Parameter(Layer):
    """A learned blob as a top, of ``shape``, zero at first.

    Caffe: the top is the param's own memory, so that its gradient is overwritten; here it adds up as every param's.
    """

    type = "Parameter"
    param = "parameter_param"
    reads_tops = ()
    per_element = 0
    bottoms = 0

    def setup(self, bottom, top):
        self.require_sizes(self.shape.dim)
        self.add_param(tuple(self.shape.dim))

    def reshape(self, bottom, top):
        top[0].reshape_like(self.blobs[0])

    def forward(self, bottom, top):
        top[0].xdata[...] = self.blobs[0].xdata

    def backward(self, top, propagate_down, bottom):
        if self.param_propagate_down[0]:
            dw = self.blobs[0].xdiff
            dw += top[0].xdiff


class Softmax(Layer):
    r"""Scores to probabilities along ``axis`` (1): :math:`y_i = e^{x_i} / \sum_j e^{x_j}`.

    Bottom and top: one shape.  The largest score is subtracted first, so that nothing overflows.
    """

    type = "Softmax"
    capturable = True
    param = "softmax_param"
    reads_bottoms = ()
    per_element = 5
    in_place = "always"
    axis: int

    def reshape(self, bottom, top):
        x = bottom[0]
        top[0].reshape_like(x)
        self.shape = self.about(x, self.axis_of(x, self.axis), "score")

    def forward(self, bottom, top):
        self.ops.softmax(bottom[0].xdata.reshape(self.shape), top[0].xdata.reshape(self.shape))

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            y, dy = top[0].xdata.reshape(self.shape), top[0].xdiff.reshape(self.shape)
            self.ops.softmax_grad(y, dy, bottom[0].xdiff.reshape(self.shape))
