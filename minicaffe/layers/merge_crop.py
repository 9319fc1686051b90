"""MergeCrop: a map beside the middle of a larger one, as U-nets join what they saw on the way down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer


class MergeCrop(Layer):
    """Join a map and the middle of another one, which is at least as large (naibaf7/caffe; U-nets).

    Bottoms: a (N, C, …) and b (N, D, …).  Top: the size of a; with ``operation: STACK`` the C channels of a, then the D
    of b; with ADD their sums, where D = C.  What is taken of b starts ``(size of b - size of a) / 2`` pixels in, cut to
    an integer.  ``forward`` (true, true) says of a and b whether they count, or 0 in their place; ``backward`` (true,
    false) whether they get a gradient, or 0: b gets none unless it says so.
    naibaf7: with STACK and more channels in b than in a, the GPU code takes some of them from a.
    """

    type = "MergeCrop"
    param = "mergecrop_param"
    bottoms = 2
    reads_bottoms = reads_tops = ()
    per_element = 1
    operation: int

    STACK, ADD = range(2)

    def check_options(self) -> None:
        for field in ("forward", "backward"):
            given = self._values(field)
            self.require(len(given) <= 2, f"says something of two bottoms; found {len(given)} values", field)

    def _values(self, field: str) -> list[bool]:
        return list(getattr(self.layer_param.mergecrop_param, field))

    def _said(self, field: str, default: tuple[bool, bool]) -> tuple[bool, bool]:
        """What an option says of a and of b."""
        given = self._values(field)
        first, second = given + list(default[len(given) :])
        return first, second

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a, b = bottom
        found = f"found {a.shape_string} and {b.shape_string}"
        self.require(
            len(a.shape) == len(b.shape) >= 2 and a.shape[0] == b.shape[0],
            f"the inputs must have the same number of axes and items; {found}",
            kind=ShapeError,
        )
        self.require(
            all(small <= large for small, large in zip(a.shape[2:], b.shape[2:], strict=True)),
            f"bottom 1 must be at least as large as bottom 0; {found}",
            kind=ShapeError,
        )
        stacks = self.operation == self.STACK
        self.require(
            stacks or a.shape[1] == b.shape[1],
            f"ADD needs the same number of channels; {found}",
            "operation",
            ShapeError,
        )
        self.used, self.taught = self._said("forward", (True, True)), self._said("backward", (True, False))
        starts = [(large - small) // 2 for small, large in zip(a.shape[2:], b.shape[2:], strict=True)]
        self.middle = (
            *(slice(None), slice(None)),
            *(slice(start, start + size) for start, size in zip(starts, a.shape[2:], strict=True)),
        )
        self.whole = b.shape[2:] == a.shape[2:]
        top[0].reshape(a.shape[0], a.shape[1] + (b.shape[1] if stacks else 0), *a.shape[2:])

    def _parts(self, array: Any, channels: int) -> tuple[Any, Any]:
        """What of the top, or of its gradient, is a's and b's."""
        return (array[:, :channels], array[:, channels:]) if self.operation == self.STACK else (array, array)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        (a, b), y = (blob.xdata for blob in bottom), top[0].xdata
        of_a, of_b = self._parts(y, a.shape[1])
        of_a[...] = a if self.used[0] else 0
        if self.operation == self.STACK:
            of_b[...] = b[self.middle] if self.used[1] else 0
        elif self.used[1]:
            y += b[self.middle]

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        of_a, of_b = self._parts(top[0].xdiff, bottom[0].shape[1])
        if propagate_down[0]:
            bottom[0].xdiff[...] = of_a if self.taught[0] else 0
        if propagate_down[1]:
            db = bottom[1].xdiff
            if not (self.whole and self.taught[1]):
                db[...] = 0
            if self.taught[1]:
                db[self.middle] = of_b
