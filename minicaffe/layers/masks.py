"""Layers that carry a feature map through masks, of multi-task network cascades and SSTD."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.sampling import Resize
from minicaffe.layers.segmentation import SpatialProduct


class MaskPooling(SpatialProduct):
    """Weigh each pixel of a map, the same for all channels (MNC, Dai et al. 2016; SSTD); as SpatialProduct.

    Bottoms: x (N, C, H, W); the mask m (N, 1, H, W).  Top: ``y[n, c, h, w] = m[n, 0, h, w] x[n, c, h, w]``.
    """

    type = "MaskPooling"


class MaskResize(Resize):
    """Maps of another size, between the four nearest pixels (MNC, SSTD).

    Bottom: (N, C, H, W).  Top: (N, C, ``output_height``, ``output_width``), where ``factor_height`` or ``factor_width``
    above 0 makes it that much of the bottom's instead, cut to an integer; the sizes must be given all the same.  Row i
    of the top is row i H / height of the bottom, or the last one up to half a row further; beyond that it is 0.
    SSTD: the gradient is that of two rows and columns of the top for a pixel, which is all of it only where the map
    grows at most twofold; here it is all of it.
    """

    type = "MaskResize"
    param = "mask_resize_param"
    output_height: int
    output_width: int
    factor_height: float
    factor_width: float

    def check_options(self) -> None:
        for field in ("output_height", "output_width"):
            value = getattr(self, field)
            self.require(value > 0, f"must be positive; found {value}", field)
        for field in ("factor_height", "factor_width"):
            self.require(isfinite(getattr(self, field)), "must be a finite number", field)

    def new_size(self, bottom: Sequence[Blob]) -> tuple[int, int]:
        height, width = bottom[0].shape[2:]
        tall = int(height * self.factor_height) if self.factor_height > 0 else self.output_height
        wide = int(width * self.factor_width) if self.factor_width > 0 else self.output_width
        self.require(tall > 0, f"leaves nothing of {height} pixels", "factor_height", ShapeError)
        self.require(wide > 0, f"leaves nothing of {width} pixels", "factor_width", ShapeError)
        return tall, wide

    def fill(self) -> None:
        for matrix in (self.down, self.right):
            self._held(matrix)

    def _held(self, matrix: Any) -> None:
        """What is left of 1 at the distance of an old row from a new one, which is at most the last."""
        xp, (new, old) = self.xp, matrix.shape
        at = xp.arange(new, dtype=self.dtype)[:, None] * (old / new)
        held = xp.minimum(at, old - 1)
        matrix[...] = xp.maximum(1 - xp.abs(held - xp.arange(old, dtype=self.dtype)), 0) * (at <= old - 0.5)
