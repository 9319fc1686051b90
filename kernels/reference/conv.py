"""im2col, and convolution as a matrix product of its columns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minicaffe.kernels.convolution import KINDS
from minicaffe.kernels.reference.arrays import Array
from minicaffe.kernels.reference.bias import bias_add, bias_grad
from minicaffe.kernels.window import Window


def _taps(window: Window, in_shape: Sequence[int], out_shape: Sequence[int]) -> Iterator[tuple[int, tuple, tuple]]:
    """For each kernel tap: its index and the slices that pair output positions with the input pixels they read."""
    for tap, offsets in enumerate(itertools.product(*map(range, window.kernel))):
        source, target = [], []
        for q, s, p, d, size, positions in zip(
            offsets, window.stride, window.pad, window.dilation, in_shape, out_shape, strict=True
        ):
            first = q * d - p
            low = max(0, -(first // s))
            high = min(positions, (size - 1 - first) // s + 1)
            high = max(low, high)
            target.append(slice(low, high))
            source.append(slice(first + low * s, first + high * s, s) if high > low else slice(0, 0))
        yield tap, tuple(source), tuple(target)


def im2col(x: Array, columns: Array, window: Window) -> None:
    """Lays out the pixels under the window: x (N, C, *in) -> columns (N, C * taps, *out); padding gives 0.

    Row ``c * taps + q`` of an image's columns holds, for every output position, the pixel of channel c under tap q.
    """
    n, c = x.shape[:2]
    out = columns.shape[2:]
    view = columns.reshape(n, c, window.taps, *out)
    view[...] = 0
    for tap, source, target in _taps(window, x.shape[2:], out):
        view[(slice(None), slice(None), tap, *target)] = x[(slice(None), slice(None), *source)]


def col2im(columns: Array, x: Array, window: Window) -> None:
    """The transpose of im2col: every element of the columns is added to its pixel of x (N, C, *in)."""
    n, c = x.shape[:2]
    out = columns.shape[2:]
    view = columns.reshape(n, c, window.taps, *out)
    x[...] = 0
    for tap, source, target in _taps(window, x.shape[2:], out):
        x[(slice(None), slice(None), *source)] += view[(slice(None), slice(None), tap, *target)]


def convolution_workspace(
    x_shape: Sequence[int],
    y_shape: Sequence[int],
    window: Window,
    group: int,
    dtype: DTypeLike | None = None,
    kinds: Collection[str] = KINDS,
    packed: bool | None = None,
) -> int:
    """Elements of scratch memory that the functions for these ``kinds`` need for arrays of these shapes, and of this
    dtype if one is given; ``packed``: whether ``convolve`` can keep what it makes of the weights, None: perhaps.
    """
    return int(np.prod(x_shape[:2]) * window.taps * np.prod(y_shape[2:]))


def convolution_form(
    x_shape: Sequence[int],
    y_shape: Sequence[int],
    window: Window,
    group: int,
    dtype: DTypeLike,
    accumulate: bool = False,
) -> Hashable:
    """What ``convolve``, for arrays of these shapes, keeps in ``packed`` in the place of the weights, as a key of it;
    None: nothing, it reads the weights themselves.
    """
    return None


def _columns_of(x: Array, y_shape: Sequence[int], window: Window, workspace: Array) -> Array:
    n, c = x.shape[:2]
    shape = (n, c * window.taps, *y_shape[2:])
    columns = workspace[: int(np.prod(shape))].reshape(shape)
    im2col(x, columns, window)
    return columns


def convolve(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    window: Window,
    group: int,
    workspace: Array,
    slope: float = 1.0,
    packed: dict[Any, Any] | None = None,
    accumulate: bool = False,
) -> None:
    """Cross-correlation: x (N, C, *in), w (M, C / group, *kernel), bias (M,) or None -> y (N, M, *out), or added to
    what is in y if ``accumulate``.

    ``slope`` multiplies negative results: 0 makes a ReLU of them.  In ``packed`` can be kept what was made of the
    weights, for calls with the same ones: whoever writes to these empties it.  With ``convolution_form`` in it, w is
    not read, and may be None.
    """
    n, m = y.shape[:2]
    before = y.copy() if accumulate else None
    columns = _columns_of(x, y.shape, window, workspace).reshape(n, group, w[0].size, -1)
    np.matmul(w.reshape(group, m // group, -1), columns, out=y.reshape(n, group, m // group, -1))
    if bias is not None:
        bias_add(y, bias)
    if before is not None:
        y += before
    if slope != 1.0:
        y[...] = np.maximum(y, 0) + y.dtype.type(slope) * np.minimum(y, 0)


def convolve_data_grad(dy: Array, w: Array, dx: Array, window: Window, group: int, workspace: Array) -> None:
    """Gradient of ``convolve`` with respect to x: dy (N, M, *out), w -> dx (N, C, *in)."""
    n, m = dy.shape[:2]
    shape = (n, dx.shape[1] * window.taps, *dy.shape[2:])
    columns = workspace[: int(np.prod(shape))].reshape(shape)
    np.matmul(
        w.reshape(group, m // group, -1).transpose(0, 2, 1),
        dy.reshape(n, group, m // group, -1),
        out=columns.reshape(n, group, w[0].size, -1),
    )
    col2im(columns, dx, window)


def convolve_weight_grad(
    x: Array,
    dy: Array,
    dw: Array,
    window: Window,
    group: int,
    workspace: Array,
    accumulate: bool,
    dbias: Array | None = None,
) -> None:
    """Gradient of ``convolve`` with respect to w, into dw (M, C / group, *kernel); added to dw if ``accumulate``.

    With dbias (M,), dy is summed into it as by ``bias_grad``, without reading dy again.
    """
    if dbias is not None:
        bias_grad(dy, dbias)
    (n, m), positions = dy.shape[:2], math.prod(dy.shape[2:])
    columns = _columns_of(x, dy.shape, window, workspace).reshape(n, group, dw[0].size, positions)
    gradients = dy.reshape(n, group, m // group, positions)
    total = np.matmul(gradients, columns.transpose(0, 1, 3, 2)).sum(axis=0).reshape(dw.shape)
    if accumulate:
        dw += total
    else:
        dw[...] = total
