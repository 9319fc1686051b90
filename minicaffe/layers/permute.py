"""The axes of a blob in another order: Permute, Transpose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minicaffe.blob import Blob
from minicaffe.layers.base import Layer


class Reordering(Layer):
    """Base of layers whose top has the axes of the bottom in another order."""

    reads_bottoms = reads_tops = ()
    per_element = 0

    def arrange(self, bottom: Sequence[Blob], top: Sequence[Blob], axes: Sequence[int]) -> None:
        """In ``reshape``: let axis i of the top be axis ``axes[i]`` of the bottom."""
        self.axes, self.back = tuple(axes), tuple(np.argsort(axes).tolist())
        top[0].reshape(*(bottom[0].shape[axis] for axis in self.axes))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.ops.permute(bottom[0].xdata, self.axes, top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            self.ops.permute(top[0].xdiff, self.back, bottom[0].xdiff)


class Permute(Reordering):
    """Put the axes in another order: axis i of the top is axis ``order[i]`` of the bottom (SSD's heads end so).

    Bottom: any shape.  Top: its axes in the order given; axes that ``order`` does not name follow as they are.
    """

    type = "Permute"
    capturable = True
    param = "permute_param"
    order: Sequence[int]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        order, axes = list(self.order), len(bottom[0].shape)
        self.require(
            len(set(order)) == len(order) and all(axis < axes for axis in order),
            f"must name axes of the input, each once, in 0 .. {axes - 1}; found {order}",
            "order",
        )
        self.arrange(bottom, top, [*order, *(axis for axis in range(axes) if axis not in order)])


class Transpose(Reordering):
    """Put the axes in another order: axis i of the top is axis ``dim[i]`` of the bottom (caffe_ocr).

    Bottom: any shape.  Top: its axes in the order given, which names all of them.
    """

    type = "Transpose"
    capturable = True
    param = "transpose_param"
    dim: Sequence[int]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        dim, axes = list(self.dim), len(bottom[0].shape)
        self.require(
            sorted(dim) == list(range(axes)),
            f"must name all {axes} axes of the input, each once, from 0; found {dim}",
            "dim",
        )
        self.arrange(bottom, top, dim)
