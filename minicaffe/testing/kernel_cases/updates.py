"""Solver steps and clipping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaffe.testing.kernel_cases.case import KernelCase, Sizes, normal, output

UPDATES: list[tuple[str, int, tuple[float, ...]]] = [  # op, history arrays, numbers before scale, decay and l1
    ("sgd_update", 1, (0.1, 0.9)),
    ("nesterov_update", 1, (0.1, 0.9)),
    ("adagrad_update", 1, (0.1, 1e-3)),
    ("rmsprop_update", 1, (0.1, 0.9, 1e-3)),
    ("adadelta_update", 2, (0.1, 0.9, 1e-3)),
    ("adam_update", 2, (0.1, 0.9, 0.99, 1e-3)),
]


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    large = [sizes.large] if sizes.large else []
    for count in [*sizes.edges, *large]:
        for limit in (0.01, 1e6):
            yield KernelCase("clip_by_norm", (normal(count), limit, output()))
    for count in [0, *sizes.edges, *large]:
        for op, histories, numbers in UPDATES:
            for l1 in (False, True):
                args = (normal(count), normal(count), *[normal(count)] * histories, *numbers, 0.5, 0.01, l1)
                yield KernelCase(op, args, f"{count}{', L1' if l1 else ''}", _start)


def _start(w: Any, g: Any, *rest: Any) -> None:
    """Sums of squares are not negative, and a weight may be 0."""
    w[:1] = 0
    for history in rest:
        if isinstance(history, np.ndarray):
            np.abs(history, out=history)
