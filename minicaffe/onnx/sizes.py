"""Sizes of axes, some of which change with the batch: known by what they are for several sizes of it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from minicaffe.errors import NetError


class NotFixed(NetError):
    """A size would have to be one number, and changes with the batch."""


@dataclass(frozen=True)
class Size:
    """The size of an axis in each of the nets that were looked at, which differ in one dynamic axis of the inputs each;
    the first is the net as it was given.
    """

    seen: tuple[int, ...]

    @property
    def fixed(self) -> bool:
        """Whether it is the same whatever the batch is."""
        return len(set(self.seen)) == 1

    @property
    def number(self) -> int:
        """The size; NotFixed if there is not one only."""
        if not self.fixed:
            raise NotFixed("a size that this layer needs as a number changes with the batch")
        return self.seen[0]

    def __mul__(self, other: Size | int) -> Size:
        return self._with(other, operator.mul)

    __rmul__ = __mul__

    def __add__(self, other: Size | int) -> Size:
        return self._with(other, operator.add)

    def __floordiv__(self, other: Size | int) -> Size:
        return self._with(other, operator.floordiv)

    def _with(self, other: Size | int, join: Callable[[int, int], int]) -> Size:
        others = other.seen if isinstance(other, Size) else (other,) * len(self.seen)
        return Size(tuple(map(join, self.seen, others)))


class Shape(tuple[Size, ...]):
    """The sizes of a blob."""

    @classmethod
    def of(cls, seen: Sequence[Sequence[int]]) -> Shape:
        """From the shapes of one blob in each of the nets."""
        return cls(Size(sizes) for sizes in zip(*seen, strict=True))

    def span(self, start: int = 0, end: int | None = None) -> Size | int:
        """The product of the sizes from axis ``start`` to ``end``; 1 if there are none."""
        return math.prod(self[start:end])

    @property
    def numbers(self) -> tuple[int, ...]:
        """The sizes as numbers; NotFixed if one changes."""
        return tuple(size.number for size in self)


def number(size: Size | int) -> int:
    """A size as a number; NotFixed if it changes."""
    return size.number if isinstance(size, Size) else size


def is_fixed(sizes: Iterable[Size | int]) -> bool:
    """Whether none of the sizes changes."""
    return all(size.fixed if isinstance(size, Size) else True for size in sizes)
