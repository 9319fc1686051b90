"""Layers of forks that weigh, move or mirror whole channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer, same


class Axpy(Layer):
    """Weigh each channel of one input and add another: ``y = a_nc x + z`` (SENet).

    Bottoms: a (N, C[, 1, 1]), one weight a channel; x and z (N, C, …).  Top: as x.
    """

    type = "Axpy"
    capturable = True
    by_image = True
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
    capturable = True
    by_image = True
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
        self._shuffle(bottom[0].xdata.reshape(self.apart), top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            num, group, each, inner = self.apart
            self._shuffle(top[0].xdiff.reshape(num, each, group, inner), bottom[0].xdiff)

    def _shuffle(self, channels: Any, target: Any) -> None:
        num, rows, columns, inner = channels.shape
        self.ops.permute(channels, (0, 2, 1, 3), target.reshape(num, columns, rows, inner))


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


class ChannelScale(Layer):
    """Weigh positions: ``y[n, c, h, w] = s[n, h, w] x[n, c, h, w]`` (happynear/caffe-windows).

    Bottoms: x (N, C, …); s with one value for each item and position.  Top: as x.  ``do_forward: false`` copies x
    instead; ``do_backward_feature: false`` hands the gradient of x on unweighed; ``do_backward_scale: false`` gives s
    none.
    ``global_scale``: forward weighs with one number instead, a param (1) that no solver moves; backward still with s.
    It is ``init_global_scale`` (1) at first and held between ``min_global_scale`` (0) and ``max_global_scale`` (1000).
    A second top (1) holds it.
    """

    type = "ChannelScale"
    param = "channel_scale_param"
    bottoms = 2
    tops = (1, 2)
    reads_tops = ()
    do_forward: bool
    do_backward_feature: bool
    do_backward_scale: bool
    global_scale: bool
    max_global_scale: float
    min_global_scale: float
    init_global_scale: float

    fixed = ("global_scale", "init_global_scale")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require(
            self.global_scale or len(top) == 1, f"gives a second top only if it is on; found {len(top)}", "global_scale"
        )
        if self.global_scale:
            self.require(
                all(spec.lr_mult == 0 for spec in self.layer_param.param),
                "must have lr_mult 0: no gradient moves the global scale",
                "param",
            )
            if not self.layer_param.param:
                self.layer_param.param.add(lr_mult=0, decay_mult=0)
            self.add_param((1,), proto.FillerParameter(value=self.init_global_scale))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, s = bottom
        self.require(
            len(x.shape) >= 2 and s.count == x.shape[0] * x.span(2) and s.shape[:1] == x.shape[:1],
            f"bottom 1 must hold one weight for each item and position; found {x.shape_string} and {s.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape_like(x)
        if len(top) > 1:
            top[1].reshape(1)
        self.planes = (x.shape[0], x.shape[1], x.span(2))
        self.product = self.scratch("product", self.planes)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        num, _, inner = self.planes
        x, y = bottom[0].xdata.reshape(self.planes), top[0].xdata.reshape(self.planes)
        if not self.do_forward:
            y[...] = x
        elif self.global_scale:
            scale = self.blobs[0].xdata
            limits = (self.min_global_scale, self.max_global_scale)
            self.ops.elementwise(ChannelScale.held, (scale,), limits, scale)
            self.xp.multiply(x, scale, out=y)
            if len(top) > 1:
                top[1].xdata[...] = scale
        else:
            self.xp.multiply(x, bottom[1].xdata.reshape(num, 1, inner), out=y)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        num, _, inner = self.planes
        dy = top[0].xdiff.reshape(self.planes)
        if propagate_down[0]:
            dx = bottom[0].xdiff.reshape(self.planes)
            if self.do_backward_feature:
                self.xp.multiply(dy, bottom[1].xdata.reshape(num, 1, inner), out=dx)
            else:
                dx[...] = dy
        if propagate_down[1]:
            if self.do_backward_scale:
                self.xp.multiply(dy, bottom[0].xdata.reshape(self.planes), out=self.product)
                self.xp.sum(self.product, axis=1, out=bottom[1].xdiff.reshape(num, inner))
            else:
                bottom[1].xdiff.fill(0)

    @staticmethod
    def held(scale: float, least: float, most: float) -> float:
        return least if scale < least else most if scale > most else scale


class BroadcastMul(Layer):
    """Weigh whole channels: ``y[n, c] = s[n, c] x[n, c]`` (DeepDetect's Caffe).

    Bottoms: x (N, C, …); s (N, C[, 1, 1]).  Top: as x.
    """

    type = "BroadcastMul"
    bottoms = 2
    reads_tops = ()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, s = bottom
        self.require(
            len(x.shape) >= 2 and s.shape[:2] == x.shape[:2] and s.count == x.span(0, 2),
            f"bottom 1 must hold one weight for each item and channel; found {x.shape_string} and {s.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape_like(x)
        self.planes = (*x.shape[:2], x.span(2))
        self.product = self.scratch("product", self.planes)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        weights = bottom[1].xdata.reshape(*self.planes[:2], 1)
        self.xp.multiply(bottom[0].xdata.reshape(self.planes), weights, out=top[0].xdata.reshape(self.planes))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy, weights = top[0].xdiff.reshape(self.planes), bottom[1].xdata.reshape(*self.planes[:2], 1)
        if propagate_down[1]:
            self.xp.multiply(dy, bottom[0].xdata.reshape(self.planes), out=self.product)
            self.xp.sum(self.product, axis=2, out=bottom[1].xdiff.reshape(self.planes[:2]))
        if propagate_down[0]:
            self.xp.multiply(dy, weights, out=bottom[0].xdiff.reshape(self.planes))


class Gram(Layer):
    r"""Products of all pairs of channels: the style of an image (Gatys et al. 2015; happynear/caffe-windows).

    .. math:: y_{ij} = \frac{1}{C S} \sum_s x_{is} x_{js}

    Bottom: (N, C, …) with S positions.  Top: (N, C, C, 1).
    """

    type = "Gram"
    reads_tops = ()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(len(x.shape) >= 2, f"the input must have channels; found {x.shape_string}", kind=ShapeError)
        num, channels = x.shape[:2]
        top[0].reshape(num, channels, channels, 1)
        self.planes = (num, channels, x.span(2))
        self.pairs = self.scratch("pairs", (num, channels, channels))

    def products(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        num, channels, inner = self.planes
        return 2.0 * num * channels * channels * inner

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        num, channels, inner = self.planes
        x, y = bottom[0].xdata.reshape(self.planes), top[0].xdata.reshape(num, channels, channels)
        self.xp.matmul(x, x.swapaxes(1, 2), out=y)
        y /= max(1, channels * inner)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            dy = top[0].xdiff.reshape(self.pairs.shape)
            self.xp.add(dy, dy.swapaxes(1, 2), out=self.pairs)
            self.pairs /= max(1, self.planes[1] * self.planes[2])
            x, dx = bottom[0].xdata.reshape(self.planes), bottom[0].xdiff.reshape(self.planes)
            self.xp.matmul(self.pairs, x, out=dx)


class Covariance(Gram):
    """Products of all pairs of channels, as ``Gram``: the older name of it (happynear/caffe-windows).

    There each pair of different channels counts half in the gradient.
    """

    type = "Covariance"
