"""Softmax, losses, accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaffe.kernels import reference
from minicaffe.testing.kernel_cases.case import (
    KernelCase,
    Shape,
    Sizes,
    Values,
    labels,
    normal,
    output,
    rounded,
    scalar,
    uniform,
)

SCORES = [(1, 1, 1), (5, 10, 1), (3, 300, 1), (2, 4, 35), (1, 1000, 3), (70, 3, 2)]
NORMALIZATIONS = (reference.FULL, reference.VALID, reference.BATCH_SIZE, reference.NONE)
WEIGHT = scalar(0.5)


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    edges: list[Shape] = [shape for size in sizes.edges for shape in ((3, size, 1), (2, 5, size), (size, 5, 1))]
    large: list[Shape] = [(8, 16, sizes.large // 128), (sizes.large // 1000, 1000, 1)] if sizes.large else []
    for shape in [*SCORES, *edges, *large]:
        yield KernelCase("softmax", (normal(*shape, scale=10), output(*shape)))
        yield KernelCase("softmax_grad", (uniform(0, 1, *shape), normal(*shape), output(*shape)))
        for ignored in (None, 0, 255, -1) if shape in SCORES else (None, 0):
            yield from _of_scores(shape, ignored)
    for size in [*sizes.edges, *([sizes.large] if sizes.large else [])]:
        for ignored in (None, 1):
            yield from _of_targets(size, ignored)
        yield from _of_labels((size, 5) if size != sizes.large else (size // 8, 8))
        yield from _of_differences((size, 3) if size != sizes.large else (size // 8, 8))
    for shape in ((5, 10), (300, 20)):
        yield from _of_labels(shape)
    for shape in ((1, 1), (64, 2), (5, 700), (4, 2000)):
        yield from _of_differences(shape)
    args = (uniform(0, 1, 2, 3, 1), labels(1, 2, 1), None, scalar(2), output())
    yield KernelCase("softmax_loss", args, "of NaN", prepare=_nan)


def _nan(prob: Any, *_: Any) -> None:
    prob.fill(np.nan)


def _some_zero(prob: Any, *_: Any) -> None:
    """A probability of 0, whose logarithm is bounded."""
    prob.reshape(-1)[:1] = 0


def _of_scores(shape: Shape, ignored: int | None) -> Iterator[KernelCase]:
    outer, classes, inner = shape
    prob, label = uniform(0, 1, *shape), labels(classes, outer, inner, first=(0, 255, -1))
    label_for_loss = labels(classes, outer, inner, first=(0, 0, 255 if ignored == 255 else -1 if ignored == -1 else 0))
    note = f"{'x'.join(map(str, shape))}, ignore {ignored}"
    bad = Values((), lambda rng, size: np.array(-1), np.int32)
    yield KernelCase("check_labels", (label, classes, ignored, bad), note)
    for how in NORMALIZATIONS:
        yield KernelCase("loss_normalizer", (label, outer, ignored, how, output()), f"{note}, normalization {how}")
    args: tuple = (prob, label, ignored, scalar(7), output())
    yield KernelCase("softmax_loss", args, note, _some_zero)
    args = (prob, label_for_loss, ignored, scalar(7), WEIGHT, output(*shape))
    yield KernelCase("softmax_loss_grad", args, note)
    for gamma in (0.5, 2):
        args = (prob, label_for_loss, 0.25, gamma, ignored, scalar(7), output())
        yield KernelCase("focal_loss", args, f"{note}, gamma {gamma}", _some_zero)
        args = (prob, label_for_loss, 0.25, gamma, ignored, scalar(7), WEIGHT, output(*shape))
        yield KernelCase("focal_loss_grad", args, f"{note}, gamma {gamma}", _some_zero)
    for top_k in (1, 3):
        args = (rounded(*shape, scale=2), label, top_k, ignored, output(), output(classes), output(classes))
        yield KernelCase("accuracy", args, f"{note}, top {top_k}")
    if classes <= 1000:
        gain = uniform(0, 1, classes, classes)  # terms that cancelled would leave few right digits
        args = (prob, label, gain, ignored, scalar(7), output())
        yield KernelCase("infogain_loss", args, note, _some_zero)
        args = (prob, label, gain, ignored, scalar(7), WEIGHT, output(*shape))
        yield KernelCase("infogain_loss_grad", args, note, _some_zero)


def _of_targets(size: int, ignored: int | None) -> Iterator[KernelCase]:
    x, target = normal(size, scale=10), labels(2, size, first=(0.3,))
    note = f"{size}, ignore {ignored}"
    yield KernelCase("sigmoid_loss", (x, target, ignored, scalar(7), output()), note)
    yield KernelCase("sigmoid_loss_grad", (x, target, ignored, scalar(7), WEIGHT, output(size)), note)


def _of_labels(shape: Shape) -> Iterator[KernelCase]:
    x, label, note = normal(*shape), labels(shape[1], shape[0], first=(0, -1, 2000)), "x".join(map(str, shape))
    prob = uniform(0, 1, *shape)
    yield KernelCase("multinomial_loss", (prob, label, output()), note, _some_zero)
    yield KernelCase("multinomial_loss_grad", (prob, label, WEIGHT, output(*shape)), note, _some_zero)
    for squared in (False, True):
        how = f"{note}{', squared' if squared else ''}"
        yield KernelCase("hinge_loss", (x, label, squared, output(*shape), output()), how)
        yield KernelCase("hinge_loss_grad", (prob, label, squared, WEIGHT, output(*shape)), how)


def _of_differences(shape: Shape) -> Iterator[KernelCase]:
    a, note, out = normal(*shape, scale=1 / shape[1]), "x".join(map(str, shape)), output(*shape)
    yield KernelCase("euclidean_loss", (normal(*shape), normal(*shape), out, output()), note)
    yield KernelCase("euclidean_loss_grad", (normal(*shape), scalar(0.3), -1.0, out), note)
    similar = labels(2, shape[0], first=(0,))
    for legacy in (False, True):
        how = f"{note}{', legacy' if legacy else ''}"
        args: tuple = (a, a, similar, 0.9, legacy, out, output(shape[0]), output())
        yield KernelCase("contrastive_loss", args, how, _meet)
        args = (a, uniform(0, 1, shape[0]), similar, 0.9, legacy, scalar(0.3), -1.0, out)
        yield KernelCase("contrastive_loss_grad", args, how, _measure)


def _meet(a: Any, b: Any, *_: Any) -> None:
    """A pair at distance 0."""
    b[0] = a[0]


def _measure(difference: Any, distance: Any, *_: Any) -> None:
    """The squared lengths of the differences, of which one is 0."""
    difference[0] = 0
    distance[...] = (difference**2).sum(axis=1)
