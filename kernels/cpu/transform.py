"""The data transformer's primitives, compiled.

They run beside the net, in threads of their own: single-threaded and without the interpreter's lock.  ``prange`` is not
allowed here, since Numba's work queue must not be entered from two threads.  Unsigned indices cannot be negative: that
lets the loops that run backward run on vectors, too.
"""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.compile import called, kernel
from minicaffe.kernels.cpu.simd.memory import copy_row, end_of_stream, stream_row

STREAMED = 1 << 23
"""Bytes of a finished batch that the caches will not hold until the net reads it: it is written past them."""

_PIECE = 1024  # values that pass through a buffer at once


@kernel()
def crop(batch: np.ndarray, offsets: np.ndarray, mirror: np.ndarray, out: np.ndarray) -> None:
    """See ``kernels.reference.transform``."""
    num, channels, height, width = out.shape
    last = np.uint64(width - 1)
    for n in range(num):
        top, left, flip = offsets[n, 0], offsets[n, 1], mirror[n]
        for c in range(channels):
            for y in range(height):
                row, result = batch[n, c, top + y, left : left + width], out[n, c, y]
                if flip:
                    for x in range(np.uint64(width)):
                        result[x] = row[last - x]
                else:
                    for x in range(np.uint64(width)):
                        result[x] = row[x]


@kernel()
def crop_packed(pixels: np.ndarray, top: int, left: int, mirrored: bool, out: np.ndarray) -> None:
    """See ``kernels.reference.transform``."""
    height, width = out.shape[1:]
    last = np.uint64(width - 1)
    for y in range(height):
        row = pixels[top + y, left : left + width]
        for c in range(3):
            result, shift = out[c, y], np.uint32(16 - 8 * c)
            if mirrored:
                for x in range(np.uint64(width)):
                    result[x] = np.uint8(row[last - x] >> shift)
            else:
                for x in range(np.uint64(width)):
                    result[x] = np.uint8(row[x] >> shift)


def subtract_mean(
    pixels: np.ndarray,
    mean: np.ndarray,
    scale: np.float32,
    offsets: np.ndarray,
    mirror: np.ndarray,
    out: np.ndarray,
) -> None:
    """See ``kernels.reference.transform``."""
    if mean.shape[1:] == (1, 1):
        _subtract_numbers(pixels, mean, scale, out)
    else:
        _subtract_image(pixels, mean, scale, offsets, mirror, out)


@kernel()
def _subtract_image(pixels, mean, scale, offsets, mirror, out):
    """``subtract_mean`` for a mean of each pixel."""
    num, channels, height, width = out.shape
    streamed = out.size * 4 >= STREAMED
    buffer = np.empty(width, out.dtype)
    last = np.uint64(width - 1)
    for n in range(num):
        top, left, flip = offsets[n, 0], offsets[n, 1], mirror[n]
        for c in range(channels):
            for y in range(height):
                row, means = pixels[n, c, y], mean[c, top + y, left : left + width]
                if flip:
                    for x in range(np.uint64(width)):
                        buffer[x] = (np.float32(row[x]) - means[last - x]) * scale
                else:
                    for x in range(np.uint64(width)):
                        buffer[x] = (np.float32(row[x]) - means[x]) * scale
                _put(out[n, c, y].ctypes.data, buffer.ctypes.data, width, streamed)
    if streamed:
        end_of_stream()


@kernel()
def _subtract_numbers(pixels, mean, scale, out):
    """``subtract_mean`` for a number for each channel."""
    num, channels, height, width = out.shape
    streamed = out.size * 4 >= STREAMED
    buffer = np.empty(_PIECE, out.dtype)
    size, piece = np.uint64(height * width), np.uint64(_PIECE)
    for n in range(num):
        for c in range(channels):
            plane, number = pixels[n, c].reshape(height * width), mean[c, 0, 0]
            target = out[n, c].ctypes.data
            for start in range(np.uint64(0), size, piece):
                count = min(piece, size - start)
                for i in range(count):
                    buffer[i] = (np.float32(plane[start + i]) - number) * scale
                _put(target + 4 * start, buffer.ctypes.data, count, streamed)
    if streamed:
        end_of_stream()


@called
def _put(target, source, count, streamed):
    """Copy ``count`` floats from one address to another."""
    if streamed:
        stream_row(target, source, count, np.float32(0))
    else:
        copy_row(target, source, count, np.float32(0))
