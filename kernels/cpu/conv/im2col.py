"""Pixels under a window laid out as columns, and back, for up to three spatial axes."""

from __future__ import annotations

from minicaffe.kernels import reference
from minicaffe.kernels.cpu.conv.problem import AXES
from minicaffe.kernels.cpu.runtime.compile import kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import thread_count
from minicaffe.kernels.reference import Array
from minicaffe.kernels.window import Window


@kernel(inline=True)
def tap_range(offset, stride, size, positions):
    """The output positions [low, high) whose pixel ``position * stride + offset`` lies in an axis of ``size``
    pixels.
    """
    low = min(max(0, -(offset // stride)), positions)
    high = min(positions, (size - 1 - offset) // stride + 1)
    return low, max(low, high)


@kernel(inline=True)
def _gather_row(source, first, stride, low, high, target):
    """``target[j] = source[first + j * stride]`` for j in [low, high), 0 elsewhere."""
    target[:low] = 0
    inside = target[low:high]
    pixels = source[max(0, first + low * stride) :]
    if stride == 1:
        for j in range(inside.size):
            inside[j] = pixels[j]
    elif stride == 2:
        for j in range(inside.size):
            inside[j] = pixels[2 * j]
    else:
        for j in range(inside.size):
            inside[j] = pixels[stride * j]
    target[high:] = 0


@kernel(inline=True)
def _scatter_row(source, first, stride, low, high, target):
    """``target[first + j * stride] += source[j]`` for j in [low, high)."""
    inside = source[low:high]
    pixels = target[max(0, first + low * stride) :]
    if stride == 1:
        for j in range(inside.size):
            pixels[j] += inside[j]
    else:
        for j in range(inside.size):
            pixels[stride * j] += inside[j]


@kernel()
def _gather(x, columns, kernel, stride, pad, dilation):
    """One channel: x (D, H, W) -> columns (kd, kh, kw, P, Q, R)."""
    planes, rows, width = x.shape
    out_planes, out_rows, out_width = columns.shape[3:]
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            for c in range(kernel[2]):
                first = c * dilation[2] - pad[2]
                low, high = tap_range(first, stride[2], width, out_width)
                for p in range(out_planes):
                    d = p * stride[0] - pad[0] + a * dilation[0]
                    for q in range(out_rows):
                        h = q * stride[1] - pad[1] + b * dilation[1]
                        target = columns[a, b, c, p, q]
                        if 0 <= d < planes and 0 <= h < rows:
                            _gather_row(x[d, h], first, stride[2], low, high, target)
                        else:
                            target[:] = 0


@kernel()
def _scatter(columns, x, kernel, stride, pad, dilation):
    """One channel: columns (kd, kh, kw, P, Q, R) added up into x (D, H, W)."""
    planes, rows, width = x.shape
    out_planes, out_rows, out_width = columns.shape[3:]
    x[:] = 0
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            for c in range(kernel[2]):
                first = c * dilation[2] - pad[2]
                low, high = tap_range(first, stride[2], width, out_width)
                for p in range(out_planes):
                    d = p * stride[0] - pad[0] + a * dilation[0]
                    for q in range(out_rows):
                        h = q * stride[1] - pad[1] + b * dilation[1]
                        if 0 <= d < planes and 0 <= h < rows:
                            _scatter_row(columns[a, b, c, p, q], first, stride[2], low, high, x[d, h])


@part_kernel()
def _im2col_part(part, parts, x, columns, kernel, stride, pad, dilation):
    low, high = share(part, parts, len(x))
    for i in range(low, high):
        _gather(x[i], columns[i], kernel, stride, pad, dilation)


@kernel()
def _im2col(x, columns, kernel, stride, pad, dilation, threads):
    parallel(_im2col_part, threads, (x, columns, kernel, stride, pad, dilation))


@part_kernel()
def _col2im_part(part, parts, columns, x, kernel, stride, pad, dilation):
    low, high = share(part, parts, len(x))
    for i in range(low, high):
        _scatter(columns[i], x[i], kernel, stride, pad, dilation)


@kernel()
def _col2im(columns, x, kernel, stride, pad, dilation, threads):
    parallel(_col2im_part, threads, (columns, x, kernel, stride, pad, dilation))


def _views(x: Array, columns: Array, window: Window) -> tuple[Array, Array, Window]:
    """x as (N * C, D, H, W) and columns as (N * C, kd, kh, kw, P, Q, R), with the window to match."""
    window = window.with_axes(AXES)
    ones = (1,) * (AXES + 2 - x.ndim)
    channels = x.shape[0] * x.shape[1]
    return (
        x.reshape(channels, *ones, *x.shape[2:]),
        columns.reshape(channels, *window.kernel, *ones, *columns.shape[2:]),
        window,
    )


def im2col(x: Array, columns: Array, window: Window) -> None:
    """See ``reference.im2col``."""
    if x.ndim > AXES + 2:
        reference.im2col(x, columns, window)
        return
    x, columns, window = _views(x, columns, window)
    _im2col(x, columns, *window, thread_count())


def col2im(columns: Array, x: Array, window: Window) -> None:
    """See ``reference.col2im``."""
    if x.ndim > AXES + 2:
        reference.col2im(columns, x, window)
        return
    x, columns, window = _views(x, columns, window)
    _col2im(columns, x, *window, thread_count())
