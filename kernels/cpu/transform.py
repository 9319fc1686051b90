"""The data transformer's primitive, compiled.

It runs in prefetch threads, beside the net: single-threaded and without the interpreter's lock.  ``prange`` is not
allowed here, since Numba's work queue must not be entered from two threads.
"""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.compile import kernel


@kernel()
def transform(
    batch: np.ndarray,
    mean: np.ndarray,
    scale: np.float32,
    offsets: np.ndarray,
    mirror: np.ndarray,
    out: np.ndarray,
) -> None:
    """See ``kernels.reference.transform``."""
    num, channels, height, width = out.shape
    one_mean = mean.shape[1] == 1 and mean.shape[2] == 1
    for n in range(num):
        top, left, flip = offsets[n, 0], offsets[n, 1], mirror[n]
        for c in range(channels):
            for y in range(height):
                row = batch[n, c, top + y, left : left + width]
                result = out[n, c, y]
                if one_mean:
                    m = mean[c, 0, 0]
                    for x in range(width):
                        result[x] = (np.float32(row[x]) - m) * scale
                else:
                    means = mean[c, top + y, left : left + width]
                    for x in range(width):
                        result[x] = (np.float32(row[x]) - means[x]) * scale
                if flip:
                    for x in range(width // 2):
                        result[x], result[width - 1 - x] = result[width - 1 - x], result[x]
