"""PriorBox: the boxes that an SSD starts from, at every place of a feature map."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

from minicaffe import backend
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer, same


class PriorBox(Layer):
    """Boxes of several sizes and shapes around the centre of every cell of a feature map (SSD, Liu et al. 2016).

    Bottoms: the feature map (N, C, h, w) and the image (N, C, H, W), of which only the sizes count.  Top (1, 2, 4P):
    the corners of the P boxes relative to the image, then the variances of their codes.

    For each cell, row by row, and each ``min_size`` (pixels): a square of that side; one of the geometric mean of it
    and its ``max_size``, if given; then boxes of its area for each ``aspect_ratio``, each followed by its inverse if
    ``flip``.  Ratios of 1 and ratios seen before are left out, each together with its inverse.  The centre of a cell
    lies ``offset`` of a ``step`` (``step_h``, ``step_w``; else image over feature map) from its corner.  ``img_size``
    (``img_h``, ``img_w``) counts in the place of the image's size.  ``clip`` cuts boxes off at the borders.
    ``variance``: one (default 0.1) or four.  ``denser_prior_boxes`` (TextBoxes++): each box is followed by one whose
    centre is on the lower border of the cell.
    Caffe: sizes are cut to whole pixels.
    """

    type = "PriorBox"
    param = "prior_box_param"
    capturable = True
    bottoms = 2
    stops_gradients = True
    differentiable = forcible = ()
    reads_bottoms = reads_tops = ()
    per_element = 0
    min_size: Sequence[float]
    max_size: Sequence[float]
    aspect_ratio: Sequence[float]
    flip: bool
    clip: bool
    variance: Sequence[float]
    img_size: int
    img_h: int
    img_w: int
    step: float
    step_h: float
    step_w: float
    offset: float
    denser_prior_boxes: bool
    OTHER = ("offset_h", "offset_w", "width", "height", "fixed_size", "fixed_ratio", "density")

    def check_options(self) -> None:
        for field in self.OTHER:
            self.require(not getattr(self, field), "is of another fork than SSD's, and not in minicaffe", field)
        smallest, largest = list(self.min_size), list(self.max_size)
        self.require(len(smallest) > 0, "must be given, in pixels", "min_size")
        for field in ("min_size", "max_size", "aspect_ratio", "variance"):
            self.require(all(map(isfinite, getattr(self, field))), "must be finite numbers", field)
        for field in ("offset", "step", "step_h", "step_w"):
            self.require(isfinite(getattr(self, field)), "must be a finite number", field)
        self.require(min(smallest) > 0, f"must be positive; found {smallest}", "min_size")
        self.require(
            len(largest) in (0, len(smallest)),
            f"must be given once for each of the {len(smallest)} min_size, or not at all; found {len(largest)}",
            "max_size",
        )
        for low, high in zip(smallest, largest, strict=False):
            self.require(high > low, f"must be larger than its min_size; found {high:g} for {low:g}", "max_size")
        self.require(all(r > 0 for r in self.aspect_ratio), "must be positive", "aspect_ratio")
        self.require(len(self.variance) in (0, 1, 4), f"must be one or four; found {len(self.variance)}", "variance")
        self.require(all(v > 0 for v in self.variance), "must be positive", "variance")
        self._check_pair("img_size", "img_h", "img_w")
        self._check_pair("step", "step_h", "step_w")

    def _check_pair(self, both: str, *each: str) -> None:
        """``both`` or ``each`` of the two fields, positive where given."""
        given = [field for field in each if self.has(field)]
        self.require(not (given and self.has(both)), f"either {both} or {each[0]} and {each[1]}, not both", both)
        self.require(len(given) != 1, f"{each[0]} and {each[1]} must be given together", given[0] if given else both)
        for field in (both, *each):
            self.require(not self.has(field) or getattr(self, field) > 0, "must be positive", field)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob in bottom:
            self.require(
                len(blob.shape) == 4, f"the inputs must have 4 axes; found {blob.shape_string}", kind=ShapeError
            )
        values = self._values(bottom[0].shape[2:], bottom[1].shape[2:])
        self.values = self.scratch("values", values.shape)
        backend.current().upload(values.astype(self.dtype), self.values)
        top[0].reshape(1, *values.shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.ops.elementwise(same, (self.values,), (), top[0].xdata.reshape(self.values.shape))

    def _values(self, cells: Sequence[int], image: Sequence[int]) -> NDArray:
        """Boxes and variances, (2, 4P), for a feature map and an image of these heights and widths."""
        height = self.img_size or self.img_h or image[0]
        width = self.img_size or self.img_w or image[1]
        rows, columns = cells
        step_h = self.step or self.step_h or height / max(rows, 1)
        step_w = self.step or self.step_w or width / max(columns, 1)
        y, x = ((np.arange(n) + self.offset) * step for n, step in ((rows, step_h), (columns, step_w)))
        centers = np.stack(np.broadcast_arrays(x[None, :, None], y[:, None, None]), axis=-1)
        half = np.array(self.shapes()) / 2
        if self.denser_prior_boxes:
            half = np.repeat(half, 2, axis=0)
            centers = np.repeat(centers, len(half), axis=2)
            centers[:, :, 1::2, 1] = ((np.arange(rows) + 1) * step_h)[:, None, None]
        boxes = np.concatenate([centers - half, centers + half], axis=-1) / np.array([width, height, width, height])
        if self.clip:
            boxes = np.clip(boxes, 0, 1)
        variance = list(self.variance) or [0.1]
        variances = np.broadcast_to(np.array(variance if len(variance) == 4 else variance * 4), boxes.shape)
        return np.stack([boxes.reshape(-1), variances.reshape(-1)])

    def shapes(self) -> list[tuple[float, float]]:
        """Widths and heights, in pixels, of the boxes of one cell."""
        found: list[tuple[float, float]] = []
        for i, given in enumerate(self.min_size):
            side = int(given)
            found.append((side, side))
            if self.max_size:
                mean = sqrt(side * int(self.max_size[i]))
                found.append((mean, mean))
            found += [(side * sqrt(ratio), side / sqrt(ratio)) for ratio in self._ratios()]
        return found

    def _ratios(self) -> list[float]:
        ratios = [1.0]
        for ratio in self.aspect_ratio:
            if all(abs(ratio - other) >= 1e-6 for other in ratios):
                ratios += [ratio, 1 / ratio] if self.flip else [ratio]
        return ratios[1:]
