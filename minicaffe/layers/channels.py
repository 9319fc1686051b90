"""Layers of forks that weigh, move or mirror whole channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer, same


class Axpy(Layer):
    """Weigh each channel of one input and add another: ``y = a_nc x + z`` (SENet).

    Bottoms: a (N, C[, 1, 1]), one weight a channel; x and z (N, C, …).  Top: as x.
    """

    type = "Axpy"
    capturable = True
    bottoms = 3
    reads_bottoms = (0, 1)
    reads_tops = ()
    per_element = 2

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a, x, z = bottom
        self.require_same_shape(x, z)
        if len(x.shape) < 2 or a.shape[:2] != x.shape[:2] or a.count != x.span(0, 2):
            raise self.error(
                f"bottom 0 must hold one weight for each item and channel of bottom 1; found {a.shape_string} and "
                f"{x.shape_string}",
                kind=ShapeError,
            )
        top[0].reshape_like(x)
        self.rows = (1, a.count, x.span(2))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a, x, z = (blob.xdata for blob in bottom)
        y = top[0].xdata.reshape(self.rows)
        self.ops.channelwise(Axpy.value, (x.reshape(self.rows), z.reshape(self.rows)), (a.reshape(-1),), (), y)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy, a, x = top[0].xdiff.reshape(self.rows), bottom[0].xdata.reshape(-1), bottom[1].xdata.reshape(self.rows)
        if propagate_down[0]:
            da = bottom[0].xdiff.reshape(-1)
            self.ops.scale_grad(x, dy, a, None, self._emptied(da), None)
        if propagate_down[1]:
            self.ops.channelwise(Axpy.product, (dy,), (a,), (), bottom[1].xdiff.reshape(self.rows))
        if propagate_down[2]:
            self.ops.elementwise(same, (top[0].xdiff,), (), bottom[2].xdiff)

    def _emptied(self, array: Any) -> Any:
        self.ops.elementwise(Axpy.nothing, (array,), (), array)
        return array

    @staticmethod
    def value(x: float, z: float, a: float) -> float:
        return a * x + z

    @staticmethod
    def product(dy: float, a: float) -> float:
        return a * dy

    @staticmethod
    def nothing(x: float) -> float:
        return 0.0


class ShuffleChannel(Layer):
    """Let channels of different groups meet: channel ``j g + i`` of the top is channel ``i (C / g) + j`` of the bottom
    (ShuffleNet).

    Bottom and top: (N, C, …), C a multiple of g = ``shuffle_channel_param.group`` (1).
    """

    type = "ShuffleChannel"
    param = "shuffle_channel_param"
    reads_bottoms = reads_tops = ()
    per_element = 0
    group: int

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(len(x.shape) >= 2, f"the input must have channels; found {x.shape_string}", kind=ShapeError)
        self.require(self.group > 0, f"must be positive; found {self.group}", "group")
        self.require(
            x.shape[1] % self.group == 0,
            f"must divide the channels ({x.shape[1]}); found {self.group}",
            "group",
            ShapeError,
        )
        top[0].reshape_like(x)
        self.apart = (x.shape[0], self.group, x.shape[1] // self.group, x.span(2))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        num, group, each, inner = self.apart
        top[0].xdata.reshape(num, each, group, inner)[...] = bottom[0].xdata.reshape(self.apart).swapaxes(1, 2)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            num, group, each, inner = self.apart
            bottom[0].xdiff.reshape(self.apart)[...] = top[0].xdiff.reshape(num, each, group, inner).swapaxes(1, 2)


class Flip(Layer):
    """Mirror images: left to right if ``flip_width`` (true), upside down if ``flip_height`` (false).

    Bottom and top: (N, C, H, W).
    """

    type = "Flip"
    param = "flip_param"
    reads_bottoms = reads_tops = ()
    per_element = 0
    flip_width: bool
    flip_height: bool

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(
            len(x.shape) == 4, f"the input must have 4 axes (N, C, H, W); found {x.shape_string}", kind=ShapeError
        )
        top[0].reshape_like(x)

    def _mirrored(self, array: Any) -> Any:
        return array[:, :, :: -1 if self.flip_height else 1, :: -1 if self.flip_width else 1]

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].xdata[...] = self._mirrored(bottom[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].xdiff[...] = self._mirrored(top[0].xdiff)


class Slope(Layer):
    """Append two channels that say where a pixel is: ``h / H`` and ``w / W``.

    Bottom: (N, C, H, W).  Top: (N, C + 2, H, W).
    """

    type = "Slope"
    reads_bottoms = reads_tops = ()
    per_element = 0

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(
            len(x.shape) == 4, f"the input must have 4 axes (N, C, H, W); found {x.shape_string}", kind=ShapeError
        )
        num, channels, height, width = x.shape
        top[0].reshape(num, channels + 2, height, width)
        self.places = self.scratch("places", (2, height, width))
        if self.places.size:
            xp = self.xp
            self.places[0] = xp.arange(height, dtype=self.dtype)[:, None] / height
            self.places[1] = xp.arange(width, dtype=self.dtype) / width

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        y = top[0].xdata
        y[:, :-2] = bottom[0].xdata
        y[:, -2:] = self.places

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].xdiff[...] = top[0].xdiff[:, :-2]
