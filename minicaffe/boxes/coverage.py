"""Maps of where boxes are, on a grid over an image, as DetectNet learns them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.boxes import geometry

BEFORE_CLASSES = 8
"""Channels of a map before those of the classes."""

GRIDBOX_MAX, GRIDBOX_MIN = range(2)
"""Values of DetectNetGroundTruthParameter.GridboxType."""

_EPSILON = np.finfo(np.float32).eps


class Coverage:
    """Maps of boxes, for a DetectNetGroundTruthParameter ``options``.

    A map is (8 + classes, rows, columns), a cell for each ``stride`` pixels.  Cells that a box covers hold 1, the
    corners of the box as seen from the cell, 1 / width, 1 / height, and the cell's area over that of what the box
    covers, but without ``obj_norm`` at least 1; then 1 at the box's class.  A box covers a rectangle in its centre,
    ``scale_cvg`` of its size, at most ``max_cvg_len`` or, with GRIDBOX_MIN, at least ``min_cvg_len``, as far as it is
    large.  Of several boxes the last one counts.
    """

    def __init__(self, options: Any) -> None:
        self._options = options
        self._image = (options.image_size_x, options.image_size_y)
        self.columns, self.rows = (round(size / options.stride) for size in self._image)
        self._classes = {mapping.src: mapping.dst for mapping in options.object_class} or {1: 0}
        self.channels = BEFORE_CLASSES + max(self._classes.values()) + 1

    def draw(self, boxes: NDArray, classes: NDArray, out: NDArray) -> None:
        """Fill ``out``, a map, with boxes (G, 4), xmin, ymin, xmax, ymax in pixels, of classes (G,)."""
        out[...] = 0
        if self._options.crop_bboxes:
            boxes = geometry.clip(boxes, *self._image)
        for box, kind, area in zip(boxes, classes.tolist(), geometry.size(boxes), strict=True):
            if int(kind) in self._classes and area >= _EPSILON:
                self._cover(box, BEFORE_CLASSES + self._classes[int(kind)], out)

    def _cover(self, box: NDArray, channel: int, out: NDArray) -> None:
        stride, covered = self._options.stride, self._covered(box)
        if not geometry.size(covered):
            return
        limits = (self.columns, self.rows)
        first = [max(math.floor(at / stride), 0) for at in covered[:2]]
        last = [min(math.ceil(at / stride), limit) for at, limit in zip(covered[2:], limits, strict=True)]
        x, y = np.meshgrid(
            *(np.arange(a, max(a, b), dtype=box.dtype) * stride for a, b in zip(first, last, strict=True))
        )
        cells = np.stack([x, y, x + stride, y + stride], axis=-1)
        taken = geometry.intersection(cells, covered) / stride**2 > _EPSILON
        norm = stride**2 / geometry.size(covered)
        here = out[:, first[1] : first[1] + len(x), first[0] : first[0] + x.shape[1]]
        here[BEFORE_CLASSES:, taken] = 0
        here[channel, taken] = here[0, taken] = 1
        for k, corner in enumerate(box):
            here[1 + k, taken] = (corner - (x, y)[k % 2])[taken]
        here[5, taken], here[6, taken] = 1 / (box[2:] - box[:2])
        here[7, taken] = norm if self._options.obj_norm else max(norm, 1)

    def _covered(self, box: NDArray) -> NDArray:
        """The rectangle that a box covers."""
        size = box[2:] - box[:2]
        inner = size * np.float32(self._options.scale_cvg)
        if self._options.gridbox_type == GRIDBOX_MIN:
            inner = np.minimum(size, np.maximum(inner, self._options.min_cvg_len))
        else:
            inner = np.minimum(inner, self._options.max_cvg_len)
        centre = (box[:2] + box[2:]) / 2
        return np.concatenate([centre - inner / 2, centre + inner / 2]).astype(box.dtype)
