"""Layers that slide a window over space: Convolution and Pooling."""

from __future__ import annotations

import math

from minicaffe.errors import ShapeError
from minicaffe.kernels.window import Window
from minicaffe.layers.base import TRAIN, Layer


class Windowed(Layer):
    """Base of layers with a kernel, stride, pad and dilation along each spatial axis, read once from ``convolution_param``.

    Each of the four is given once for all spatial axes or once for each; for two axes also as ``*_h`` and ``*_w``
    (dilation excepted).  Defaults: stride 1, pad 0, dilation 1.
    """

    param = "convolution_param"
    axis: int

    def setup(self, bottom, top):
        self.channel_axis = self.axis_of(bottom[0], self.axis)
        self.axes = len(bottom[0].shape)
        spatial = self.axes - self.channel_axis - 1
        self.window = Window(
            kernel=self._sizes("kernel_size", "kernel", spatial, None),
            stride=self._sizes("stride", "stride", spatial, 1),
            pad=self._sizes("pad", "pad", spatial, 0),
            dilation=self._sizes("dilation", None, spatial, 1),
        )
        for field, values, least in (("kernel_size", self.window.kernel, 1), ("stride", self.window.stride, 1),
                                     ("dilation", self.window.dilation, 1)):
            self.require(all(v >= least for v in values), f"must be positive; found {list(values)}", field)
        self.in_channels = bottom[0].shape[self.channel_axis]

    def _sizes(self, field: str, prefix: str | None, spatial: int, default: int | None) -> tuple[int, ...]:
        values = tuple(getattr(self, field))
        if prefix is not None and (self.has(f"{prefix}_h") or self.has(f"{prefix}_w")):
            self.require(spatial == 2, f"{prefix}_h and {prefix}_w need 2 spatial axes; found {spatial}", f"{prefix}_h")
            self.require(not values, f"give either {field} or {prefix}_h and {prefix}_w, not both", field)
            for part in ("h", "w"):
                if not self.has(f"{prefix}_{part}") and default != 0:
                    raise self.error(f"{prefix}_h and {prefix}_w must be given together", f"{prefix}_{part}")
            return getattr(self, f"{prefix}_h"), getattr(self, f"{prefix}_w")
        if not values and default is not None:
            return (default,) * spatial
        if len(values) not in (1, spatial) and spatial:
            raise self.error(
                f"must be given once, or once for each of the {spatial} spatial axes; found {len(values)} values", field
            )
        return values * spatial if len(values) == 1 else values

    def check_input(self, bottom):
        """Bottoms must agree in shape, and keep the number of axes and channels they had at set-up."""
        self.require_same_shape(*bottom)
        x = bottom[0]
        if len(x.shape) != self.axes or x.shape[self.channel_axis] != self.in_channels:
            raise self.error(
                f"the input must keep {self.axes} axes and {self.in_channels} channels; found {x.shape_string}",
                kind=ShapeError,
            )

    def convolved_size(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Output size of a convolution along each spatial axis: ``(in + 2 pad - extent) / stride + 1``, truncated to zero."""
        window = self.window
        sizes = tuple(
            int((size + 2 * p - e) / s) + 1
            for size, e, s, p in zip(spatial, window.extent, window.stride, window.pad, strict=True)
        )
        if any(size < 1 for size in sizes):
            raise self.error(
                f"the kernel (extent {list(window.extent)}) is larger than the input {list(spatial)} with pad "
                f"{list(window.pad)}", "kernel_size", ShapeError,
            )
        return sizes


class Convolution(Windowed):
    r"""Cross-correlation with learned filters.

    .. math:: y_{n,o,p} = b_o + \sum_{c,q} w_{o,c,q} \, x_{n,\,c,\,p \cdot stride - pad + q \cdot dilation}

    Bottoms (any number, one shape, sharing the filters): (…, C, *in), C at ``axis`` (1), any number of spatial axes after it.
    Tops: (…, num_output, *out).  Params: w (num_output, C / group, *kernel); b (num_output,) unless ``bias_term: false``.
    ``group`` splits input and output channels into as many independent convolutions.  Outside the input, x is 0.
    Caffe: output sizes truncate toward zero; without a filler the filters are 0.  ``engine`` is accepted and ignored.
    """

    type = "Convolution"
    bottoms = tops = (1, None)
    equal_counts = True
    num_output: int
    group: int
    bias_term: bool

    def setup(self, bottom, top):
        super().setup(bottom, top)
        self.require(self.num_output > 0, f"must be positive; found {self.num_output}", "num_output")
        self.require(self.group > 0, f"must be positive; found {self.group}", "group")
        for what, count in (("input channels", self.in_channels), ("num_output", self.num_output)):
            self.require(count % self.group == 0, f"must divide the {what} ({count}); found {self.group}", "group")
        options = self.layer_param.convolution_param
        weight_shape = (*self.filter_channels(), *self.window.kernel)
        self.add_param(weight_shape, options.weight_filler)
        if self.bias_term:
            self.add_param((self.num_output,), options.bias_filler)
        self.check_given_blobs(weight_shape, *([(self.num_output,)] if self.bias_term else []))

    def filter_channels(self) -> tuple[int, int]:
        """The first two axes of the filters."""
        return self.num_output, self.in_channels // self.group

    def check_given_blobs(self, *shapes: tuple[int, ...]) -> None:
        """Weights that came with the definition must have the shapes the layer would have made."""
        found = [blob.shape for blob in self.blobs]
        self.require(found == list(shapes), f"the given blobs must have shapes {list(shapes)}; found {found}", "blobs", ShapeError)

    def output_size(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Size of the top along each spatial axis."""
        return self.convolved_size(spatial)

    def reshape(self, bottom, top):
        self.check_input(bottom)
        shape, axis = bottom[0].shape, self.channel_axis
        lead, spatial = shape[:axis], shape[axis + 1 :]
        out = self.output_size(spatial)
        for blob in top:
            blob.reshape(*lead, self.num_output, *out)
        num = math.prod(lead)
        self.x_shape, self.y_shape = (num, self.in_channels, *spatial), (num, self.num_output, *out)
        self.y_rows = (num, self.num_output, math.prod(out))
        self.reserve_columns(self.x_shape, self.y_shape)

    def reserve_columns(self, x_shape, y_shape):
        """Make the shared workspace hold the columns of a convolution from x to y."""
        self.reserve(self.ops.convolution_workspace(x_shape, y_shape, self.window, self.group))

    def forward(self, bottom, top):
        w = self.blobs[0].xdata
        bias = self.blobs[1].xdata if self.bias_term else None
        for x, y in zip(bottom, top, strict=True):
            self.ops.convolve(
                x.xdata.reshape(self.x_shape), w, bias, y.xdata.reshape(self.y_shape), self.window, self.group, self.workspace
            )

    def backward(self, top, propagate_down, bottom):
        w = self.blobs[0]
        for i, (y, x) in enumerate(zip(top, bottom, strict=True)):
            dy = y.xdiff.reshape(self.y_shape)
            if self.bias_term and self.param_propagate_down[1]:
                self.ops.bias_grad(dy.reshape(self.y_rows), self.blobs[1].xdiff)
            if self.param_propagate_down[0]:
                self.ops.convolve_weight_grad(
                    x.xdata.reshape(self.x_shape), dy, w.xdiff, self.window, self.group, self.workspace
                )
            if propagate_down[i]:
                self.ops.convolve_data_grad(
                    dy, w.xdata, x.xdiff.reshape(self.x_shape), self.window, self.group, self.workspace
                )


class Pooling(Layer):
    r"""Reduce each window of each channel to its maximum, its mean, or a pixel drawn from it.

    Bottom: (N, C, H, W).  Tops: (N, C, P, Q); for MAX a second may be named: the mask, each maximum's place ``h * W + w``.
    ``P = round((H + 2 pad - kernel) / stride) + 1``, rounded up (``round_mode: FLOOR``: down); with padding, a last window that
    would start beyond the image and its leading pad is dropped.
    STOCHASTIC (Zeiler and Fergus 2013) draws a pixel with probability proportional to its value in TRAIN phase, and weighs
    all of them in TEST phase.

    Caffe: AVE divides by the window clipped to H + pad, so padding counts; MAX takes the first of equal pixels.  A window that
    holds no pixel (stride > kernel at the border) gives -FLT_MAX or NaN as in Caffe, which then corrupts memory going
    backward; here it gets no gradient.  Caffe has STOCHASTIC on the GPU only.
    """

    type = "Pooling"
    param = "pooling_param"
    tops = (1, 2)
    pool: int
    global_pooling: bool
    round_mode: int

    MAX, AVE, STOCHASTIC = range(3)
    CEIL, FLOOR = range(2)

    def setup(self, bottom, top):
        self.require(self.pool == self.MAX or len(top) == 1, "only MAX pooling makes a second top, the mask", "top")
        sized = any(self.has(field) for field in ("kernel_size", "kernel_h", "kernel_w"))
        if self.global_pooling:
            self.require(not sized, "with global_pooling the window is the whole image: give no kernel size", "kernel_size")
        self.stride = self._pair("stride", "stride", 1)
        self.pad = self._pair("pad", "pad", 0)
        self.kernel = None if self.global_pooling else self._pair("kernel_size", "kernel", 0)
        if self.global_pooling:
            self.require(self.stride == (1, 1) and self.pad == (0, 0),
                         f"global_pooling needs stride 1 and pad 0; found stride {self.stride} and pad {self.pad}", "stride")
        else:
            self.require(sized, "give kernel_size, or kernel_h and kernel_w", "kernel_size")
            self.require(min(self.kernel) > 0, f"must be positive; found {self.kernel}", "kernel_size")
            self.require(all(p < k for p, k in zip(self.pad, self.kernel, strict=True)),
                         f"must be smaller than the kernel {self.kernel}; found {self.pad}", "pad")
        self.require(min(self.stride) > 0, f"must be positive; found {self.stride}", "stride")
        self.require(self.pool != self.STOCHASTIC or self.pad == (0, 0), f"STOCHASTIC pooling takes no pad; found {self.pad}", "pad")

    def _pair(self, field: str, prefix: str, default: int) -> tuple[int, int]:
        h, w = f"{prefix}_h", f"{prefix}_w"
        if not (self.has(h) or self.has(w)):
            value = getattr(self, field) if self.has(field) else default
            return value, value
        self.require(self.has(h) and self.has(w), f"{h} and {w} must be given together", h)
        self.require(not self.has(field), f"give either {field} or {h} and {w}, not both", field)
        return getattr(self, h), getattr(self, w)

    def reshape(self, bottom, top):
        x = bottom[0]
        self.require(len(x.shape) == 4, f"the input must have 4 axes (N, C, H, W); found {x.shape_string}", kind=ShapeError)
        self.window = Window(self.kernel or x.shape[2:], self.stride, self.pad, (1, 1))
        rows, cols = (self._pooled(*sizes) for sizes in zip(x.shape[2:], *self.window[:3], strict=True))
        for blob in top:
            blob.reshape(x.num, x.channels, rows, cols)
        if self.pool != self.AVE:
            self.mask = self.scratch("mask", top[0].shape, "int32")
        if self.pool == self.STOCHASTIC:
            self.draws = self.scratch("draws", top[0].shape)

    def _pooled(self, size: int, kernel: int, stride: int, pad: int) -> int:
        rounded = math.ceil if self.round_mode == self.CEIL else math.floor
        pooled = rounded((size + 2 * pad - kernel) / stride) + 1
        if any(self.pad) and (pooled - 1) * stride >= size + pad:
            pooled -= 1
        self.require(pooled > 0, f"the kernel ({kernel}) is larger than the input ({size}) with pad {pad}", "kernel_size", ShapeError)
        return pooled

    def forward(self, bottom, top):
        x, y = bottom[0].xdata, top[0].xdata
        if self.pool == self.MAX:
            self.ops.max_pool(x, y, self.mask, self.window)
        elif self.pool == self.AVE:
            self.ops.average_pool(x, y, self.window)
        elif self.phase == TRAIN:
            self.random.uniform(self.draws)
            self.ops.stochastic_pool(x, self.draws, y, self.mask, self.window)
        else:
            self.ops.stochastic_pool_mean(x, y, self.window)
        if len(top) > 1:
            top[1].xdata[...] = self.mask

    def backward(self, top, propagate_down, bottom):
        if not propagate_down[0]:
            return
        dy, dx = top[0].xdiff, bottom[0].xdiff
        if self.pool == self.AVE:
            self.ops.average_pool_grad(dy, dx, self.window)
        elif self.pool == self.STOCHASTIC and self.phase != TRAIN:
            raise self.error("STOCHASTIC pooling goes backward in TRAIN phase only", "pool")
        else:
            self.ops.max_pool_grad(dy, self.mask, dx, self.window)
