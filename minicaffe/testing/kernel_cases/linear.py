"""Matrix products, inner products, biases."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from minicaffe.testing.kernel_cases.case import KernelCase, Sizes, normal, output, scalar, uniform

SHAPES = [(2, 40, 1), (300, 3, 1), (2, 3, 49), (2, 3, 5000), (2, 1500, 2), (0, 3, 4), (3, 5), (2, 3, 4, 5)]


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    for rows, inner, columns in ((3, 4, 5), (33, 257, 31)):
        for ta, tb, accumulate in product((False, True), repeat=3):
            a, b = (
                normal(*((inner, rows) if ta else (rows, inner))),
                normal(*((columns, inner) if tb else (inner, columns))),
            )
            out = normal(rows, columns) if accumulate else output(rows, columns)
            yield KernelCase("gemm", (a, b, out, ta, tb, accumulate))
    for count in sizes.edges:
        yield KernelCase("dot", (uniform(0, 1, count), uniform(0, 1, count), scalar(3)))
    for shape in [*SHAPES, *((3, size, 1) for size in sizes.edges), *((2, 3, size) for size in sizes.edges)]:
        yield KernelCase("bias_add", (normal(*shape), normal(shape[1])))
        yield KernelCase("bias_grad", (normal(*shape), normal(shape[1])))
    if sizes.large:
        count = sizes.large
        yield KernelCase("dot", (uniform(0, 1, count), uniform(0, 1, count), scalar(3)))
        for shape in ((8, 16, count // 128), (count // 10, 10, 1)):
            yield KernelCase("bias_add", (normal(*shape), normal(shape[1])))
            yield KernelCase("bias_grad", (uniform(0, 1, *shape), normal(shape[1])))
