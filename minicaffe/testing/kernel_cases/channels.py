"""Batch normalisation and scaling, local response normalisation, vectors of a length of 1."""

from __future__ import annotations

from collections.abc import Iterator

from minicaffe.testing.kernel_cases.case import KernelCase, Shape, Sizes, normal, output, uniform


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    edges: list[Shape] = [shape for size in sizes.edges for shape in ((2, 3, size), (3, size, 2))]
    for shape in [(1, 1, 1), (5, 7, 1), (2, 3, 300), *edges]:
        yield from standardize_cases(shape)
    if sizes.large:
        yield from standardize_cases((4, 32, sizes.large // 128))
    for shape in [(1, 1, 1), (2, 2, 9), (3, 20, 5), (2, 7, 300), *edges]:
        for size in (1, 3, 5):
            yield from _lrn(shape, size)
    for image in [(1, 1, 1, 1), (2, 2, 3, 7), (1, 3, 20, 17), *((1, 2, 2, size) for size in sizes.edges)]:
        for size in (1, 3, 5):
            yield from _lrn_within(image, size)
    for shape in [(1, 1, 1), (5, 7, 1), (2, 3000, 1), (2, 3, 300), *edges]:
        for power in (1, 2):
            yield from _unit_norm(shape, power)
    if sizes.large:
        yield from _unit_norm((4, 32, sizes.large // 128), 2)
        yield from _lrn((8, 64, sizes.large // 512), 5)
        yield from _lrn_within((8, 64, 32, max(1, sizes.large // (512 * 32))), 3)


def standardize_cases(shape: Shape) -> Iterator[KernelCase]:
    """The calls of BatchNorm and Scale layers on arrays of a shape."""
    c = shape[1]
    x, dy, y = normal(*shape), normal(*shape), normal(*shape)
    a, b, signs = uniform(1, 3, c), uniform(1, 3, c), normal(c)
    label, out, vector = "x".join(map(str, shape)), output(*shape), output(c)
    for kept in (None, out):
        args: tuple = (x, 0.5, vector, vector, vector, out, kept)
        yield KernelCase("standardize", args, label + (", kept" if kept else ""))
        yield KernelCase(
            "scale", (x, a, b if kept else None, out, kept), label + (", kept and shifted" if kept else "")
        )
        args = (x, dy, a, out if kept else None, normal(c), normal(c) if kept else None)
        yield KernelCase("scale_grad", args, label + (", all" if kept else ""))
    yield KernelCase("standardize_grad", (x, dy, a, b, vector, vector, out), label)
    for slope in (0.0, 0.25, 1.0):
        how = f"{label}, slope {slope}"
        yield KernelCase("standardize", (x, 0.5, vector, vector, vector, out, None, a, signs, slope), how)
        for dv in (normal(c), None):
            args = (x, dy, a, b, vector, vector, out, y, signs, dv, normal(c), slope)
            yield KernelCase("standardize_grad", args, how + (", dv" if dv else ""))
        yield KernelCase("scale", (x, signs, b, out, None, a, slope), how)


def _lrn(shape: Shape, size: int) -> Iterator[KernelCase]:
    x, out, label = normal(*shape), output(*shape), f"{'x'.join(map(str, shape))} size {size}"
    yield KernelCase("lrn", (x, out, out, size, 1.0, 0.75, 2.0), label)
    yield KernelCase("lrn", (x, None, out, size, 1.0, 0.75, 2.0), f"{label} without scale")
    yield KernelCase("lrn_grad", (x, x, uniform(1, 3, *shape), x, out, size, 1.0, 0.75), label)


def _lrn_within(shape: Shape, size: int) -> Iterator[KernelCase]:
    x, out, label = normal(*shape), output(*shape), f"{'x'.join(map(str, shape))} size {size}"
    yield KernelCase("lrn_within", (x, out, out, size, 1.0, 0.75), label)
    yield KernelCase("lrn_within", (x, None, out, size, 1.0, 0.75), f"{label} without scale")
    yield KernelCase("lrn_within_grad", (x, x, uniform(1, 3, *shape), x, out, size, 1.0, 0.75), label)


def _unit_norm(shape: Shape, power: int) -> Iterator[KernelCase]:
    sums, label = shape[::2], f"{'x'.join(map(str, shape))} power {power}"
    yield KernelCase("unit_norm", (normal(*shape), 0.5, power, output(*sums), output(*shape)), label)
    for dnorm in (None, normal(*sums)):
        args = (normal(*shape), uniform(1, 3, *sums), normal(*shape), power, dnorm, output(*shape))
        yield KernelCase("unit_norm_grad", args, label + (", dnorm" if dnorm else ""))
