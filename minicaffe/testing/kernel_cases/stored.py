"""Ops on arrays of 16 bits: the same calls as on float32, whose arrays are rounded to these before.

What is computed is float32, so a result is the nearest number of 16 bits, or float32 where its array is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minicaffe.kernels.halves import FORMATS
from minicaffe.testing.kernel_cases import channels, implicit_gemm, pooling
from minicaffe.testing.kernel_cases.case import KernelCase, Sizes, Values, normal, output, uniform
from minicaffe.testing.kernel_cases.halves import ROUNDINGS
from minicaffe.testing.kernel_cases.windows import window

UNITS = {"fp16": 2.0**-11, "bf16": 2.0**-8}
"""How far the nearest number may be, of a number's size."""

KEPT = {
    "convolve": (0, 3),
    "convolve_data_grad": (0, 2),
    "convolve_weight_grad": (0, 1),
    "standardize": (0, 5, 6),
    "standardize_grad": (0, 1, 6, 7),
    "scale": (0, 3, 4),
    "scale_grad": (0, 1, 3),
    "max_pool": (0, 1),
    "max_pool_grad": (0, 2),
    "average_pool": (0, 1),
    "average_pool_grad": (0, 1),
    "stochastic_pool": (0, 2),
    "stochastic_pool_mean": (0, 1),
}
"""Which arguments are arrays of 16 bits, those of layers' bottoms and tops."""


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package.  The formats differ in their conversions alone, so half of the kernels are tried with each."""
    for shape in ((2, 3, 33), *([(4, 32, sizes.large // 128)] if sizes.large else [])):
        for case in channels.standardize_cases(shape):
            yield kept(case, "bf16", KEPT[case.op])
            if case.op == "standardize_grad":
                yield kept(case, "bf16", (0, 6, 7))
        for op in ("bias_add", "bias_grad"):
            yield kept(KernelCase(op, (normal(*shape), normal(shape[1]))), "fp16", (0,))
    for case in pooling.layer_cases((2, 3, 5, 7), (2, 3, 2, 3), window(3, 2)):
        yield kept(case, "bf16", KEPT[case.op])
    for case in pooling.layer_cases((2, 3, 5, 4), (2, 3, 6, 3), window((2, 3), (1, 2), (1, 1))):
        yield kept(case, "bf16", KEPT[case.op][:1])
    for name in FORMATS:
        for case in implicit_gemm.layer_cases(implicit_gemm.SMALL, name):
            yield kept(case, name, KEPT[case.op])
    yield from _columns("fp16")
    yield from _formulas(sizes.large or 257)


def kept(case: KernelCase, name: str, numbers: Sequence[int], factors: Sequence[int] = ()) -> KernelCase:
    """The case with the arguments ``numbers`` kept in a format; ``factors`` are those that the op rounds by itself."""
    rounded, halves = ROUNDINGS[name], FORMATS[name]
    stored = [i for i in numbers if i < len(case.args) and case.args[i] is not None]

    def expected(*args: Any) -> None:
        before = [arg.copy() if i in factors else arg for i, arg in enumerate(args)]
        for i in (*stored, *factors):
            _each(before[i], lambda array: np.copyto(array, rounded(array)))
        case.compute(before)

    def run(backend: Any, *args: Any) -> None:
        def copied(array: Any) -> Any:
            copy = backend.zeros(array.shape, halves.dtype)
            backend.ops.elementwise(_same, (array,), (), copy)
            return copy

        inner = [_mapped(copied, arg) if i in stored else arg for i, arg in enumerate(args)]
        case.call(backend, inner)
        for i in stored:
            for array, copy in zip(_listed(args[i]), _listed(inner[i]), strict=True):
                backend.ops.elementwise(_same, (copy,), (), array)

    args = tuple(_mapped(_of_float32, arg) for arg in case.args)
    told = f"{case.name.removeprefix(case.op).strip()}, arguments {', '.join(map(str, stored))} in {name}"
    return dataclasses.replace(
        case, args=args, label=told, reference=expected, run=run, narrow=tuple(stored), unit=UNITS[name]
    )


def _columns(name: str) -> Iterator[KernelCase]:
    """Matrix products, and convolutions that are such, by columns or without."""
    product = KernelCase("gemm", (normal(70, 33), normal(31, 70), output(33, 31), True, True))
    yield kept(product, name, (0, 1, 2))
    yield kept(product, "bf16", (0, 1, 2))
    yield kept(product, name, (1, 2), factors=(0,))
    yield kept(product, name, (0, 1))
    for kernel, group in ((3, 1), (1, 2)):
        win, side, space = window(kernel, 1, kernel // 2), (5, 6), output(4000)
        x, y, w = normal(2, 4, *side), normal(2, 6, *side), normal(6, 4 // group, kernel, kernel)
        label = f"kernel {kernel} group {group}"
        for op, args, at, factors in (
            ("convolve", (x, w, None, output(*y.shape), win, group, space, 0.25), 6, (1,)),
            ("convolve_data_grad", (y, w, output(*x.shape), win, group, space), 5, (1,)),
            ("convolve_weight_grad", (x, y, w, win, group, space, True), 5, ()),
        ):
            yield kept(KernelCase(op, args, label, unlike=(at,)), name, KEPT[op], factors)


def _formulas(count: int) -> Iterator[KernelCase]:
    """With all arrays of 16 bits, and with some."""
    x, y, c = normal(3, 4, count // 12 + 1), normal(3, 4, count // 12 + 1), uniform(1, 3, 4)
    plain = KernelCase("elementwise", (_weighted, [x, y], (0.5, 3.0), output(*x.shape)), f"of {count}")
    by_channel = KernelCase("channelwise", (_shifted, [x], [c], (0.5,), output(*x.shape)), f"of {count}")
    total = KernelCase("channel_sum", (_shifted, [x], [c], (0.5,), normal(4)), f"of {count}")
    for case, numbers in ((plain, (1, 3)), (plain, (3,)), (by_channel, (1, 4)), (by_channel, (1,)), (total, (1,))):
        yield kept(case, "fp16", numbers)


def _same(x):
    return x


def _weighted(x, y, p, q):
    return p * x + q * y


def _shifted(x, c, p):
    return (x - p) * c


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _mapped(function: Any, value: Any) -> Any:
    return [function(item) for item in value] if isinstance(value, list) else function(value)


def _each(value: Any, change: Any) -> None:
    for array in _listed(value):
        change(array)


def _of_float32(arg: Any) -> Any:
    """What is drawn in the dtype of the case is drawn in float32."""
    plain = isinstance(arg, Values) and arg.dtype is None
    return dataclasses.replace(arg, dtype=np.float32) if plain else arg
