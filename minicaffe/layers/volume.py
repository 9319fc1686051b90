"""Layers over time and space of C3D's Caffe (Tran et al. 2015): Convolution3D, Deconvolution3D, Pooling3D."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.kernels.window import Window
from minicaffe.layers.base import LayerClass
from minicaffe.layers.convolution import Convolution, Deconvolution, Windowed
from minicaffe.layers.pooling import Pooling

_TIME = ("kernel_depth", "temporal_stride", "temporal_pad")


class _OverTime(Windowed):
    """A window over time, then height and width: the first has options of its own."""

    kernel_depth: int
    temporal_stride: int
    temporal_pad: int

    def _read_window(self) -> None:
        found = self.axes - self.channel_axis - 1
        self.require(
            found == 3, f"needs 3 axes after the channels: time, height, width; found {found}", kind=ShapeError
        )
        self.window = Window(
            kernel=(self.kernel_depth, *self._sizes("kernel_size", "kernel", 2, None)),
            stride=(self.temporal_stride, *self._sizes("stride", "stride", 2, 1)),
            pad=(self.temporal_pad, *self._sizes("pad", "pad", 2, 0)),
            dilation=(1, *self._dilation(2)),
        )
        for field, value, others in (
            ("kernel_depth", self.kernel_depth, self.window.kernel),
            ("temporal_stride", self.temporal_stride, self.window.stride),
        ):
            self.require(min(value, *others) > 0, f"must be positive, as along other axes; found {list(others)}", field)


class Convolution3D(_OverTime, Convolution):
    """Convolution over time, height and width, under the name that C3D's Caffe has for it.

    Bottoms: (N, C, length, H, W).  Tops: (N, num_output, …).  Params: w (num_output, C / group, kernel_depth, kernel,
    kernel); b (num_output,) unless ``bias_term: false``.  ``kernel_depth``, ``temporal_stride`` (1) and
    ``temporal_pad`` (0) stand for the first axis, Convolution's ``kernel_size``, ``stride``, ``pad`` and ``dilation``
    for the others. ``filter_group``, which saves memory there, has no effect.  C3D 1.1 has the options in
    ``convolution3d_param``.
    """

    type = "Convolution3D"
    fixed = Convolution.fixed
    obeys = (*Windowed.obeys, *_TIME)
    capturable = True

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        return _NewConvolution3D if layer_param.HasField("convolution3d_param") else cls


class _NewConvolution3D(Convolution3D):
    """Convolution3D with the options of C3D 1.1."""

    param = "convolution3d_param"


class Deconvolution3D(_OverTime, Deconvolution):
    """The transpose of Convolution3D, whose options it has; params: w (C, num_output / group, kernel_depth, kernel,
    kernel); b (num_output,) unless ``bias_term: false``."""

    type = "Deconvolution3D"
    fixed = Deconvolution.fixed
    obeys = (*Windowed.obeys, *_TIME)
    capturable = True

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        return _NewDeconvolution3D if layer_param.HasField("convolution3d_param") else cls


class _NewDeconvolution3D(Deconvolution3D):
    """Deconvolution3D with the options of C3D 1.1."""

    param = "convolution3d_param"


class Pooling3D(Pooling):
    """Reduce each window over time and space of each channel to its maximum or its mean (C3D).

    Bottom: (N, C, length, H, W).  Top: (N, C, …), of sizes as Pooling has them, by ``kernel_depth``,
    ``temporal_stride`` (1) and ``temporal_pad`` (0) along the first axis.  Each image is pooled, then what comes of
    them over time: the maximum of maxima, the mean of means.  C3D 1.1 has the options in ``pooling3d_param``.
    C3D: of equal maxima each gets the whole gradient; here it is the first, as in Pooling.  C3D 1.0 pads for AVE only,
    and keeps a last window that starts in the padding.
    """

    type = "Pooling3D"
    tops = 1
    obeys = (*Pooling.obeys, *_TIME)
    kernel_depth: int
    temporal_stride: int
    temporal_pad: int

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        return _NewPooling3D if layer_param.HasField("pooling3d_param") else cls

    def check_options(self) -> None:
        super().check_options()
        self.require(self.pool != self.STOCHASTIC, "must be MAX or AVE", "pool")
        self.require(self.temporal_stride > 0, f"must be positive; found {self.temporal_stride}", "temporal_stride")
        if self.global_pooling:
            self.require(self.kernel_depth == 0, "give none with global_pooling: the window is all", "kernel_depth")
            return
        self.require(self.kernel_depth > 0, "must be given, and positive", "kernel_depth")
        self.require(
            self.temporal_pad < self.kernel_depth,
            f"must be smaller than kernel_depth, {self.kernel_depth}; found {self.temporal_pad}",
            "temporal_pad",
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(
            len(x.shape) == 5,
            f"the input must have 5 axes (N, C, length, H, W); found {x.shape_string}",
            kind=ShapeError,
        )
        num, channels, length, *image = x.shape
        stride, pad, kernel = self.sizes()
        depth = self.kernel_depth
        if self.global_pooling:
            kernel, depth = tuple(image), length
        self.window, pooled = self._fitted(tuple(image), kernel, stride, pad)
        time, (steps, _) = self._fitted((length, 1), (depth, 1), (self.temporal_stride, 1), (self.temporal_pad, 0))
        self.time = time
        top[0].reshape(num, channels, steps, *pooled)
        self.images = (num, channels * length, *image)
        self.pooled_images = (num, channels * length, *pooled)
        self.columns = (num, channels, length, pooled[0] * pooled[1])
        self.pooled_columns = (num, channels, steps, pooled[0] * pooled[1])
        self.middle = self.scratch("middle", self.pooled_images)
        self.middle_slope = self.scratch("middle_slope", self.pooled_images)
        if self.pool == self.MAX:
            masks, count = self.scratch_for_backward((self.middle.size + top[0].count,), "int32"), self.middle.size
            self.masks = (None, None)
            if masks is not None:
                self.masks = masks[:count].reshape(self.pooled_images), masks[count:].reshape(self.pooled_columns)

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(self.middle.size * self.window.taps + top[0].count * self.time.taps)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not bottom[0].count:
            return
        x, y = bottom[0].xdata.reshape(self.images), top[0].xdata.reshape(self.pooled_columns)
        columns = self.middle.reshape(self.columns)
        if self.pool == self.MAX:
            self.ops.max_pool(x, self.middle, self.masks[0], self.window)
            self.ops.max_pool(columns, y, self.masks[1], self.time)
        else:
            self.ops.average_pool(x, self.middle, self.window)
            self.ops.average_pool(columns, y, self.time)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0] or not bottom[0].count:
            return
        dx, dy = bottom[0].xdiff.reshape(self.images), top[0].xdiff.reshape(self.pooled_columns)
        columns: Any = self.middle_slope.reshape(self.columns)
        if self.pool == self.MAX:
            self.require_kept(self.masks[0])
            self.ops.max_pool_grad(dy, self.masks[1], columns, self.time)
            self.ops.max_pool_grad(self.middle_slope, self.masks[0], dx, self.window)
        else:
            self.ops.average_pool_grad(dy, columns, self.time)
            self.ops.average_pool_grad(self.middle_slope, dx, self.window)


class _NewPooling3D(Pooling3D):
    """Pooling3D with the options of C3D 1.1."""

    param = "pooling3d_param"
