"""Matrix products whose factors are rounded to 16 bits, and the rounding itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.kernels import reference
from minicaffe.kernels.halves import FORMATS
from minicaffe.kernels.window import Window
from minicaffe.testing.kernel_cases.case import KernelCase, Sizes, Values, normal, output
from minicaffe.testing.kernel_cases.windows import window

SPECIAL = [
    0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.9, 65520, -65520, 3.4e38, 1e-45, 2**-24, 2**-25, 3 * 2**-26, 2**-14,
    1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-11 + 2**-23, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-23, 2047 * 2**-25,
]  # fmt: skip
"""Beside infinities what lies on the edges of fp16 and half-way between two numbers, and a little beyond."""


def to_fp16(x: NDArray) -> NDArray:
    """The nearest numbers of IEEE binary16, in float32."""
    with np.errstate(over="ignore"):
        return x.astype(np.float32).astype(np.float16).astype(np.float32)


def to_bf16(x: NDArray) -> NDArray:
    """The nearest numbers of eight significant bits, of two equally near the even one, in float32."""
    with np.errstate(over="ignore", invalid="ignore"):
        mantissa, exponent = np.frexp(x.astype(np.float32))
        least = np.maximum(exponent, -125)  # of a subnormal number fewer bits are significant
        units = np.round(np.ldexp(mantissa, exponent - least + 8))
        return np.where(np.isfinite(x), np.ldexp(units, least - 8), x).astype(np.float32)


def to_tf32(x: NDArray) -> NDArray:
    """The nearest finite numbers of eleven significant bits, of two equally near the larger, in float32."""
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


PRODUCTS = [((33, 70), (70, 31), (33, 31), False, False), ((3, 7, 4), (3, 5, 7), (3, 4, 5), True, True)]
"""Shapes of a, b and of the result, and which of the first are transposed."""

ROUNDINGS: dict[str, Callable[[NDArray], NDArray]] = {"fp16": to_fp16, "bf16": to_bf16}


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    for name, halves in FORMATS.items():
        for count in (*sizes.edges, sizes.large):
            if not count:
                continue
            x = Values((3, 2, 1, count), _from_tiny_to_huge)
            out = Values((3, 1, count), lambda rng, size: np.full(size, 1.0), halves.dtype)
            label = f"factors rounded to {name}, {count}"
            yield KernelCase("gemm", (x, out), label, None, _bits(name), _round(name), exact=True)
        x, columns = normal(3, 2, 5, 6), Values((3, 8, 3, 3), lambda rng, size: np.full(size, 1.0), halves.dtype)
        win = window((2, 2), (2, 3), (1, 2))
        yield KernelCase("im2col", (x, columns, win), f"columns of {name}", None, _columns(name), exact=True)
        for a, b, shape, ta, tb in PRODUCTS:
            args = (normal(*a), normal(*b), output(*shape), ta, tb)
            yield KernelCase("gemm", args, f"{shape} of {name}", None, _product(name), _multiply(name))


def _from_tiny_to_huge(rng: np.random.Generator, size: tuple[int, ...]) -> NDArray:
    values = rng.standard_normal(size) * 10.0 ** rng.integers(-9, 6, size)
    for row in values.reshape(-1, size[-1]) if len(size) > 1 else ():
        some = rng.permutation(SPECIAL)[: row.size]
        row[: len(some)] = some
    return values


def _bits(name: str) -> Callable[..., None]:
    return lambda x, out: _store(name, x[:, 1], out)


def _columns(name: str) -> Callable[..., None]:
    def expected(x: NDArray, columns: NDArray, win: Window) -> None:
        wide = np.empty(columns.shape, np.float32)
        reference.im2col(x, wide, win)
        _store(name, wide, columns)

    return expected


def _store(name: str, x: NDArray, out: NDArray) -> None:
    """The nearest numbers of 16 bits, as arrays hold them."""
    rounded = ROUNDINGS[name](x)
    if name == "fp16":
        out[...] = rounded
    else:
        out[...] = np.where(np.isnan(rounded), 0x7FFF, rounded.view(np.uint32) >> 16)


def _round(name: str) -> Callable[..., None]:
    """The second matrix of each two, which so lie apart."""

    def run(backend: Any, x: Any, out: Any) -> None:
        out[...] = backend.ops._rounded(0, x[:, 1], FORMATS[name])

    return run


def _product(name: str) -> Callable[..., None]:
    def expected(a: NDArray, b: NDArray, out: NDArray, ta: bool, tb: bool) -> None:
        for left, right, result in zip(a, b, out, strict=True) if out.ndim == 3 else [(a, b, out)]:
            factors = [ROUNDINGS[name](x) if out.dtype == np.float32 else x for x in (left, right)]
            whole = result.astype(np.float64)
            first, second = (x.astype(np.float64) for x in factors)
            reference.gemm(first, second, whole, ta, tb)
            result[...] = whole

    return expected


def _multiply(name: str) -> Callable[..., None]:
    def run(backend: Any, *args: Any) -> None:
        with backend.rounding(name):
            backend.ops.gemm(*args)

    return run
