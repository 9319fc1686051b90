"""Permute: the axes of a blob in another order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minicaffe.blob import Blob
from minicaffe.layers.base import Layer


class Permute(Layer):
    """Put the axes in another order: axis i of the top is axis ``order[i]`` of the bottom (SSD's heads end so).

    Bottom: any shape.  Top: its axes in the order given; axes that ``order`` does not name follow as they are.
    """

    type = "Permute"
    param = "permute_param"
    reads_bottoms = reads_tops = ()
    per_element = 0
    order: Sequence[int]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, order = bottom[0], list(self.order)
        axes = len(x.shape)
        self.require(
            len(set(order)) == len(order) and all(axis < axes for axis in order),
            f"must name axes of the input, each once, in 0 .. {axes - 1}; found {order}",
            "order",
        )
        self.axes = (*order, *(axis for axis in range(axes) if axis not in order))
        self.back = tuple(np.argsort(self.axes).tolist())
        top[0].reshape(*(x.shape[axis] for axis in self.axes))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].xdata[...] = self.xp.transpose(bottom[0].xdata, self.axes)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].xdiff[...] = self.xp.transpose(top[0].xdiff, self.back)
