"""Any scalar formula over channels: arrays (N, C, inner) and vectors of one value a channel.

The loops take the arrays as matrices: (N, C) if ``inner`` is 1, where a row runs along the channels; otherwise
(N * C, inner), where a row belongs to one channel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba.extending import register_jitable

from minicaffe.kernels.cpu.elementwise import elements_at, formula_stamp
from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.cpu.runtime.compile import REASSOCIATE, as_written, kernel, part_kernel
from minicaffe.kernels.cpu.runtime.launch import parallel, share
from minicaffe.kernels.cpu.runtime.threads import parts
from minicaffe.kernels.cpu.simd.mathlib import vectorizable
from minicaffe.kernels.reference import Array

_PIECE = 1024  # elements that are summed in the arrays' dtype; the sums of pieces are added up in float64


@register_jitable
def _one_row(matrices, r, first, last):
    return (matrices[0][r, first:last],)


@register_jitable
def _two_rows(matrices, r, first, last):
    return matrices[0][r, first:last], matrices[1][r, first:last]


@register_jitable
def _no_elements(channels, i):
    return ()


_ROW = (None, _one_row, _two_rows)


@functools.cache
def _loops(function: Callable[..., float], arrays: int, vectors: int, dtype: np.dtype) -> dict[tuple[str, str], Any]:
    """The loops around a formula of so many arrays and vectors, by task and direction; compiled at their first call."""
    formula = as_written(vectorizable(function, dtype))
    row, of_channel = _ROW[arrays], elements_at if vectors else _no_elements
    stamp = formula_stamp(function, arrays, vectors, dtype)

    @part_kernel(stamp=stamp)
    def apply_along_part(part, parts, out, matrices, channels, scalars):
        low, high = share(part, parts, len(out))
        for r in range(low, high):
            inputs, y = row(matrices, r, 0, out.shape[1]), out[r]
            for i in range(y.size):
                y[i] = formula(*(elements_at(inputs, i) + of_channel(channels, i) + scalars))

    @kernel(stamp=stamp)
    def apply_along(out, matrices, channels, scalars, parts):
        parallel(apply_along_part, parts, (out, matrices, channels, scalars))

    @part_kernel(stamp=stamp)
    def apply_within_part(part, parts, out, matrices, channels, scalars):
        inner = out.shape[1]
        place, end = share(part, parts, out.size)
        while place < end:
            r, first = place // inner, place % inner
            last = min(inner, first + end - place)
            inputs, y = row(matrices, r, first, last), out[r, first:last]
            values = of_channel(channels, r % channels[0].size) + scalars
            for i in range(y.size):
                y[i] = formula(*(elements_at(inputs, i) + values))
            place += last - first

    @kernel(stamp=stamp)
    def apply_within(out, matrices, channels, scalars, parts):
        parallel(apply_within_part, parts, (out, matrices, channels, scalars))

    @part_kernel(stamp=stamp)
    def sum_along_part(part, parts, partial, matrices, channels, scalars):
        low, high = share(part, parts, len(matrices[0]))
        total = partial[part]
        for r in range(low, high):
            inputs = row(matrices, r, 0, total.size)
            for i in range(total.size):
                total[i] += formula(*(elements_at(inputs, i) + of_channel(channels, i) + scalars))

    @kernel(stamp=stamp)
    def sum_along(out, matrices, channels, scalars, parts):
        partial = np.zeros((parts, out.size))
        parallel(sum_along_part, parts, (partial, matrices, channels, scalars))
        for k in range(out.size):
            out[k] += partial[:, k].sum()

    @part_kernel(fastmath=REASSOCIATE, stamp=stamp)
    def sum_within_part(part, parts, partial, matrices, channels, scalars):
        inner = matrices[0].shape[1]
        total = partial[part]
        place, end = share(part, parts, matrices[0].size)
        while place < end:
            r, first = place // inner, place % inner
            last = min(inner, first + end - place, first + _PIECE)
            inputs = row(matrices, r, first, last)
            values = of_channel(channels, r % total.size) + scalars
            piece = matrices[0].dtype.type(0)
            for i in range(last - first):
                piece += formula(*(elements_at(inputs, i) + values))
            total[r % total.size] += piece
            place += last - first

    @kernel(stamp=stamp)
    def sum_within(out, matrices, channels, scalars, parts):
        partial = np.zeros((parts, out.size))
        parallel(sum_within_part, parts, (partial, matrices, channels, scalars))
        for k in range(out.size):
            out[k] += partial[:, k].sum()

    return {
        ("apply", "along"): apply_along, ("apply", "within"): apply_within,
        ("sum", "along"): sum_along, ("sum", "within"): sum_within,
    }  # fmt: skip


def _run(
    task: str,
    function: Callable[..., float],
    arrays: Sequence[Array],
    vectors: Sequence[Array],
    scalars: Sequence[float],
    out: Array,
) -> None:
    n, c, inner = arrays[0].shape
    if not arrays[0].size:
        return
    direction, shape = ("along", (n, c)) if inner == 1 else ("within", (n * c, inner))
    matrices = tuple(a.reshape(shape) for a in arrays)
    # never empty, which Numba could not type; and loops take the number of channels from a vector: any c values will do
    channels = tuple(vectors) or (matrices[0].reshape(-1)[:c],)
    result = out.reshape(shape) if task == "apply" else out
    loop = _loops(function, len(arrays), len(vectors), out.dtype)[task, direction]
    loop(result, matrices, channels, tuple(map(out.dtype.type, scalars)), parts(arrays[0].size))


@capturable
def channelwise(
    function: Callable[..., float],
    arrays: Sequence[Array],
    vectors: Sequence[Array],
    scalars: Sequence[float],
    out: Array,
) -> None:
    """See ``reference.channelwise``; one or two arrays, up to three vectors."""
    _run("apply", function, arrays, vectors, scalars, out)


def channel_sum(
    function: Callable[..., float],
    arrays: Sequence[Array],
    vectors: Sequence[Array],
    scalars: Sequence[float],
    out: Array,
) -> None:
    """See ``reference.channel_sum``; one or two arrays, up to three vectors."""
    _run("sum", function, arrays, vectors, scalars, out)
