"""Rows by index, and LSTM steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaffe.testing.kernel_cases.case import KernelCase, Sizes, labels, normal, output


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    shapes = [(1, 1, 1), (7, 20, 3), (50, 9, 300), *((9, 5, size) for size in sizes.edges)]
    large = [(64, 64, sizes.large // 64)] if sizes.large else []
    for rows, count, size in [*shapes, *((9, n, 3) for n in sizes.edges if n < 2000), *large]:
        index = labels(rows, count, first=(0, -1, 50))
        yield KernelCase("gather_rows", (normal(rows, size), index, output(count, size)))
        yield KernelCase("scatter_rows", (normal(count, size), index, normal(rows, size)))
        yield KernelCase("copy_columns", (normal(rows, size), size // 2, normal(rows, count), count // 3))
    widths = [(3, size) for size in sizes.edges]
    for n, size in [(1, 1), (3, 5), (4, 300), *widths, *([(64, sizes.large // 256)] if sizes.large else [])]:
        one, gates, cont = normal(n, size), normal(n, 4 * size), labels(2, n, first=(1, 0, 0.5))
        out = output(n, size)
        yield KernelCase("lstm_unit", (one, gates, cont, out, out), prepare=_forget)
        args = (one, gates, cont, one, one, one, out, output(n, 4 * size))
        yield KernelCase("lstm_unit_grad", args, prepare=_forget)


def _forget(c_before: Any, gates: Any, cont: Any, *_: Any) -> None:
    """A sequence that begins must not see what was before."""
    c_before[cont == 0] = np.nan
