"""Formulas over arrays, and over arrays and a value a channel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaffe.testing.kernel_cases.case import KernelCase, Sizes, normal, output, uniform


def polynomial(x: float, y: float, z: float, a: float, b: float) -> float:
    """A formula with every operator that a neuron may use."""
    return a * x**2 - y / (abs(z) + 1) + (b if x > 0 else -y) + (0 < y <= 1.5) * +z - (x == y) + (y != z)


def functions(x: float, y: float) -> float:
    """A formula with every function that a neuron may use."""
    return math.exp(-abs(x)) + math.log(x * x + 1) + math.sqrt(abs(y)) + math.tanh(x) + min(x, y, 0.5) - max(x, 0)


def constant(default: float) -> float:
    """Its argument."""
    return default


def normalize(x: float, y: float, mean: float, variance: float, eps: float) -> float:
    """Two arrays and two vectors."""
    return (x - mean) / math.sqrt(variance + eps) * y


def smooth(x: float, y: float, mean: float, a: float) -> float:
    """A formula that NumPy computes on whole arrays; all terms are positive where x, y, mean and a are."""
    return a * x * x + y / (mean + 1)


def _whole(function: Any, arrays: Any, scalars: Any, out: Any) -> None:
    """``elementwise`` without a call for each element."""
    out[...] = function(*arrays, *(out.dtype.type(scalar) for scalar in scalars))


def _whole_channels(function: Any, arrays: Any, vectors: Any, scalars: Any, out: Any) -> None:
    """``channelwise`` without a call for each element."""
    _whole(function, [*arrays, *(vector[:, None] for vector in vectors)], scalars, out)


def _whole_sum(function: Any, arrays: Any, vectors: Any, scalars: Any, out: Any) -> None:
    """``channel_sum`` without a call for each element."""
    terms = np.empty_like(arrays[0])
    _whole_channels(function, arrays, vectors, scalars, terms)
    out += terms.sum(axis=(0, 2), dtype=np.float64)


CHANNELS = [(3, 5, 1), (2, 40, 1), (2, 3, 49), (2, 3, 20000), (0, 3, 4)]


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    for shape in [(), (3, 4), *((size,) for size in sizes.edges)]:
        x, y, z = (normal(*shape) for _ in range(3))
        yield KernelCase("elementwise", (polynomial, [x, y, z], [0.5, 3], output(*shape)))
        yield KernelCase("elementwise", (functions, [x, y], [], output(*shape)))
        yield KernelCase("elementwise", (constant, [x], [], output(*shape)))
    edges = [shape for size in sizes.edges for shape in ((2, 3, size), (2, size, 3), (size, 3, 1))]
    for shape in [*CHANNELS, *edges]:
        x, y, mean, variance = normal(*shape), uniform(0, 1, *shape), normal(shape[1]), uniform(0, 2, shape[1])
        yield KernelCase("channelwise", (normalize, [x, y], [mean, variance], [0.01], output(*shape)))
        yield KernelCase("channelwise", (constant, [x], [], [], output(*shape)))
        yield KernelCase("channel_sum", (constant, [y], [], [], mean))
        yield KernelCase("channel_sum", (normalize, [x, y], [mean, variance], [0.01], mean))
    if sizes.large:  # the reference calls Python for each element
        x = uniform(0, 1, sizes.large)
        yield KernelCase("elementwise", (smooth, [x, x, x], [0.5], output(sizes.large)), reference=_whole)
        shape, mean = (4, 32, sizes.large // 128), uniform(0, 2, 32)
        x, out = uniform(0, 1, *shape), output(*shape)
        yield KernelCase("channelwise", (smooth, [x, x], [mean], [0.5], out), reference=_whole_channels)
        yield KernelCase("channel_sum", (smooth, [x, x], [mean], [0.5], mean), reference=_whole_sum)
