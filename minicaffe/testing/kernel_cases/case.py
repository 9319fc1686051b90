"""One call of a primitive, the values of its arguments, and how its results are compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe.kernels import reference

Shape = tuple[int, ...]

TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 1e-12}
"""Relative to the largest finite number of an array; integers and random numbers must be equal."""

_BLOCK = 999_983  # a prime: no row of a matrix is like the one before
POISON = -0x5A5A5A5B
"""What an integer array holds that has yet to be written; a float then is NaN."""


class Sizes(NamedTuple):
    """How large arrays are: ``edges`` are lengths to try one by one, ``large`` the elements of the largest arrays, or
    0.
    """

    edges: tuple[int, ...]
    large: int = 0


class Output(np.ndarray):
    """An array that the call has to fill wholly: it holds NaN, or ``POISON``, and no ``prepare`` may change it."""


@dataclass(frozen=True)
class Values:
    """How to draw an array of ``shape``, in the dtype of the case unless it has one of its own."""

    shape: Shape
    draw_as: Callable[[np.random.Generator, Shape], NDArray]
    dtype: DTypeLike | None = None

    def draw(self, rng: np.random.Generator, dtype: np.dtype) -> NDArray:
        """The array, C-contiguous.  A large one repeats a block of numbers: to draw them all would take too long."""
        wanted, count = dtype if self.dtype is None else np.dtype(self.dtype), math.prod(self.shape)
        if count > 2 * _BLOCK:
            block = np.asarray(self.draw_as(rng, (_BLOCK,))).astype(wanted)
            whole = np.resize(block, self.shape)
            return whole.view(Output) if isinstance(block, Output) else whole
        # ascontiguousarray would make a scalar one-dimensional
        return np.asanyarray(self.draw_as(rng, self.shape)).astype(wanted, order="C")


def normal(*shape: int, scale: float = 1.0) -> Values:
    """From N(0, scale^2)."""
    return Values(shape, lambda rng, size: scale * rng.standard_normal(size))


def uniform(low: float, high: float, *shape: int) -> Values:
    """From U[low, high)."""
    return Values(shape, lambda rng, size: rng.uniform(low, high, size))


def rounded(*shape: int, scale: float = 1.0, least: float = -np.inf) -> Values:
    """Integers near 0, many of them equal, none below ``least``."""
    return Values(shape, lambda rng, size: np.maximum(np.round(scale * rng.standard_normal(size)), least))


def labels(classes: int, *shape: int, first: Sequence[float] = ()) -> Values:
    """Integers in 0 .. classes - 1, and ``first`` in front."""

    def draw(rng: np.random.Generator, size: Shape) -> NDArray:
        values = rng.integers(0, classes, size).astype(np.float64)
        values.reshape(-1)[: len(first)] = first[: values.size]
        return values

    return Values(shape, draw)


def scalar(value: float) -> Values:
    """An array of shape () that holds ``value``."""
    return Values((), lambda rng, size: np.array(value))


def output(*shape: int, dtype: DTypeLike | None = None) -> Values:
    """An ``Output``."""
    poison = np.nan if dtype is None else POISON
    return Values(shape, lambda rng, size: np.full(size, poison).view(Output), dtype)


def _default(name: str) -> Callable[..., None]:
    return getattr(reference, name)


@dataclass(frozen=True)
class KernelCase:
    """``op(*args)``, where args are numbers, ``Values``, lists of these, or whatever else the op takes.

    ``prepare`` gets the drawn arguments and may change them, where one depends on another.  ``reference`` computes what
    is expected, in place; ``run`` does so on a backend.  ``unlike`` numbers arguments whose contents do not matter,
    ``narrow`` those that the backend keeps in numbers of which the nearest is as far as ``unit``, of their size.
    """

    op: str
    args: tuple
    label: str = ""
    prepare: Callable[..., None] | None = None
    reference: Callable[..., None] | None = None
    run: Callable[..., None] | None = None
    unlike: tuple[int, ...] = ()
    exact: bool = False
    narrow: tuple[int, ...] = ()
    unit: float = 0.0

    @property
    def name(self) -> str:
        """The op and what it is given, for people."""
        return " ".join(filter(None, (self.op, self.label or ", ".join(filter(None, map(_told, self.args))))))

    def renamed(self, name: str) -> KernelCase:
        """The same case under a name of its own."""
        return dataclasses.replace(self, label=name.removeprefix(self.op).strip())

    def suits(self, dtype: DTypeLike) -> bool:
        """Whether the case is one of this dtype: numbers of 16 bits stand for float32 alone."""
        return not self.narrow or np.dtype(dtype) == np.float32

    def draw(self, dtype: DTypeLike) -> list[Any]:
        """The arguments, arrays in ``dtype``; always the same."""
        rng = np.random.default_rng(list(self.op.encode()))
        drawn = [_drawn(arg, rng, np.dtype(dtype)) for arg in self.args]
        if self.prepare is not None:
            self.prepare(*drawn)
        return drawn

    def expected(self, args: Sequence[Any]) -> list[Any]:
        """Copies of the arguments after the reference has run on them."""
        copies = [on_arrays(np.array, arg) for arg in args]
        self.compute(copies)
        return copies

    def compute(self, args: Sequence[Any]) -> None:
        """Run the reference on the arguments."""
        (self.reference or _default(self.op))(*args)

    def call(self, backend: Any, args: Sequence[Any]) -> None:
        """Run it on ``backend``, on arrays of that."""
        if self.run is not None:
            self.run(backend, *args)
        else:
            getattr(backend.ops, self.op)(*args)

    def disagreement(self, want: Sequence[Any], got: Sequence[Any]) -> str | None:
        """The first difference between two lists of arguments after a call, or None."""
        for number, (w, g) in enumerate(zip(want, got, strict=True)):
            if isinstance(w, np.ndarray) and number not in self.unlike:
                problem = disagreement(w, g, self.exact, self.unit if number in self.narrow else 0.0)
                if problem:
                    return f"argument {number}, {problem}"
        return None


def disagreement(want: NDArray, got: NDArray, exact: bool = False, unit: float = 0.0) -> str | None:
    """Where and by how much an array differs from what is expected, or None; NaN equals NaN.

    Numbers may have been rounded by ``unit`` of their size.
    """
    tolerance = 0.0 if exact else TOLERANCE.get(want.dtype, 0.0)
    if _clearly_right(want, got, tolerance):
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        if tolerance:
            finite = np.isfinite(want)
            limit = tolerance * (np.abs(want) + np.abs(want[finite]).max(initial=0)) + unit * np.abs(want)
            right = (want == got) | (np.abs(want - got) <= limit) | (np.isnan(want) & np.isnan(got))
        else:
            right = (want == got) | ((want != want) & (got != got))
    if right.all():
        return None
    wrong = np.flatnonzero(~np.atleast_1d(right))
    at = np.unravel_index(wrong[0], want.shape) if want.ndim else ()
    place = f" at {[int(i) for i in at]}" if want.ndim else ""
    return (
        f"shape {want.shape}, {want.dtype}: {wrong.size} of {want.size} elements differ, first{place}: "
        f"found {got[at]:.9g}, expected {want[at]:.9g}"
    )


def _clearly_right(want: NDArray, got: NDArray, tolerance: float) -> bool:
    """Whether a quick look is enough: all finite, and no difference above the tolerance of the largest number."""
    if not want.size or np.array_equal(want, got):
        return True
    if not tolerance:
        return False
    with np.errstate(invalid="ignore", over="ignore"):
        largest = max(want.max(), -want.min())
        apart = want - got
        return bool(np.isfinite(largest) and max(apart.max(), -apart.min()) <= tolerance * largest)


def on_arrays(convert: Callable[[NDArray], Any], value: Any) -> Any:
    """``convert`` applied to an array or to a list of arrays; anything else as it is."""
    if isinstance(value, list):
        return [on_arrays(convert, item) for item in value]
    return convert(value) if isinstance(value, np.ndarray) else value


def _drawn(arg: Any, rng: np.random.Generator, dtype: np.dtype) -> Any:
    if isinstance(arg, list):
        return [_drawn(item, rng, dtype) for item in arg]
    return arg.draw(rng, dtype) if isinstance(arg, Values) else arg


def _told(arg: Any) -> str:
    """An argument in short."""
    if isinstance(arg, Values):
        return "x".join(map(str, arg.shape))
    if isinstance(arg, list):
        return "+".join(filter(None, map(_told, arg)))
    return getattr(arg, "__name__", "") if callable(arg) else "" if isinstance(arg, tuple) else str(arg)
