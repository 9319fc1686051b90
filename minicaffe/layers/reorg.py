"""Reorg and Upsample: from places to channels and back, and larger maps, as YOLO has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer


class Reorg(Layer):
    """Make channels of the pixels of ``stride`` x ``stride`` blocks, or with ``reverse`` blocks of channels (YOLO 2).

    Bottom: (N, C, H, W).  Top: (N, C stride^2, H / stride, W / stride), or (N, C / stride^2, H stride, W stride).
    """

    type = "Reorg"
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
            places[...] = self.xp.transpose(channels, (0, 3, 4, 1, 5, 2))
        else:
            channels[...] = self.xp.transpose(places, (0, 3, 5, 1, 2, 4))


class Upsample(Layer):
    """Repeat each pixel ``scale`` times in both directions (YOLO's third version).

    Bottom: (N, C, H, W).  Top: (N, C, H scale, W scale).
    """

    type = "Upsample"
    param = "upsample_param"
    reads_bottoms = reads_tops = ()
    per_element = 0
    scale: int

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
