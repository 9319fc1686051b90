"""What the layers of an SSD read: prior boxes, predictions for each of them, and those of RefineDet's first stage
(Zhang et al. 2018): which prior boxes may hold an object, and where they really lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.priors import PriorBoxes
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer


def expect_priors(layer: Layer, priors: Blob) -> int:
    """The number P of boxes in the blob ``priors`` (1, 2, 4P); a ShapeError if it has another shape."""
    good = len(priors.shape) >= 3 and priors.shape[1] == 2 and priors.span(2) % 4 == 0 and priors.shape[0] == 1
    layer.require(good, f"the prior boxes must be (1, 2, 4P); found {priors.shape_string}", kind=ShapeError)
    return priors.span(2) // 4


def expect_predictions(layer: Layer, blob: Blob, count: int, what: str) -> None:
    """A ShapeError unless the blob has ``count`` predictions for each item."""
    layer.require(
        len(blob.shape) >= 1 and blob.span(1) == count,
        f"the number of priors must match the number of {what} predictions: {count} for each item; "
        f"found {blob.shape_string}",
        kind=ShapeError,
    )


def expect_first_stage(layer: Any, bottom: Sequence[Blob], items: int, count: int) -> None:
    """Errors unless the blobs are confidences (items, 2 count) and codes (items, 4 count), or the former alone."""
    layer.require(layer.share_location, "must be true where priors are refined", "share_location")
    layer.require(
        all(blob.shape[:1] == (items,) for blob in bottom),
        f"the first stage must be of {items} items, too; found {' and '.join(blob.shape_string for blob in bottom)}",
        kind=ShapeError,
    )
    for blob, each, what in zip(bottom, (2, 4), ("objectness", "first location"), strict=False):
        expect_predictions(layer, blob, count * each, what)


def may_hold_objects(layer: Any, confidences: Blob) -> NDArray:
    """Which priors have at least the layer's ``objectness_score`` for an object, (N, P); ``confidences`` (N, 2 P)."""
    objectness = confidences.data.reshape(confidences.shape[0], confidences.span(1) // 2, 2)[..., 1]
    layer.require(not np.isnan(objectness).any(), "the confidences of the first stage must be numbers; found NaN")
    return objectness >= np.float32(layer.objectness_score)


def refined(priors: PriorBoxes, codes: Blob) -> list[PriorBoxes]:
    """The prior boxes of each item, where its codes (N, 4 P) say that they lie."""
    return [priors.refined(moves) for moves in codes.data.reshape(codes.shape[0], len(priors), 4)]
