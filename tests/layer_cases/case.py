"""One case of a layer, and the values that its bottoms hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Values:
    """How to draw an array of ``shape``, or of another one."""

    draw_as: Callable[[np.random.Generator, Shape], NDArray]
    shape: Shape

    def draw(self, rng: np.random.Generator, shape: Shape | None = None) -> NDArray:
        return self.draw_as(rng, self.shape if shape is None else shape)


def normal(*shape: int, scale: float = 1.0) -> Values:
    """From N(0, scale^2)."""
    return Values(lambda rng, size: scale * rng.standard_normal(size), shape)


def uniform(low: float, high: float, *shape: int) -> Values:
    """From U[low, high]."""
    return Values(lambda rng, size: rng.uniform(low, high, size), shape)


def distinct(*shape: int) -> Values:
    """Numbers in [-1, 1], all equally far apart, in random order: no maximum changes place at a small step."""
    return Values(lambda rng, size: rng.permutation(np.linspace(-1, 1, int(np.prod(size)))).reshape(size), shape)


def integers(limit: int, *shape: int) -> Values:
    """Integers in 0 .. limit - 1: labels, indices, similar or not, selected or not."""
    return Values(lambda rng, size: rng.integers(0, limit, size).astype(float), shape)


@dataclass(frozen=True)
class Case:
    """A layer with bottoms, as ``minicaffe.testing`` takes them, and what does not apply to it.

    ``sizes`` are shapes of the bottoms, smaller and larger, that the same layer is reshaped to.  ``gradient`` holds
    options of ``check_gradient``.  ``files`` makes the files that the layer reads and gives the fields that name them.
    ``why_not`` says, for "gradient", "reshape", "in_place" or "parity", why that test means nothing for this case.
    """

    type: str
    bottoms: tuple[Values, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    variant: str = ""
    tops: int | tuple[str, ...] | None = None
    params: tuple[Values, ...] | None = None
    phase: str = "TRAIN"
    sizes: tuple[tuple[Shape, ...], ...] = ()
    gradient: dict[str, Any] = field(default_factory=dict)
    files: Callable[[Path], dict[str, Any]] | None = None
    why_not: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.type}-{self.variant}" if self.variant else self.type

    def draw(self, shapes: tuple[Shape, ...] | None = None) -> list[NDArray]:
        """The bottoms, of these shapes; always the same."""
        rng = np.random.default_rng(list(self.name.encode()))
        given: tuple[Shape | None, ...] = (None,) * len(self.bottoms) if shapes is None else shapes
        return [values.draw(rng, shape) for values, shape in zip(self.bottoms, given, strict=True)]

    def how(self, folder: Path) -> dict[str, Any]:
        """The keyword arguments of ``minicaffe.testing.run`` for this case; files go to ``folder``."""
        rng = np.random.default_rng(7)
        result: dict[str, Any] = {**self.fields, "tops": self.tops, "phase": self.phase}
        if self.params is not None:
            result["params"] = [values.draw(rng) for values in self.params]
        if self.files is not None:
            result |= self.files(folder)
        return result
