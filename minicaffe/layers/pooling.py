"""Layers that pool pixels under a window: Pooling, SPP."""

from __future__ import annotations

import math
from collections.abc import Sequence

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.kernels.reference import FLT_MAX
from minicaffe.kernels.window import MOST_PIXELS, Window
from minicaffe.layers.base import TRAIN, Layer, LayerClass


class Pooling(Layer):
    r"""Reduce each window of each channel to its maximum, its mean, or a pixel drawn from it.

    Bottom: (N, C, H, W).  Tops: (N, C, P, Q); for MAX a second may be named: the mask, each maximum's place ``h * W +
    w``. ``P = round((H + 2 pad - kernel) / stride) + 1``, rounded up (``round_mode: FLOOR``, or what forks write,
    ``ceil_mode: false`` or ``round_below: true``: down); with padding, a last window that would start beyond the image
    and its leading pad is dropped. STOCHASTIC (Zeiler and Fergus 2013)
    draws a pixel with probability proportional to its value in TRAIN phase, and weighs all of them in TEST phase.
    ``dilation`` (naibaf7/caffe; one number, or one an axis) is the step between the pixels of a window of MAX.

    A window that holds NaN gives NaN.  Caffe: MAX and STOCHASTIC do not choose it.

    Caffe: AVE divides by the window clipped to H + pad, so padding counts; MAX takes the first of equal pixels.  A
    window that holds no pixel (stride > kernel at the border) gives -FLT_MAX or NaN as in Caffe, which then corrupts
    memory going backward; here it gets no gradient.  Caffe has STOCHASTIC on the GPU only.
    """

    type = "Pooling"
    capturable = True
    capturable_on_device = True
    param = "pooling_param"
    fixed = ()
    reads_bottoms = reads_tops = ()
    tops = (1, 2)
    obeys = ("ceil_mode", "round_below", "dilation")
    pool: int
    global_pooling: bool
    round_mode: int
    ceil_mode: bool
    round_below: bool
    dilation: Sequence[int]

    MAX, AVE, STOCHASTIC = range(3)
    CEIL, FLOOR = range(2)

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        """``DilatedPooling`` where the pixels of a window are apart."""
        return DilatedPooling if any(step != 1 for step in layer_param.pooling_param.dilation) else Pooling

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self._declare(top)

    def _declare(self, top: Sequence[Blob]) -> None:
        """What may be captured follows from the way of pooling."""
        self.require(self.pool == self.MAX or len(top) == 1, "only MAX pooling makes a second top, the mask", "top")
        self.capturable = self.pool != self.STOCHASTIC and len(top) == 1

    def check_options(self) -> None:
        sized = any(self.has(field) for field in ("kernel_size", "kernel_h", "kernel_w"))
        if self.global_pooling:
            self.require(
                not sized, "with global_pooling the window is the whole image: give no kernel size", "kernel_size"
            )
        stride, pad, kernel = self._sizes()
        if self.global_pooling:
            self.require(
                stride == (1, 1) and pad == (0, 0),
                f"global_pooling needs stride 1 and pad 0; found stride {stride} and pad {pad}",
                "stride",
            )
        else:
            self.require(sized, "give kernel_size, or kernel_h and kernel_w", "kernel_size")
            self.require(min(kernel) > 0, f"must be positive; found {kernel}", "kernel_size")
            self.require(
                all(p < k for p, k in zip(pad, kernel, strict=True)),
                f"must be smaller than the kernel {kernel}; found {pad}",
                "pad",
            )
        self.require(min(stride) > 0, f"must be positive; found {stride}", "stride")
        steps = list(self.dilation)
        self.require(len(steps) <= 2, f"must be one number, or one an axis; found {steps}", "dilation")
        self.require(all(step > 0 for step in steps), f"must be positive; found {steps}", "dilation")
        self.require(
            all(step == 1 for step in steps) or self.pool == self.MAX and not self.global_pooling,
            f"only MAX pooling with a kernel takes steps other than 1; found {steps}",
            "dilation",
        )
        self.require(
            self.pool != self.STOCHASTIC or pad == (0, 0), f"STOCHASTIC pooling takes no pad; found {pad}", "pad"
        )
        down = self._rounds_down()
        self.require(
            down is None or not self.has("round_mode") or (self.round_mode == self.FLOOR) == down,
            "says the opposite of ceil_mode or round_below",
            "round_mode",
        )

    def _sizes(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Stride, pad, and what the kernel spans along each axis."""
        kernel = self._pair("kernel_size", "kernel", 0)
        spans = tuple(step * (size - 1) + 1 for step, size in zip(self._steps(), kernel, strict=True))
        rows, columns = spans if min(kernel) > 0 else kernel
        return self._pair("stride", "stride", 1), self._pair("pad", "pad", 0), (rows, columns)

    def _steps(self) -> tuple[int, int]:
        """How far the pixels of a window are apart along each axis."""
        given = list(self.dilation) or [1]
        return given[0], given[-1]

    def _rounds_down(self) -> bool | None:
        """What forks' options say of the size of the top; None if they say nothing."""
        if self.has("round_below"):
            return self.round_below
        return not self.ceil_mode if self.has("ceil_mode") else None

    def _pair(self, field: str, prefix: str, default: int) -> tuple[int, int]:
        h, w = f"{prefix}_h", f"{prefix}_w"
        if not (self.has(h) or self.has(w)):
            value = getattr(self, field) if self.has(field) else default
            return value, value
        self.require(self.has(h) and self.has(w), f"{h} and {w} must be given together", h)
        self.require(not self.has(field), f"give either {field} or {h} and {w}, not both", field)
        return getattr(self, h), getattr(self, w)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self._declare(top)
        self.require(
            len(x.shape) == 4, f"the input must have 4 axes (N, C, H, W); found {x.shape_string}", kind=ShapeError
        )
        spatial, (stride, pad, given) = x.shape[2:], self._sizes()
        kernel = spatial if self.global_pooling else given
        rows, cols = (self._pooled(*sizes, any(pad)) for sizes in zip(spatial, kernel, stride, pad, strict=True))
        # a second window beyond the image is as empty wherever it starts, and what sticks out of the image has no
        # pixels
        self.window = Window(
            tuple(min(k, max(size + 2 * p, 1)) for k, size, p in zip(kernel, spatial, pad, strict=True)),
            tuple(min(s, max(size + p, 1)) for s, size, p in zip(stride, spatial, pad, strict=True)),
            pad,
            (1, 1),
        )
        for blob in top:
            blob.reshape(x.num, x.channels, rows, cols)
        if self.pool != self.AVE:
            self.mask = self.scratch("mask", top[0].shape, "int32")
        if self.pool == self.STOCHASTIC:
            self.draws = self.scratch("draws", top[0].shape)

    def _pooled(self, size: int, kernel: int, stride: int, pad: int, padded: bool) -> int:
        self.require(
            size + 2 * pad <= MOST_PIXELS,
            f"{pad} makes an axis of {size + 2 * pad} pixels; it may have {MOST_PIXELS}",
            "pad",
            ShapeError,
        )
        down = self._rounds_down()
        rounded = math.floor if (self.round_mode == self.FLOOR if down is None else down) else math.ceil
        pooled = rounded((size + 2 * pad - kernel) / stride) + 1
        if padded and (pooled - 1) * stride >= size + pad:
            pooled -= 1
        self.require(
            pooled > 0,
            f"the kernel ({kernel}) is larger than the input ({size}) with pad {pad}",
            "kernel_size",
            ShapeError,
        )
        return pooled

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(top[0].count * self.window.taps)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata, top[0].xdata
        if not x.size:
            return
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

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy, dx = top[0].xdiff, bottom[0].xdiff
        if not propagate_down[0] or not dx.size:
            return
        if self.pool == self.AVE:
            self.ops.average_pool_grad(dy, dx, self.window)
        elif self.pool == self.STOCHASTIC and self.phase != TRAIN:
            raise self.error("STOCHASTIC pooling goes backward in TRAIN phase only", "pool")
        else:
            self.ops.max_pool_grad(dy, self.mask, dx, self.window)


class DilatedPooling(Pooling):
    """MAX pooling of windows whose pixels are ``dilation`` apart.  See Pooling."""

    capturable = False
    capturable_on_device = False

    def _declare(self, top: Sequence[Blob]) -> None:
        self.capturable = False

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        x, y = bottom[0], top[0]
        stride, pad, spans = self._sizes()
        self.taps = self._pair("kernel_size", "kernel", 0)
        wide = [(out - 1) * s + span for out, s, span in zip(y.shape[2:], stride, spans, strict=True)]
        reach = [max(size + p, w) for size, p, w in zip(x.shape[2:], pad, wide, strict=True)]
        self.padded = self.scratch("padded", (*x.shape[:2], *reach))
        self.padded[...] = -FLT_MAX
        self.inside = tuple(slice(p, p + size) for p, size in zip(pad, x.shape[2:], strict=True))
        self.ends = [(out - 1) * s + 1 for out, s in zip(y.shape[2:], stride, strict=True)]
        self.tap, self.which = self.scratch("tap", y.shape), self.scratch("which", y.shape)
        rows, columns = (
            self.xp.arange(out, dtype="int32") * s - p for out, s, p in zip(y.shape[2:], stride, pad, strict=True)
        )
        self.first = rows[:, None] * x.shape[3] + columns

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(2 * top[0].count * math.prod(self.taps))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata, top[0].xdata
        if not x.size:
            return
        self.padded[:, :, self.inside[0], self.inside[1]] = x
        y[...] = -FLT_MAX
        self.which[...] = -1
        (down, right), (stride_h, stride_w) = self._steps(), self._sizes()[0]
        for i in range(self.taps[0]):
            rows = slice(i * down, i * down + self.ends[0], stride_h)
            for j in range(self.taps[1]):
                self.tap[...] = self.padded[:, :, rows, slice(j * right, j * right + self.ends[1], stride_w)]
                place = float(i * self.taps[1] + j)
                self.ops.elementwise(DilatedPooling.winner, (self.tap, y, self.which), (place,), self.which)
                self.ops.elementwise(DilatedPooling.larger, (self.tap, y), (), y)
        which = self.which.astype("int32")
        row = which // self.taps[1]
        self.mask[...] = self.first + row * (down * x.shape[3]) + (which - row * self.taps[1]) * right
        self.mask[which < 0] = -1
        if len(top) > 1:
            top[1].xdata[...] = self.mask

    @staticmethod
    def winner(x: float, best: float, which: float, place: float) -> float:
        return place if x > best else which if x == x else place if best == best else which

    @staticmethod
    def larger(x: float, best: float) -> float:
        return x if x > best else best if x == x else x


class SPP(Layer):
    """Spatial pyramid pooling: pool the image into 1, then 2 x 2, then 4 x 4 … bins, and join them (He et al. 2014).

    Bottom: (N, C, H, W).  Top: (N, C (4^pyramid_height - 1) / 3), level after level, a level's values being those of
    (C, bins, bins). Level l is a Pooling layer of ``pool`` with kernel and stride ``ceil(size / 2^l)``, and the padding
    that makes this 2^l bins.
    Caffe: of one level the top is (N, C, 1, 1); sizes for which a level needs padding as wide as its kernel are an
    error.
    """

    type = "SPP"
    param = "spp_param"
    reads_bottoms = reads_tops = ()
    pyramid_height: int
    pool: int

    def check_options(self) -> None:
        self.require(self.pyramid_height > 0, f"must be positive; found {self.pyramid_height}", "pyramid_height")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(
            len(x.shape) == 4, f"the input must have 4 axes (N, C, H, W); found {x.shape_string}", kind=ShapeError
        )
        self.levels = [self._level(2**level, x) for level in range(self.pyramid_height)]
        if len(self.levels) == 1:
            top[0].reshape(x.num, x.channels, 1, 1)
        else:
            top[0].reshape(x.num, sum(pooled.span(1) for _, pooled in self.levels))
        self.partial = self.scratch("partial", x.shape)

    def _level(self, bins: int, x: Blob) -> tuple[Pooling, Blob]:
        """The Pooling layer that makes ``bins`` x ``bins`` bins, and its top."""
        (kernel_h, pad_h), (kernel_w, pad_w) = (self._kernel_and_pad(size, bins) for size in x.shape[2:])
        options = proto.PoolingParameter(
            pool=self.pool,
            kernel_h=kernel_h,
            kernel_w=kernel_w,
            stride_h=kernel_h,
            stride_w=kernel_w,
            pad_h=pad_h,
            pad_w=pad_w,
        )
        param = proto.LayerParameter(
            name=f"{self.name} ({bins} x {bins} bins)", type="Pooling", phase=self.phase, pooling_param=options
        )
        layer, pooled = Pooling(param, self.dtype), Blob((0,), self.dtype)
        layer.definition = self.definition
        layer.prepare([x], [pooled])
        return layer, pooled

    @staticmethod
    def _kernel_and_pad(size: int, bins: int) -> tuple[int, int]:
        kernel = -(-size // bins)
        return kernel, (kernel * bins - size + 1) // 2

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return sum(layer.operations(bottom, [pooled]) for layer, pooled in self.levels)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        y, start = top[0].xdata.reshape(top[0].shape[0], top[0].span(1)), 0
        for layer, pooled in self.levels:
            layer.forward(bottom, [pooled])
            stop = start + pooled.span(1)
            y[:, start:stop] = pooled.xdata.reshape(pooled.num, pooled.span(1))
            start = stop

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        dy, dx, start = top[0].xdiff.reshape(top[0].shape[0], top[0].span(1)), bottom[0].xdiff, 0
        for layer, pooled in self.levels:
            stop = start + pooled.span(1)
            pooled.xdiff[...] = dy[:, start:stop].reshape(pooled.shape)
            if start:
                self.partial[...] = dx
            layer.backward([pooled], propagate_down, bottom)
            if start:
                dx += self.partial
            start = stop
