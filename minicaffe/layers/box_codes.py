"""Codes of boxes in layers of MS-CNN and Cascade R-CNN: how they are normalised, and which blobs hold rows of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.fields import Scaling
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer


class Rowed(Layer):
    """Base of layers that take rows: of boxes, of what belongs to each."""

    def expect_rows(self, what: str, blob: Blob, *widths: int) -> None:
        """In ``reshape``: a ShapeError unless the blob is rows of one of these widths."""
        good = len(blob.shape) >= 2 and blob.shape[1] in widths and blob.count == blob.shape[0] * blob.shape[1]
        wanted = " or ".join(map(str, widths))
        self.require(
            good, f"the {what} must be rows of {wanted}, (R, {wanted}); found {blob.shape_string}", kind=ShapeError
        )

    def expect_as_many(self, *blobs: Blob) -> None:
        """In ``reshape``: a ShapeError unless the blobs have equally many rows."""
        found = ", ".join(blob.shape_string for blob in blobs)
        self.require(
            len({blob.shape[:1] for blob in blobs}) == 1,
            f"bottoms must have equally many rows; found {found}",
            kind=ShapeError,
        )

    def numbers(self, what: str, values: NDArray) -> NDArray:
        """In ``forward``: the values, which must be numbers."""
        self.require(not np.isnan(values).any(), f"the {what} must be numbers; found NaN")
        return values


class Coded(Rowed):
    """Base of layers that read ``bbox_reg_param``: ``bbox_mean`` and ``bbox_std`` (four of each, or neither), by which
    the codes of boxes are normalised, and ``cls_aware`` (true), whether each class has boxes of its own."""

    common_params: ClassVar[Sequence[str]] = ("bbox_reg_param",)
    bbox_mean: Sequence[float]
    bbox_std: Sequence[float]
    cls_aware: bool

    def check_options(self) -> None:
        counts = len(self.bbox_mean), len(self.bbox_std)
        self.require(
            counts in ((0, 0), (4, 4)), f"give four bbox_mean and four bbox_std; found {counts[0]} and {counts[1]}"
        )
        for field, good in (("bbox_mean", isfinite), ("bbox_std", lambda value: isfinite(value) and value > 0)):
            values = getattr(self, field)
            self.require(all(map(good, values)), f"must be positive numbers; found {list(values)}", field)

    def scaling(self) -> Scaling:
        """How codes are normalised."""
        mean, deviation = self.bbox_mean or (0,) * 4, self.bbox_std or (1,) * 4
        return Scaling(np.array(mean, self.dtype), np.array(deviation, self.dtype))


def rows(blob: Blob) -> NDArray:
    """The values of a blob (R, C, 1, …) as (R, C), on the host."""
    return blob.data.reshape(blob.shape[:2])


def put_rows(blob: Blob, values: NDArray) -> None:
    """Make the blob (R, C, 1, 1) of these values (R, C)."""
    blob.reshape(*values.shape, 1, 1)
    blob.data[...] = values.reshape(blob.shape)
