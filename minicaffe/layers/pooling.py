"""Pooling, of the pixels under a window; over two axes or, as naibaf7's Caffe has it, over any number."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.kernels.reference import FLT_MAX
from minicaffe.kernels.window import MOST_PIXELS, Window
from minicaffe.layers.base import TRAIN, Count, Layer, LayerClass

_OF_AXES = ("kernel_sizes", "strides", "pads")

Sizes = tuple[int, ...]
"""A number for each axis of an image."""


class Pooling(Layer):
    r"""Reduce each window of each channel to its maximum, its mean, or a pixel drawn from it.

    Bottom: (N, C, H, W).  Tops: (N, C, P, Q); for MAX a second may be named: the mask, each maximum's place ``h * W +
    w``. ``P = round((H + 2 pad - kernel) / stride) + 1``, rounded up (``round_mode: FLOOR``, or what forks write,
    ``ceil_mode: false`` or ``round_below: true``: down); with padding, a last window that would start beyond the image
    and its leading pad is dropped. STOCHASTIC (Zeiler and Fergus 2013)
    draws a pixel with probability proportional to its value in TRAIN phase, and weighs all of them in TEST phase.

    A window that holds NaN gives NaN.  Caffe: MAX and STOCHASTIC do not choose it.

    Caffe: AVE divides by the window clipped to H + pad, so padding counts; MAX takes the first of equal pixels.  A
    window that holds no pixel (stride > kernel at the border) gives -FLT_MAX or NaN as in Caffe, which then corrupts
    memory going backward; here it gets no gradient.  Caffe has STOCHASTIC on the GPU only.
    """

    type = "Pooling"
    capturable = True
    by_image = True
    takes_halves = True
    capturable_on_device = True
    param = "pooling_param"
    fixed = ()
    reads_bottoms = reads_tops = ()
    tops: Count = (1, 2)
    obeys: ClassVar[Collection[str]] = ("ceil_mode", "round_below")
    pool: int
    global_pooling: bool
    round_mode: int
    ceil_mode: bool
    round_below: bool
    _masks = False
    """Whether there is a second top."""

    MAX, AVE, STOCHASTIC = range(3)
    CEIL, FLOOR = range(2)

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        """naibaf7's, if a size is given for each axis, or how far the taps of a window are apart."""
        given = {field.name for field, _ in layer_param.pooling_param.ListFields()}
        return cls if given.isdisjoint((*_OF_AXES, "dilation", "kstride")) else AxesPooling

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self._masks = len(top) == 2
        self.takes_halves = self.takes_halves and not self._masks  # which holds larger numbers
        self._check_mask()
        self._declare(top)

    def _check_mask(self) -> None:
        """LayerError if a mask is wanted of what has none."""
        self.require(self.pool == self.MAX or not self._masks, "only MAX pooling makes a second top, the mask", "top")

    def _declare(self, top: Sequence[Blob]) -> None:
        """What may be captured follows from the way of pooling."""
        self.capturable = self.pool != self.STOCHASTIC and len(top) == 1

    def check_options(self) -> None:
        sized = any(self.has(field) for field in ("kernel_size", "kernel_h", "kernel_w"))
        if self.global_pooling:
            self.require(
                not sized, "with global_pooling the window is the whole image: give no kernel size", "kernel_size"
            )
        stride, pad, kernel = self.sizes()
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
        self.require(
            self.pool != self.STOCHASTIC or pad == (0, 0), f"STOCHASTIC pooling takes no pad; found {pad}", "pad"
        )
        self._check_mask()
        down = self._rounds_down()
        self.require(
            down is None or not self.has("round_mode") or (self.round_mode == self.FLOOR) == down,
            "says the opposite of ceil_mode or round_below",
            "round_mode",
        )

    def sizes(self) -> tuple[Sizes, Sizes, Sizes]:
        """Stride, pad and kernel along each axis."""
        return self._pair("stride", "stride", 1), self._pair("pad", "pad", 0), self._pair("kernel_size", "kernel", 0)

    def _rounds_down(self) -> bool | None:
        """What forks' options say of the size of the top; None if they say nothing."""
        if self.has("round_below"):
            return self.round_below
        return not self.ceil_mode if self.has("ceil_mode") else None

    @property
    def rounds_up(self) -> bool:
        """Whether a last window may begin where it does not fit into the image."""
        down = self._rounds_down()
        return self.round_mode == self.CEIL if down is None else not down

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
        stride, pad, kernel = self.sizes()
        self.window, pooled = self._fitted(x.shape[2:], x.shape[2:] if self.global_pooling else kernel, stride, pad)
        for blob in top:
            blob.reshape(x.num, x.channels, *pooled)
        if self._masks or self.pool == self.STOCHASTIC:
            self.mask = self.scratch("mask", top[0].shape, "int32")
        elif self.pool == self.MAX:
            self.mask = self.scratch_for_backward(top[0].shape, "int32")
        if self.pool == self.STOCHASTIC:
            self.draws = self.scratch("draws", top[0].shape)

    def _fitted(self, sizes: Sizes, kernel: Sizes, stride: Sizes, pad: Sizes) -> tuple[Window, Sizes]:
        """The window over an image of these sizes, as kernels need it, and the sizes of the top."""
        pooled = tuple(self._pooled(*axis, any(pad)) for axis in zip(sizes, kernel, stride, pad, strict=True))
        # a second window beyond the image is as empty wherever it starts, and what sticks out of the image has no
        # pixels
        window = Window(
            tuple(min(k, max(size + 2 * p, 1)) for k, size, p in zip(kernel, sizes, pad, strict=True)),
            tuple(min(s, max(size + p, 1)) for s, size, p in zip(stride, sizes, pad, strict=True)),
            pad,
            (1,) * len(sizes),
        )
        return window, pooled

    def _pooled(self, size: int, kernel: int, stride: int, pad: int, padded: bool) -> int:
        self.require(
            size + 2 * pad <= MOST_PIXELS,
            f"{pad} makes an axis of {size + 2 * pad} pixels; it may have {MOST_PIXELS}",
            "pad",
            ShapeError,
        )
        rounded = math.ceil if self.rounds_up else math.floor
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
            self.require_kept(self.mask)
            self.ops.max_pool_grad(dy, self.mask, dx, self.window)


