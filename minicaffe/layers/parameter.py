"""Parameter and TrainableData: what a net learns, as a blob."""

from __future__ import annotations

from collections.abc import Sequence

from minicaffe import proto
from minicaffe.blob import Blob
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
    fixed = None
    shape: proto.BlobShape

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require_sizes(self.shape.dim)
        self.add_param(tuple(self.shape.dim))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape_like(self.blobs[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].xdata[...] = self.blobs[0].xdata

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if self.param_propagate_down[0]:
            dw = self.blobs[0].xdiff
            dw += top[0].xdiff


class TrainableData(Parameter):
    """A learned blob as a top, of ``shape``, made by ``blob_filler`` (happynear/caffe-windows)."""

    type = "TrainableData"
    param = "trainable_data_param"

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        options = self.layer_param.trainable_data_param
        self.require_sizes(options.shape)
        self.add_param(tuple(options.shape), options.blob_filler)
