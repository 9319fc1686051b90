"""What exporters of losses share: labels, the values at them, and what a loss is divided by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from minicaffe import proto
from minicaffe.kernels.reference import BATCH_SIZE, FULL, VALID
from minicaffe.onnx.sizes import Size
from minicaffe.onnx.writer import Writer

LEAST_NORMAL = float(np.finfo(np.float32).tiny)


@dataclass
class Classes:
    """Scores seen as (outer, classes, inner), and one label for each position: (outer, 1, inner)."""

    w: Writer
    sizes: tuple[Size | int, Size | int, Size | int]
    scores: str
    label: str
    ignored: int | None = None

    @classmethod
    def about(cls, w: Writer, axis: int, ignored: int | None = None, scores: int = 0, flat: bool = False) -> Classes:
        """Bottom ``scores`` around an axis, with the labels of bottom 1; ``flat``: with the axes behind it."""
        shape, start = w.bottom[scores], w.axis(axis, scores)
        inner = shape.span(len(shape) if flat else start + 1)
        sizes = (shape.span(0, start), shape.span(start, None if flat else start + 1), inner)
        label = w.reshape(w.x[1], [sizes[0], 1, inner], w.bottom[1])
        return cls(w, sizes, w.reshape(w.x[scores], list(sizes), shape), label, ignored)

    @property
    def right(self) -> str:
        """Whether the class is that of the label, (outer, classes, inner)."""
        w, classes = self.w, self.sizes[1]
        count = classes.number if isinstance(classes, Size) else classes
        return w.op("Equal", self.label, w.floats(np.arange(count)[:, None], "classes"))

    def at_label(self, values: str) -> str:
        """The values at the labels, (outer, 1, inner); 0 where the label is no class."""
        return self.w.sum(self.w.where(self.right, values, self.w.number(0)), [1], keep=True)

    @property
    def counts(self) -> str | None:
        """Whether the label of a position counts; None if all do."""
        if self.ignored is None:
            return None
        return self.w.op("Not", self.w.op("Equal", self.label, self.w.number(self.ignored)))

    def counted(self, terms: str) -> str:
        """The terms of positions (outer, 1, inner), 0 where the label is ignored."""
        counts = self.counts
        return terms if counts is None else self.w.where(counts, terms, self.w.number(0))

    def total(self, terms: str) -> str:
        """The sum of the terms of all positions that count."""
        return self.w.sum(self.counted(terms))


def logarithm(w: Writer, x: str, least: float) -> str:
    """log(max(x, least))."""
    return w.op("Log", w.op("Max", x, w.number(least)))


def divisor(w: Writer, label: str, outer: Size | int, ignored: int | None) -> str:
    """What ``loss_param.normalization`` says to divide by, at least 1; ``label`` has ``outer`` positions on axis 0."""
    how = w.layer.normalization
    if how == proto.LossParameter.PRE_FIXED:
        return w.number(max(w.layer.pre_fixed_normalizer, 1.0))
    if how == BATCH_SIZE:
        count = w.length(label, (0, outer))
    elif how == VALID and ignored is not None:
        count = w.sum(w.as_float(w.op("Not", w.op("Equal", label, w.number(ignored)))))
    elif how in (FULL, VALID):
        count = w.as_float(w.op("Size", label))
    else:
        return w.number(1)
    return w.op("Max", count, w.number(1))