class AxesPooling(Pooling):
    """Pooling of naibaf7's Caffe: ``kernel_size``, ``stride`` and ``pad`` once for each axis after the channels, or
    once for all; ``dilation``, the distance of a window's taps, likewise (``kstride`` is its older name).

    Bottom: (N, C, *in).  Tops: (N, C, *out), of sizes as Pooling has them, by the extent of a window, ``dilation
    (kernel - 1) + 1``; for MAX a second may be named, the mask: each maximum's place among the channel's values.  MAX
    gives the first of equal values, AVE divides by the taps up to in + pad.  Over two axes and without gaps it is
    Pooling, and may be STOCHASTIC.
    """

    obeys = (*Pooling.obeys, *_OF_AXES, "dilation", "kstride")
    capturable_on_device = False
    kernel_sizes: Sequence[int]
    strides: Sequence[int]
    pads: Sequence[int]
    dilation: Sequence[int]
    kstride: Sequence[int]
    plain = False

    def check_options(self) -> None:
        self.require(not (self.dilation and self.kstride), "is another name of dilation; give one", "kstride")
        gaps = self.dilation or self.kstride
        self.require(min(gaps, default=1) > 0, f"must be positive; found {list(gaps)}", "dilation")
        if self._has_no_gaps():
            super().check_options()
        else:
            self._check_mask()

    def _has_no_gaps(self) -> bool:
        """Whether the options are those of Pooling."""
        axes = any(getattr(self, field) for field in _OF_AXES)
        return not axes and max(self.dilation or self.kstride, default=1) == 1

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self._choose(bottom)
        super().setup(bottom, top)

    def _choose(self, bottom: Sequence[Blob]) -> None:
        """Find out whether this is Pooling."""
        self.plain = len(bottom[0].shape) == 4 and self._has_no_gaps()

    def _declare(self, top: Sequence[Blob]) -> None:
        super()._declare(top)
        self.capturable = self.capturable and self.plain

    def _each(self, field: str, prefix: str, many: str, axes: int, default: int) -> Sizes:
        """A number for each axis; fields with ``_h`` and ``_w`` are those of two axes."""
        values = tuple(getattr(self, many))
        if not values:
            pair = self._pair(field, prefix, default)
            values = pair if pair[0] != pair[1] else pair[:1]
        return self._spread(field, values, axes)

    def _spread(self, field: str, values: Sizes, axes: int) -> Sizes:
        self.require(
            len(values) in (1, axes),
            f"must be given once, or once for each of the {axes} axes; found {len(values)} values",
            field,
        )
        return values * axes if len(values) == 1 else values

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self._choose(bottom)
        if self.plain:
            super().reshape(bottom, top)
            return
        x = bottom[0]
        self._declare(top)
        self.require(
            len(x.shape) > 2, f"the input needs axes after its channels; found {x.shape_string}", kind=ShapeError
        )
        self.require(self.pool != self.STOCHASTIC, "over axes or with dilation it must be MAX or AVE", "pool")
        sizes, axes = x.shape[2:], len(x.shape) - 2
        kernel = sizes if self.global_pooling else self._each("kernel_size", "kernel", "kernel_sizes", axes, 0)
        stride = self._each("stride", "stride", "strides", axes, 1)
        pad = self._each("pad", "pad", "pads", axes, 0)
        dilation = self._spread("dilation", tuple(self.dilation or self.kstride) or (1,), axes)
        for field, values in (("kernel_size", kernel), ("stride", stride)):
            self.require(min(values) > 0, f"must be positive; found {list(values)}", field)
        self.window = Window(tuple(kernel), stride, pad, dilation)
        extent = self.window.extent
        self.require(
            all(p < k for p, k in zip(pad, extent, strict=True)),
            f"must be smaller than a window, {list(extent)}; found {list(pad)}",
            "pad",
        )
        pooled = tuple(self._pooled(*axis, any(pad)) for axis in zip(sizes, extent, stride, pad, strict=True))
        for blob in top:
            blob.reshape(*x.shape[:2], *pooled)
        reach = [(count - 1) * s + 1 for count, s in zip(pooled, stride, strict=True)]
        steps = [[n * d for n in range(k)] for k, d in zip(kernel, dilation, strict=True)]
        self.taps = [
            (..., *(slice(t, t + r, s) for t, r, s in zip(tap, reach, stride, strict=True)))
            for tap in itertools.product(*steps)
        ]
        self.inside = (..., *(slice(p, p + size) for p, size in zip(pad, sizes, strict=True)))
        room = [max(size + 2 * p, r + e - 1) for size, p, r, e in zip(sizes, pad, reach, extent, strict=True)]
        self.padded, self.padded_slope = (self.scratch(name, (*x.shape[:2], *room)) for name in ("padded", "slope"))
        self.padded[...] = -FLT_MAX if self.pool == self.MAX else 0
        self.part = self.scratch("part", top[0].shape)
        if self.pool == self.MAX:
            self.winner = self.scratch("winner", top[0].shape)
            self._find_places(
                sizes,
                [[n * s - p for n in range(count)] for count, s, p in zip(pooled, stride, pad, strict=True)],
                steps,
            )
            self.better, self.unknown = (self.scratch(name, top[0].shape, "bool") for name in ("better", "unknown"))
        else:
            self.areas = self.scratch("areas", (1, 1, *pooled))
            counts = (
                [sum(n * s - p + t < size + p for t in tap) for n in range(count)]
                for count, s, p, size, tap in zip(pooled, stride, pad, sizes, steps, strict=True)
            )
            self.areas[0, 0] = self.xp.asarray(functools.reduce(np.multiply.outer, map(np.asarray, counts)), self.dtype)

    def _find_places(self, sizes: Sizes, starts: list[list[int]], steps: list[list[int]]) -> None:
        """Where each window begins among a channel's values, and how far from there each tap is."""
        far = [math.prod(sizes[n + 1 :]) for n in range(len(sizes))]
        self.first = self.scratch("first", (1, 1, *map(len, starts)))
        places = (np.asarray(axis) * by for axis, by in zip(starts, far, strict=True))
        self.first[0, 0] = self.xp.asarray(functools.reduce(np.add.outer, places), self.dtype)
        self.offsets = [sum(t * by for t, by in zip(tap, far, strict=True)) for tap in itertools.product(*steps)]

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return super().operations(bottom, top) if self.plain else float(top[0].count * len(self.taps))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.plain:
            super().forward(bottom, top)
            return
        y = top[0].xdata
        self.padded[self.inside] = bottom[0].xdata
        if self.pool == self.AVE:
            y[...] = 0
            for tap in self.taps:
                y += self.padded[tap]
            y /= self.areas
            return
        y[...] = -FLT_MAX
        self.winner[...] = -1
        for n, tap in enumerate(self.taps):
            self._take_larger(n, self.padded[tap], y)
        if len(top) > 1:
            self._mark(top[1].xdata)

    def _mark(self, mask: Any) -> None:
        """Put the places of the winners into the mask."""
        mask[...] = -1
        for n, offset in enumerate(self.offsets):
            self.xp.equal(self.winner, n, out=self.better)
            self.xp.add(self.first, offset + 1, out=self.part)
            self.part *= self.better
            mask += self.part

    def _take_larger(self, n: int, values: Any, y: Any) -> None:
        """Put the values of tap ``n`` into y where they are larger, or the first NaN."""
        xp = self.xp
        xp.not_equal(values, values, out=self.unknown)
        xp.equal(y, y, out=self.better)
        self.unknown &= self.better
        xp.greater(values, y, out=self.better)
        self.better |= self.unknown
        xp.maximum(y, values, out=y)
        xp.subtract(n, self.winner, out=self.part)
        self.part *= self.better
        self.winner += self.part

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if self.plain:
            super().backward(top, propagate_down, bottom)
            return
        if not propagate_down[0]:
            return
        dy = top[0].xdiff
        self.padded_slope[...] = 0
        if self.pool == self.AVE:
            self.xp.divide(dy, self.areas, out=self.part)
        for n, tap in enumerate(self.taps):
            if self.pool == self.MAX:
                self.ops.elementwise(AxesPooling.if_chosen, (self.winner, dy), (n,), self.part)
            self.padded_slope[tap] += self.part
        bottom[0].xdiff[...] = self.padded_slope[self.inside]

    @staticmethod
    def if_chosen(winner: float, slope: float, tap: float) -> float:
        return slope if winner == tap else 0.0
