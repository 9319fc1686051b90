"""Inner products in float64, and what a solver's step multiplies the gradients by."""

from __future__ import annotations

import numpy as np

from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import REASSOCIATE, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.scratch import scratch_array
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.reference import Array
from minicaffe.kernels.reference.dot import scales_of


@part_kernel(fastmath=REASSOCIATE)
def _inner_product_part(part, parts, a, b, partial):
    low, high = share(part, parts, a.size)
    p, q = a[low:high], b[low:high]
    total = 0.0
    for i in range(p.size):
        total += np.float64(p[i]) * np.float64(q[i])
    partial[part] = total


@part_kernel()
def _add_up_part(part, parts, partial, out):
    total = 0.0
    for i in range(len(partial)):
        total += partial[i]
    out[()] += out.dtype.type(total)


@kernel()
def _dot(a, b, out, parts, partial):
    parallel(_inner_product_part, parts, (a, b, partial))
    parallel(_add_up_part, 1, (partial, out))


def inner_product(a: Array, b: Array) -> float:
    """The inner product of two arrays of equal size, in float64."""
    out = np.zeros(())
    dot(a, b, out)
    return float(out)


@capturable
def dot(a: Array, b: Array, out: Array) -> None:
    """See ``reference.dot``."""
    shared = parts(a.size)
    _dot(a.reshape(-1), b.reshape(-1), out, shared, scratch_array((shared,)))


def gradient_scale(g: Array, limit: float, scale: float, loss_scale: Array | None, norm: Array, factor: Array) -> None:
    """See ``reference.gradient_scale``."""
    norm[...], factor[...] = scales_of(inner_product(g, g), limit, scale, loss_scale)
