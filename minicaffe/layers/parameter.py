"""Parameter: what a net learns, as a blob."""

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
