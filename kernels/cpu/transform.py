"""The data transformer's primitives, compiled.

They run beside the net, in threads of their own: single-threaded and without the interpreter's lock.  ``prange`` is not
allowed here, since Numba's work queue must not be entered from two threads.  Unsigned indices cannot be negative: that
lets the loops that run backward run on vectors, too.
"""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.compile import kernel


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
                    result[:] = row


@kernel()
def subtract_mean(
    pixels: np.ndarray,
    mean: np.ndarray,
    scale: np.float32,
    offsets: np.ndarray,
    mirror: np.ndarray,
    out: np.ndarray,
) -> None:
    """See ``kernels.reference.transform``."""
    num, channels, height, width = out.shape
    one_mean = mean.shape[1] == 1 and mean.shape[2] == 1
    last = np.uint64(width - 1)
    for n in range(num):
        top, left, flip = offsets[n, 0], offsets[n, 1], mirror[n]
        for c in range(channels):
            for y in range(height):
                row, result = pixels[n, c, y], out[n, c, y]
                if one_mean:
                    m = mean[c, 0, 0]
                    for x in range(width):
                        result[x] = (np.float32(row[x]) - m) * scale
                    continue
                means = mean[c, top + y, left : left + width]
                if flip:
                    for x in range(np.uint64(width)):
                        result[x] = (np.float32(row[x]) - means[last - x]) * scale
                else:
                    for x in range(width):
                        result[x] = (np.float32(row[x]) - means[x]) * scale
