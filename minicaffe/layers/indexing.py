"""Layers that pick, drop or repeat parts of a blob: Crop, Tile, Filter, BatchReindex."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minicaffe import backend
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer


class Crop(Layer):
    """Cut a block out of the first bottom, as large as the second one from ``axis`` (2) on.

    Bottoms: x; a blob whose sizes alone count, and which gets no gradient.  Top: x's sizes before ``axis``, then those
    of the second bottom.  ``offset``: where the block begins, given once for all cut axes or once for each (0).
    """

    type = "Crop"
    capturable_on_device = True
    param = "crop_param"
    reads_bottoms = reads_tops = ()
    per_element = 0
    bottoms = 2
    axis: int
    offset: Sequence[int]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, like = bottom
        axis = self.axis_of(x, self.axis)
        cut, given = len(x.shape) - axis, list(self.offset)
        self.require(
            len(given) in (0, 1, cut),
            f"must be given once, or once for each of the {cut} cropped axes; found {given}",
            "offset",
        )
        self.require(
            len(like.shape) >= len(x.shape),
            f"the reference must have as many axes as the input; found {like.shape_string}",
            kind=ShapeError,
        )
        offsets = given if len(given) == cut else (given or [0]) * cut
        sizes = like.shape[axis : len(x.shape)]
        if any(offset + size > room for offset, size, room in zip(offsets, sizes, x.shape[axis:], strict=True)):
            raise self.error(
                f"the crop of sizes {list(sizes)} at offsets {offsets} goes beyond the input {x.shape_string} from "
                f"axis {axis} on",
                "offset",
                ShapeError,
            )
        self.block = (..., *(slice(offset, offset + size) for offset, size in zip(offsets, sizes, strict=True)))
        top[0].reshape(*x.shape[:axis], *sizes)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].xdata[...] = bottom[0].xdata[self.block]

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].xdiff.fill(0)
            bottom[0].xdiff[self.block] = top[0].xdiff


class AutoCrop(Crop):
    """Cut the first bottom where it lies over the second one, pixel by pixel (FCN, Long et al. 2015).

    As Crop; but where it begins follows from strides, kernels and pads of the layers between the two bottoms, unless
    ``crop_param`` is given.  The net finds it out (``minicaffe.alignment``).  V1's CROP is this layer, too.
    Source: longjon/caffe, branch future, where it is named Crop, and yun-liu/rcf.
    """

    type = "AutoCrop"
    capturable_on_device = True


class Tile(Layer):
    """Put ``tiles`` copies of the bottom one after the other along ``axis`` (1).  Backward: the sum over the copies.

    Bottom: any shape.  Top: that shape, ``tiles`` times as large along ``axis``.
    """

    type = "Tile"
    param = "tile_param"
    reads_bottoms = reads_tops = ()
    per_element = 0
    axis: int
    tiles: int

    def check_options(self) -> None:
        self.require(self.tiles > 0, f"must be given, and positive; found {self.tiles}", "tiles")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        axis = self.axis_of(x, self.axis)
        top[0].reshape(*x.shape[:axis], x.shape[axis] * self.tiles, *x.shape[axis + 1 :])
        self.outer, self.inner = x.span(0, axis), x.span(axis)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0].xdata.reshape(self.outer, 1, self.inner)
        top[0].xdata.reshape(self.outer, self.tiles, self.inner)[...] = x

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            dy = top[0].xdiff.reshape(self.outer, self.tiles, self.inner)
            self.xp.sum(dy, axis=1, out=bottom[0].xdiff.reshape(self.outer, self.inner))


class Filter(Layer):
    """Keep the items of a batch whose selector is not 0: ``y = x[selector != 0]``.

    Bottoms: blobs (N, …) to filter; last, the selector, (N,) or (N, 1, …), which gets no gradient.  Tops: one for each
    blob, (kept, …).
    Caffe: when the net is made the tops have all N items, since no selector is known; later there may be none at all.
    The number of items depends on the data, so that a device has to be waited for.
    """

    type = "Filter"
    reads_bottoms = reads_tops = ()
    per_element = 0
    bottoms = (2, None)
    tops = (1, None)
    reshape_always = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require(
            len(top) == len(bottom) - 1, f"{len(bottom)} bottoms need {len(bottom) - 1} tops; found {len(top)}", "top"
        )
        self.differentiable = tuple(range(len(top)))
        self.selected = False

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        selector, num = bottom[-1], bottom[0].shape[:1]
        if selector.span(1) != 1 or any(not blob.shape or blob.shape[:1] != selector.shape[:1] for blob in bottom):
            found = ", ".join(blob.shape_string for blob in bottom)
            raise self.error(
                f"all bottoms must be (N, …), and the last, the selector, (N, 1, …); found {found}", kind=ShapeError
            )
        values = selector.peek_data().reshape(-1)
        if self.selected and np.isnan(values).any():
            raise self.error(
                f"selector number {int(np.isnan(values).argmax())} of the batch is NaN; it must be a number"
            )
        kept = np.flatnonzero(values) if self.selected else np.arange(*num)
        self.selected = True
        self.index = self.scratch("index", kept.shape)
        backend.current().upload(kept.astype(self.dtype), self.index)
        for blob, out in zip(bottom, top, strict=False):
            out.reshape(len(kept), *blob.shape[1:])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for x, y in zip(bottom, top, strict=False):
            self.ops.gather_rows(
                x.xdata.reshape(x.shape[0], x.span(1)), self.index, y.xdata.reshape(len(self.index), x.span(1))
            )

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for i, y in enumerate(top):
            if propagate_down[i]:
                dx = bottom[i].xdiff.reshape(bottom[i].shape[0], y.span(1))
                dx.fill(0)
                self.ops.scatter_rows(y.xdiff.reshape(len(self.index), y.span(1)), self.index, dx)


class BatchReindex(Layer):
    """Choose items of a batch by number, in any order and any number of times: ``y[i] = x[index[i]]``.

    Bottoms: x (N, …); index (M,), integers in 0 .. N - 1, which gets no gradient.  Top: (M, …).
    """

    type = "BatchReindex"
    reads_bottoms, reads_tops = (1,), ()
    per_element = 0
    bottoms = 2
    differentiable = (0,)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, index = bottom
        self.require(
            len(index.shape) == 1, f"the indices must have 1 axis; found {index.shape_string}", kind=ShapeError
        )
        self.require(
            len(x.shape) >= 1, f"the input must have an axis of items; found {x.shape_string}", kind=ShapeError
        )
        top[0].reshape(*index.shape, *x.shape[1:])
        self.x_rows, self.y_rows = (x.shape[0], x.span(1)), (index.shape[0], x.span(1))
        self.bad_index = self.flag("bad_index")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        index = bottom[1].xdata
        self.check_indices(index, self.x_rows[0], self.bad_index, hint=", the items of the first bottom")
        self.ops.gather_rows(bottom[0].xdata.reshape(self.x_rows), index, top[0].xdata.reshape(self.y_rows))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            dx = bottom[0].xdiff
            dx.fill(0)
            self.ops.scatter_rows(top[0].xdiff.reshape(self.y_rows), bottom[1].xdata, dx.reshape(self.x_rows))
