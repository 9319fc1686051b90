"""Formulas over arrays, and over arrays and a value a channel."""

from __future__ import annotations

import math
from collections.abc import Iterator

from minicaffe.testing.kernel_cases.case import KernelCase, Shape, Sizes, normal, output, uniform


def polynomial(x, y, z, a, b):
    """A formula with every operator that a neuron may use."""
    return a * x**2 - y / (abs(z) + 1) + (b if x > 0 else -y) + (0 < y <= 1.5) * +z - (x == y) + (y != z)


def functions(x, y):
    """A formula with every function that a neuron may use."""
    return math.exp(-abs(x)) + math.log(x * x + 1) + math.sqrt(abs(y)) + math.tanh(x) + min(x, y, 0.5) - max(x, 0)


def constant(default):
    """Its argument."""
    return default


def normalize(x, y, mean, variance, eps):
    """Two arrays and two vectors."""
    return (x - mean) / math.sqrt(variance + eps) * y


CHANNELS = [(3, 5, 1), (2, 40, 1), (2, 3, 49), (2, 3, 20000), (0, 3, 4)]


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    large: list[Shape] = [(sizes.large,)] if sizes.large else []
    for shape in [(), (3, 4), *((size,) for size in sizes.edges), *large]:
        x, y, z = (normal(*shape) for _ in range(3))
        yield KernelCase("elementwise", (polynomial, [x, y, z], [0.5, 3], output(*shape)))
        yield KernelCase("elementwise", (functions, [x, y], [], output(*shape)))
        yield KernelCase("elementwise", (constant, [x], [], output(*shape)))
    edges = [shape for size in sizes.edges for shape in ((2, 3, size), (2, size, 3), (size, 3, 1))]
    large = [(4, 32, sizes.large // 128)] if sizes.large else []
    for shape in [*CHANNELS, *edges, *large]:
        x, y, mean, variance = normal(*shape), uniform(0, 1, *shape), normal(shape[1]), uniform(0, 2, shape[1])
        yield KernelCase("channelwise", (normalize, [x, y], [mean, variance], [0.01], output(*shape)))
        yield KernelCase("channelwise", (constant, [x], [], [], output(*shape)))
        yield KernelCase("channel_sum", (constant, [y], [], [], mean))
        if shape not in large:  # terms that cancel: their sum has fewer right digits than they
            yield KernelCase("channel_sum", (normalize, [x, y], [mean, variance], [0.01], mean))
