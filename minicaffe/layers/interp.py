"""Interp: maps of another size, between their pixels, as segmentation nets end."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minicaffe import limits
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer

_log = logging.getLogger(__name__)
_NAMES = {"bilinear": 0, "nearest_neighbor": 1}


class Interp(Layer):
    """Resize maps so that the centres of their corner pixels stay where they are (DeepLab, PSPNet).

    Bottom: (N, C, H, W).  Top: (N, C, height, width).  The size is ``(H - 1) / shrink_factor + 1``, or ``H + (H - 1)
    (zoom_factor - 1)``, if one of these is given; else ``height`` and ``width``; else first shrunk and then zoomed.
    Negative ``pad_beg`` and ``pad_end`` take pixels off before, on all sides.  ``mode: NEAREST`` (DeepDetect), or
    ``interp_type: "nearest_neighbor"``, takes the nearest pixel, the later one of two, in all channels; DeepDetect's,
    on a CPU, in the first one, and leaves 0 in the others: a warning says so.
    Both directions are products with a matrix for each axis: a NaN spreads over its row and column.
    """

    type = "Interp"
    param = "interp_param"
    fixed: ClassVar[Collection[str] | None] = ()
    reads_bottoms = reads_tops = ()
    height: int
    width: int
    zoom_factor: int
    shrink_factor: int
    pad_beg: int
    pad_end: int
    mode: int
    interp_type: str

    BILINEAR, NEAREST = range(2)

    def check_options(self) -> None:
        for field in ("pad_beg", "pad_end"):
            pad = getattr(self, field)
            self.require(pad <= 0, f"must not be positive: it takes pixels off; found {pad}", field)
        for field in ("zoom_factor", "shrink_factor", "height", "width"):
            value = getattr(self, field)
            self.require(not self.has(field) or value > 0, f"must be positive; found {value}", field)
        sized = self.has("height") and self.has("width")
        self.require(
            sized or self.has("zoom_factor") or self.has("shrink_factor"),
            "give height and width, or zoom_factor or shrink_factor",
            "height",
        )
        self.require(
            not self.has("interp_type") or self.interp_type in _NAMES,
            f"must be one of {', '.join(_NAMES)}; found '{self.interp_type}'",
            "interp_type",
        )

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.mode == self.NEAREST and bottom[0].count > bottom[0].span(2) * bottom[0].shape[0]:
            _log.warning(
                "layer '%s' (Interp): mode: NEAREST resizes all channels; DeepDetect's Caffe, on a CPU, resizes the "
                "first and leaves 0 in the others, so that what was trained there gives other results here",
                self.name,
            )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(len(x.shape) == 4, f"the input must have 4 axes; found {x.shape_string}", kind=ShapeError)
        sizes = [size + self.pad_beg + self.pad_end for size in x.shape[2:]]
        self.require(min(sizes) > 0, f"leave nothing of {x.shape_string}", "pad_beg", ShapeError)
        wanted = [self._resized(*both) for both in zip(sizes, (self.height, self.width), strict=True)]
        top[0].reshape(*x.shape[:2], *wanted)
        needed = top[0].count + sum(4 * out * (size + 4) for size, out in zip(x.shape[2:], wanted, strict=True))
        limits.require_memory(8 * needed, f"resizing {x.shape_string} to {wanted[0]} x {wanted[1]}", "check the size")
        self.planes = (x.shape[0] * x.shape[1], *x.shape[2:])
        self.rows_matrix, self.columns_matrix = (
            self._matrix(name, *sizes)
            for name, sizes in (("rows", (x.shape[2], wanted[0])), ("columns", (x.shape[3], wanted[1])))
        )
        self.half = self.scratch("half", (*self.planes[:2], wanted[1]))

    def _resized(self, size: int, wanted: int) -> int:
        shrinks, zooms = self.has("shrink_factor"), self.has("zoom_factor")
        if shrinks == zooms and self.has("height") and self.has("width"):
            return wanted
        if shrinks:
            size = (size - 1) // self.shrink_factor + 1
        if zooms:
            size += (size - 1) * (self.zoom_factor - 1)
        return size

    def _matrix(self, name: str, size: int, wanted: int) -> NDArray:
        """What multiplies an axis of ``size`` pixels to give one of ``wanted``."""
        last = size + self.pad_beg + self.pad_end - 1
        at = np.arange(wanted) * (last / (wanted - 1) if wanted > 1 else 0.0)
        nearest = _NAMES[self.interp_type] if self.has("interp_type") else self.mode
        low = np.minimum(np.floor(at + 0.5 if nearest else at).astype(int), last)
        share = np.zeros(wanted) if nearest else at - low
        values = np.zeros((wanted, size))
        rows = np.arange(wanted)
        values[rows, low - self.pad_beg] += 1 - share
        values[rows, np.minimum(low + 1, last) - self.pad_beg] += share
        matrix = self.scratch(f"{name}_matrix", values.shape)
        matrix[...] = self.xp.asarray(values, dtype=self.dtype)
        return matrix

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return 6.0 * top[0].count

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].xdata.reshape(self.planes)
        self.xp.matmul(x, self.columns_matrix.T, out=self.half)
        self.xp.matmul(self.rows_matrix, self.half, out=top[0].xdata.reshape(-1, *top[0].shape[2:]))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            dy = top[0].xdiff.reshape(-1, *top[0].shape[2:])
            self.xp.matmul(self.rows_matrix.T, dy, out=self.half)
            self.xp.matmul(self.half, self.columns_matrix, out=bottom[0].xdiff.reshape(self.planes))
