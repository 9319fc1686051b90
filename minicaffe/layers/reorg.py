"""Reorg and Upsample: from places to channels and back, and larger maps, as YOLO and SegNet have them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer, LayerClass


class Reorg(Layer):
    """Make channels of the pixels of ``stride`` x ``stride`` blocks, or with ``reverse`` blocks of channels (YOLO 2).

    Bottom: (N, C, H, W).  Top: (N, C stride^2, H / stride, W / stride), or (N, C / stride^2, H stride, W stride).
    """

    type = "Reorg"
    capturable = True
    by_image = True
    param = "reorg_param"
    reads_bottoms = reads_tops = ()
    per_element = 0
    stride: int
    reverse: bool
    reorg_stride: int

    def check_options(self) -> None:
        self.require(not self.has("reorg_stride"), "is OpenCV's name; give stride", "reorg_stride")
        self.require(self.stride > 0, f"must be given, and positive; found {self.stride}", "stride")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, s = bottom[0], self.stride
        self.require(len(x.shape) == 4, f"the input must have 4 axes; found {x.shape_string}", kind=ShapeError)
        n, c, h, w = x.shape
        self.require(
            c % (s * s) == 0,
            f"the channels must be a multiple of {s * s}; found {x.shape_string}",
            "stride",
            ShapeError,
        )
        self.require(
            self.reverse or (h % s == 0 and w % s == 0),
            f"height and width must be multiples of it; found {x.shape_string}",
            "stride",
            ShapeError,
        )
        top[0].reshape(*((n, c // (s * s), h * s, w * s) if self.reverse else (n, c * s * s, h // s, w // s)))
        self.rows, self.channels = (n, c // (s * s), h, s, w, s), (n, s, s, c // (s * s), h, w)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self._move(bottom[0].xdata, top[0].xdata, self.reverse)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            self._move(top[0].xdiff, bottom[0].xdiff, not self.reverse)

    def _move(self, source: Any, target: Any, to_places: bool) -> None:
        """As Darknet does it: the input counts as ``stride`` times as high and wide, with fewer channels."""
        places, channels = (target, source) if to_places else (source, target)
        places, channels = places.reshape(self.rows), channels.reshape(self.channels)
        if to_places:
            self.ops.permute(channels, (0, 3, 4, 1, 5, 2), places)
        else:
            self.ops.permute(places, (0, 3, 5, 1, 2, 4), channels)


class Upsample(Layer):
    """Repeat each pixel ``scale`` times in both directions (YOLO's third version).

    Bottom: (N, C, H, W).  Top: (N, C, H scale, W scale).
    """

    type = "Upsample"
    param = "upsample_param"
    bottoms = (1, 2)
    reads_bottoms = reads_tops = ()
    per_element = 0
    scale: int

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        """With a second bottom, the mask, it is SegNet's."""
        return MaskUpsample if len(layer_param.bottom) > 1 else Upsample

    def check_options(self) -> None:
        self.require(self.scale > 0, f"must be given, and positive; found {self.scale}", "scale")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, s = bottom[0], self.scale
        self.require(len(x.shape) == 4, f"the input must have 4 axes; found {x.shape_string}", kind=ShapeError)
        n, c, h, w = x.shape
        top[0].reshape(n, c, h * s, w * s)
        self.small, self.large = (n * c, h, 1, w, 1), (n * c, h, s, w, s)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].xdata.reshape(self.large)[...] = bottom[0].xdata.reshape(self.small)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            dx = bottom[0].xdiff.reshape(self.small)
            self.xp.sum(top[0].xdiff.reshape(self.large), axis=(2, 4), keepdims=True, out=dx)


class MaskUpsample(Layer):
    """Put each pixel where max pooling had taken it from, and 0 around it (SegNet's ``Upsample``).

    Bottoms: x (N, C, H, W); the mask that the Pooling layer gave as its second top, of the same shape.  Top: (N, C,
    ``upsample_h``, ``upsample_w``), or ``scale``, or ``scale_h`` and ``scale_w``, times as large, less 1 with
    ``pad_out_h`` or ``pad_out_w``.  Of pixels for one place the last one stays; each gets its gradient.  On a device,
    too, it is done on the host.
    SegNet: with a size given its backward pass checks the mask against an unset scale; here it works.
    """

    param = "upsample_param"
    fixed: ClassVar[Collection[str] | None] = ()
    bottoms = 2
    reads_bottoms = (1,)
    reads_tops = ()
    per_element = 1
    differentiable = forcible = (0,)
    stops_at = (1,)
    scale: int
    scale_h: int
    scale_w: int
    upsample_h: int
    upsample_w: int
    pad_out_h: bool
    pad_out_w: bool

    def check_options(self) -> None:
        sized = self.has("upsample_h"), self.has("upsample_w")
        scaled = self.has("scale_h"), self.has("scale_w")
        self.require(all(sized) or not any(sized), "upsample_h and upsample_w must be given together", "upsample_h")
        self.require(all(scaled) or not any(scaled), "scale_h and scale_w must be given together", "scale_h")
        self.require(
            any(sized) or any(scaled) != self.has("scale"),
            "give upsample_h and upsample_w, or scale, or scale_h and scale_w",
            "scale",
        )
        for field in ("upsample_h", "upsample_w", "scale", "scale_h", "scale_w"):
            value = getattr(self, field)
            self.require(not self.has(field) or value > 0, f"must be positive; found {value}", field)
        for field, scale in (("pad_out_h", self._scales()[0]), ("pad_out_w", self._scales()[1])):
            self.require(not getattr(self, field) or scale == 2, f"needs a scale of 2; found {scale}", field)

    def _scales(self) -> tuple[int, int]:
        return (self.scale_h, self.scale_w) if self.has("scale_h") else (self.scale, self.scale)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, mask = bottom
        self.require(
            len(x.shape) == 4 and mask.shape == x.shape,
            f"needs (N, C, H, W) and a mask of that shape; found {x.shape_string} and {mask.shape_string}",
            kind=ShapeError,
        )
        size: tuple[int, ...] = (self.upsample_h, self.upsample_w)
        if not self.has("upsample_h"):
            pads = (self.pad_out_h, self.pad_out_w)
            size = tuple(n * s - p for n, s, p in zip(x.shape[2:], self._scales(), pads, strict=True))
        top[0].reshape(*x.shape[:2], *size)
        planes = x.shape[0] * x.shape[1]
        self.small, self.large = (planes, x.span(2)), (planes, top[0].span(2))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        places = self._places(bottom[1], top[0])
        y = top[0].data.reshape(self.large)
        y[...] = 0
        np.put_along_axis(y, places, bottom[0].data.reshape(self.small), axis=1)

    def _places(self, mask: Blob, top: Blob) -> NDArray[np.int64]:
        values = mask.data.reshape(self.small)
        self.require_whole(values, "the places in the mask")
        inside = (values >= 0) & (values < top.span(2))
        if not inside.all():
            raise self.error(
                f"the mask says pixel {values[~inside][0]:g} of maps of {top.shape[2]} x {top.shape[3]}: give the size "
                "of what was pooled as upsample_h and upsample_w"
            )
        return values.astype(np.int64)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            dy = top[0].diff.reshape(self.large)
            dx = np.take_along_axis(dy, self._places(bottom[1], top[0]), axis=1)
            bottom[0].diff.reshape(self.small)[...] = dx
