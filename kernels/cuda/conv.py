"""Convolution as im2col and a batched matrix product, whole batches or large chunks of them at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from minicaffe.kernels.cuda.launch import Launcher, program, window_struct
from minicaffe.kernels.window import Window

_CHUNK_ELEMENTS = 1 << 26  # of workspace, at most, unless one image alone needs more: 256 MB in float32
_LARGE_PRODUCT = 1 << 20  # elements of a weight gradient whose matrix product fills a GPU by itself


class _Plan(NamedTuple):
    """How a batch is cut up, from the shapes alone, so that every call and ``convolution_workspace`` agree."""

    images: int
    chunk: int  # images whose columns and products fit in the workspace
    columns: int  # elements of an image's columns; 0 if the window is pointwise, because x is its own columns
    product: int  # elements of an image's weight gradient; 0 if it goes straight into dw

    @classmethod
    def of(cls, x_shape: Sequence[int], y_shape: Sequence[int], window: Window, group: int) -> _Plan:
        (n, c), m = x_shape[:2], y_shape[1]
        columns = 0 if window.is_pointwise else c * window.taps * math.prod(y_shape[2:])
        weights = m * (c // group) * window.taps
        product = weights if weights < _LARGE_PRODUCT else 0
        return cls(n, max(1, min(n, _CHUNK_ELEMENTS // max(1, columns + product))), columns, product)

    def chunks(self) -> Iterator[slice]:
        return (slice(start, min(start + self.chunk, self.images)) for start in range(0, self.images, self.chunk))


class ConvOps:
    """The functions of ``kernels/reference/conv.py``.

    ``gemm`` multiplies row-major matrices, or batches of them on a first axis, where a batch of 1 serves a whole batch.
    The weight gradient of a small layer is one batched product, an image each, whose results are then added up: a
    single product over all images would need dy transposed first, and one small product after the other would leave the
    GPU idle.  A large layer's products fill the GPU one by one, so each is added to dw as it is made.
    """

    launch: Launcher
    _gemm: Callable[..., None]
    bias_add: Callable[[Any, Any], None]
    bias_grad: Callable[[Any, Any], None]

    def im2col(self, x: Any, columns: Any, window: Window) -> None:
        """See ``kernels.reference.im2col``."""
        planes, out = x.shape[0] * x.shape[1], columns.shape[2:]
        size = math.prod(out)
        struct = window_struct(window, x.shape[2:], out)
        self.launch.planes(program("im2col", x.dtype, len(out)), "im2col", planes, size, x, columns, struct)

    def col2im(self, columns: Any, x: Any, window: Window) -> None:
        """See ``kernels.reference.col2im``."""
        planes, out = x.shape[0] * x.shape[1], columns.shape[2:]
        size = math.prod(x.shape[2:])
        struct = window_struct(window, x.shape[2:], out)
        self.launch.planes(program("im2col", x.dtype, len(out)), "col2im", planes, size, columns, x, struct)

    def convolution_workspace(self, x_shape: Sequence[int], y_shape: Sequence[int], window: Window, group: int) -> int:
        """See ``kernels.reference.convolution_workspace``."""
        plan = _Plan.of(x_shape, y_shape, window, group)
        return plan.chunk * (plan.columns + plan.product)

    def convolve(self, x: Any, w: Any, bias: Any | None, y: Any, window: Window, group: int, workspace: Any) -> None:
        """See ``kernels.reference.convolve``."""
        plan = _Plan.of(x.shape, y.shape, window, group)
        weights = w.reshape(1, group, w.shape[0] // group, -1)
        for images in plan.chunks():
            columns = self._columns_of(x[images], y.shape, window, group, workspace)
            self._product(weights, columns, _grouped(y[images], group))
        if bias is not None:
            self.bias_add(y, bias)

    def convolve_data_grad(self, dy: Any, w: Any, dx: Any, window: Window, group: int, workspace: Any) -> None:
        """See ``kernels.reference.convolve_data_grad``."""
        plan = _Plan.of(dx.shape, dy.shape, window, group)
        weights = w.reshape(1, group, w.shape[0] // group, -1)
        for images in plan.chunks():
            if window.is_pointwise:
                self._product(weights, _grouped(dy[images], group), _grouped(dx[images], group), transpose_a=True)
            else:
                columns = _column_buffer(dx[images], dy.shape, window, workspace)
                self._product(weights, _grouped(dy[images], group), _grouped(columns, group), transpose_a=True)
                self.col2im(columns, dx[images], window)

    def convolve_weight_grad(
        self, x: Any, dy: Any, dw: Any, window: Window, group: int, workspace: Any, accumulate: bool, dbias: Any = None
    ) -> None:
        """See ``kernels.reference.convolve_weight_grad``."""
        if dbias is not None:
            self.bias_grad(dy, dbias)
        plan = _Plan.of(x.shape, dy.shape, window, group)
        for images in plan.chunks():
            columns, dys = self._columns_of(x[images], dy.shape, window, group, workspace), _grouped(dy[images], group)
            if plan.product:
                self._add_products(dys, columns, dw, workspace[plan.chunk * plan.columns :], accumulate)
            else:
                out = dw.reshape(group, dw.shape[0] // group, -1)
                for i in range(dys.shape[0]):
                    self._gemm(dys[i], columns[i], out, transpose_b=True, accumulate=accumulate or i > 0)
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
        self.launch.reduction(program("linear", dw.dtype), "add_rows", dw.size, shape[0], products, dw, accumulate)

    def _columns_of(self, x: Any, y_shape: Sequence[int], window: Window, group: int, workspace: Any) -> Any:
        """The columns of images x, shape (images, group, channels * taps / group, positions)."""
        if window.is_pointwise:
            return _grouped(x, group)
        columns = _column_buffer(x, y_shape, window, workspace)
        self.im2col(x, columns, window)
        return _grouped(columns, group)

    def _product(self, a: Any, b: Any, out: Any, transpose_a: bool = False, transpose_b: bool = False) -> None:
        """``out = op(a) op(b)`` for every image and group: arrays (images, group, rows, columns), or images 1 for all.

        A batched product strides along one axis, so the shorter of images and groups is left to this loop.
        """
        images, group = out.shape[:2]
        for i in range(min(images, group)):
            if group <= images:
                self._gemm(a[:, i], b[:, i], out[:, i], transpose_a, transpose_b)
            else:
                self._gemm(a[min(i, a.shape[0] - 1)], b[i], out[i], transpose_a, transpose_b)


def _column_buffer(x: Any, y_shape: Sequence[int], window: Window, workspace: Any) -> Any:
    """The part of the workspace that takes the columns of images x, shape (images, channels * taps, *out)."""
    shape = (x.shape[0], x.shape[1] * window.taps, *y_shape[2:])
    return workspace[: math.prod(shape)].reshape(shape)


def _grouped(array: Any, group: int) -> Any:
    """(images, channels, ...) as (images, group, channels / group, positions)."""
    images, channels = array.shape[:2]
    return array.reshape(images, group, channels // group, -1)
