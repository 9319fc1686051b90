"""What a pass through a layer takes at least: arithmetic and memory traffic, from what layer classes declare."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple

from minicaffe.blob import Blob


class Cost(NamedTuple):
    """Arithmetic and traffic of a pass.

    ``products``: FLOPs of matrix products, a multiplication and an addition being two.  ``operations``: all others,
    each addition, multiplication, comparison or function of an element being one.  ``bytes``: read and written.
    """

    products: float = 0.0
    operations: float = 0.0
    bytes: float = 0.0

    @property
    def flops(self) -> float:
        """All arithmetic."""
        return self.products + self.operations

    def plus(self, other: Cost) -> Cost:
        """This and then the other."""
        return Cost(*(a + b for a, b in zip(self, other, strict=True)))


class Costed:
    """Base of Layer: the costs of a pass through a layer that is set up.

    Classes declare ``per_element``, ``moves`` and, where these do not say it all, ``products`` and ``operations``.
    """

    per_element: ClassVar[float] = 1
    """FLOPs that forward takes for each element of the layer's largest blob, beside matrix products."""
    moves: ClassVar[bool] = True
    """Whether forward reads and writes its blobs; False if the tops are the bottoms' memory, or another's to fill."""

    blobs: Any
    param_propagate_down: list[bool]

    def products(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        """FLOPs of the matrix products that forward does."""
        return 0.0

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        """FLOPs that forward takes beside them."""
        return self.per_element * max((blob.count for blob in (*bottom, *top)), default=0)

    def gradient_products(self, bottom: Sequence[Blob], top: Sequence[Blob], propagate_down: Sequence[bool]) -> float:
        """FLOPs of the matrix products of backward: as many as forward for the weights, again for each wanted
        bottom.
        """
        weights = any(self.param_propagate_down[:1])
        each = self.products(bottom, top) / max(len(bottom), 1)
        return sum(each * (weights + down) for down in propagate_down)

    def forward_cost(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> Cost:
        """Forward reads bottoms and params, and writes tops."""
        moved = _size(bottom) + _size(self.blobs) + _size(top) if self.moves else 0.0
        return Cost(self.products(bottom, top), self.operations(bottom, top), moved)

    def backward_cost(self, bottom: Sequence[Blob], top: Sequence[Blob], propagate_down: Sequence[bool]) -> Cost:
        """Backward reads bottoms, params and the tops' gradients, writes the wanted gradients, and adds to those of
        params.

        For each wanted gradient of a bottom it takes as many ``operations`` as forward.
        """
        wanted = [blob for blob, down in zip(bottom, propagate_down, strict=True) if down]
        learning = [blob for blob, learns in zip(self.blobs, self.param_propagate_down, strict=False) if learns]
        moved = (
            _size(bottom) + _size(self.blobs) + _size(top) + _size(wanted) + 2 * _size(learning) if self.moves else 0.0
        )
        operations = self.operations(bottom, top) * (len(wanted) or bool(learning))
        return Cost(self.gradient_products(bottom, top, propagate_down), operations, moved)


def _size(blobs: Iterable[Blob]) -> float:
    """Bytes of the blobs' values."""
    return float(sum(blob.count * blob.dtype.itemsize for blob in blobs))
