"""Solver steps and clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minicaffe.testing.kernel_cases.case import KernelCase, Output, Sizes, Values, normal, output

UPDATES: list[tuple[str, int, tuple[float, ...]]] = [  # op, history arrays, numbers before scale, decay and l1
    ("sgd_update", 1, (0.1, 0.9)),
    ("nesterov_update", 1, (0.1, 0.9)),
    ("adagrad_update", 1, (0.1, 1e-3)),
    ("rmsprop_update", 1, (0.1, 0.9, 1e-3)),
    ("adadelta_update", 2, (0.1, 0.9, 1e-3)),
    ("adam_update", 2, (0.1, 0.9, 0.99, 1e-3)),
]

LOSS_SCALES: dict[str, tuple[float, ...]] = {  # scale, steps it has served, after how many it doubles, steps left out
    "a loss scale that stays": (1024.0, 3, 0, 0),
    "one that doubles": (1024.0, 3, 4, 2),
    "one that doubles later": (1024.0, 3, 5, 2),
    "one that can double no more": (2.0**32, 3, 4, 2),
    "a loss scale of 1": (1.0, 0, 4, 2),
}


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    large = [sizes.large] if sizes.large else []
    for count in [*sizes.edges, *large]:
        for limit in (0.01, 1e6, -1.0):
            yield _scale_case(count, limit, None, f"{count}, at most {limit:g}")
        for inverse in (False, True):
            yield KernelCase("rescale", (normal(count), _given(1024.0, 3.0), inverse))
    count = sizes.edges[-1]
    for name, scaling in LOSS_SCALES.items():
        for found, prepare in (("", None), (", infinite", _infinite)):
            yield _scale_case(count, 0.5, _given(*scaling), f"{count}{found}, {name}", prepare)
    yield _scale_case(count, 0.5, None, "infinite", _infinite)
    for count in [0, *sizes.edges, *large]:
        for op, histories, (rate, *own) in UPDATES:
            for l1 in (False, True):
                arrays = [normal(count)] * (2 + histories)
                yield KernelCase(op, (*arrays, rate, *own, 0.5, 0.01, l1), f"{count}{', L1' if l1 else ''}", _start)
            for name, scale in (("", 0.5), (", nothing to step", np.nan)):
                numbers = (_table(count), *own, _given(scale), 0.01, True)
                yield KernelCase(
                    op, (*[normal(count)] * (2 + histories), *numbers), f"{count}, by a table{name}", _start
                )


def _scale_case(
    count: int, limit: float, loss_scale: Values | None, label: str, prepare: Callable[..., None] | None = None
) -> KernelCase:
    found = Values((), lambda rng, size: np.full(size, np.nan).view(Output), np.float64)
    return KernelCase("gradient_scale", (normal(count), limit, 0.5, loss_scale, output(), found), label, prepare)


def _given(*numbers: float) -> Values:
    """These, in float64; one alone as a scalar."""
    values = np.array(numbers if len(numbers) > 1 else numbers[0])
    return Values(values.shape, lambda rng, size: values.copy(), np.float64)


def _table(count: int) -> Values:
    """Three ranges of an array, one of them empty: where each ends, its rate, what multiplies its decay."""
    rows = np.array([(count // 3, 0.1, 1), (count // 3, 0.5, 2), (count, 0.2, 0.5)])
    return Values(rows.shape, lambda rng, size: rows.copy(), np.float64)


def _infinite(g: Any, *_: Any) -> None:
    g[-1] = np.inf


def _start(w: Any, g: Any, *rest: Any) -> None:
    """Sums of squares are not negative, and a weight may be 0."""
    w[:1] = 0
    for history in rest:
        if isinstance(history, np.ndarray):
            np.abs(history, out=history)
