"""Convolution as im2col and a batched matrix product, whole batches or large chunks of them at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from minicaffe.kernels.cuda.launch import program
from minicaffe.kernels.halves import rounded_to
from minicaffe.kernels.window import Window

CHUNK_ELEMENTS = 1 << 26
"""Of workspace, at most, unless one image alone needs more: 256 MB in float32."""
_LARGE_PRODUCT = 1 << 20  # elements of a weight gradient whose matrix product fills a GPU by itself


class Plan(NamedTuple):
    """How a batch is cut up, from the shapes alone, so that every call and ``workspace`` agree."""

    images: int
    chunk: int  # images whose columns and products fit in the workspace
    columns: int  # elements of an image's columns; 0 if the window is pointwise, because x is its own columns
    product: int  # elements of an image's weight gradient; 0 if it goes straight into dw

    @classmethod
    def of(cls, x_shape: Sequence[int], y_shape: Sequence[int], window: Window, group: int) -> Plan:
        (n, c), m = x_shape[:2], y_shape[1]
        columns = 0 if window.is_pointwise else c * window.taps * math.prod(y_shape[2:])
        weights = m * (c // group) * window.taps
        product = weights if weights < _LARGE_PRODUCT else 0
        return cls(n, max(1, min(n, CHUNK_ELEMENTS // max(1, columns + product))), columns, product)

    def chunks(self) -> Iterator[slice]:
        return (slice(start, min(start + self.chunk, self.images)) for start in range(0, self.images, self.chunk))


class Im2colGemm:
    """The convolutions of ``kernels/reference/conv.py`` without their biases.

    ``ops.gemm`` multiplies row-major matrices, or batches of them on a first axis, where a batch of 1 serves a whole
    batch.  The weight gradient of a small layer is one batched product, an image each, whose results are then added up:
    a single product over all images would need dy transposed first, and one small product after the other would leave
    the GPU idle.  A large layer's products fill the GPU one by one, so each is added to dw as it is made.
    """

    def __init__(self, ops: Any) -> None:
        self._ops = ops

    def workspace(self, x_shape: Sequence[int], y_shape: Sequence[int], window: Window, group: int) -> int:
        """Elements of scratch memory that the three functions need."""
        plan = Plan.of(x_shape, y_shape, window, group)
        return plan.chunk * (plan.columns + plan.product)

    def convolve(
        self, x: Any, w: Any, y: Any, window: Window, group: int, workspace: Any, accumulate: bool = False
    ) -> None:
        """y = w * x, or added to y if ``accumulate``."""
        plan = Plan.of(x.shape, y.shape, window, group)
        weights = w.reshape(1, group, w.shape[0] // group, -1)
        for images in plan.chunks():
            columns = self._columns_of(x[images], y.shape, window, group, workspace)
            self._product(weights, columns, _grouped(y[images], group), accumulate=accumulate)

    def data_grad(self, dy: Any, w: Any, dx: Any, window: Window, group: int, workspace: Any) -> None:
        """Gradient with respect to x."""
        plan = Plan.of(dx.shape, dy.shape, window, group)
        weights = w.reshape(1, group, w.shape[0] // group, -1)
        for images in plan.chunks():
            if window.is_pointwise:
                self._product(weights, _grouped(dy[images], group), _grouped(dx[images], group), transpose_a=True)
            else:
                columns = _column_buffer(dx[images], dy.shape, window, workspace)
                self._product(weights, _grouped(dy[images], group), _grouped(columns, group), transpose_a=True)
                self._ops.col2im(columns, dx[images], window)

    def weight_grad(
        self, x: Any, dy: Any, dw: Any, window: Window, group: int, workspace: Any, accumulate: bool
    ) -> None:
        """Gradient with respect to w, added to dw if ``accumulate``."""
        plan = Plan.of(x.shape, dy.shape, window, group)
        for images in plan.chunks():
            columns, dys = self._columns_of(x[images], dy.shape, window, group, workspace), _grouped(dy[images], group)
            if plan.product:
                self._add_products(dys, columns, dw, workspace[plan.chunk * plan.columns :], accumulate)
            else:
                out = dw.reshape(group, dw.shape[0] // group, -1)
                for i in range(dys.shape[0]):
                    self._ops.gemm(dys[i], columns[i], out, transpose_b=True, accumulate=accumulate or i > 0)
            accumulate = True
        if not accumulate:  # there are no images
            dw.fill(0)

    def _add_products(self, dy: Any, columns: Any, dw: Any, workspace: Any, accumulate: bool) -> None:
        """``dy columns^T`` summed over the images, added to dw if ``accumulate``; dy and columns (images, group, rows,
        positions).
        """
        shape = (*dy.shape[:3], columns.shape[2])
        products = workspace[: math.prod(shape)].reshape(shape)
        self._product(dy, columns, products, transpose_b=True)
        linear = program("linear", dw.dtype)
        self._ops.launch.reduction(linear, "add_rows", dw.size, shape[0], products, dw, accumulate)

    def _columns_of(self, x: Any, y_shape: Sequence[int], window: Window, group: int, workspace: Any) -> Any:
        """The columns of images x, shape (images, group, channels * taps / group, positions); of 16 bits if factors are
        rounded to these.
        """
        if window.is_pointwise:
            return _grouped(x, group)
        halves = rounded_to(self._ops.factors, x)
        columns = _column_buffer(x, y_shape, window, workspace if halves is None else workspace.view(halves.dtype))
        self._ops.im2col(x, columns, window)
        return _grouped(columns, group)

    def _product(self, a: Any, b: Any, out: Any, **how: bool) -> None:
        """``out = op(a) op(b)`` for every image and group, ``how`` as for ``gemm``: arrays (images, group, rows,
        columns), or images 1 for all.

        A batched product strides along one axis, so the shorter of images and groups is left to this loop.
        """
        images, group = out.shape[:2]
        for i in range(min(images, group)):
            if group <= images:
                self._ops.gemm(a[:, i], b[:, i], out[:, i], **how)
            else:
                self._ops.gemm(a[min(i, a.shape[0] - 1)], b[i], out[i], **how)


def _column_buffer(x: Any, y_shape: Sequence[int], window: Window, workspace: Any) -> Any:
    """The part of the workspace that takes the columns of images x, shape (images, channels * taps, *out)."""
    shape = (x.shape[0], x.shape[1] * window.taps, *y_shape[2:])
    return workspace[: math.prod(shape)].reshape(shape)


def _grouped(array: Any, group: int) -> Any:
    """(images, channels, ...) as (images, group, channels / group, positions)."""
    images, channels = array.shape[:2]
    return array.reshape(images, group, channels // group, -1)
