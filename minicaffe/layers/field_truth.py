"""Ground truth at each cell of a map, as MS-CNN and Cascade R-CNN have it, and what must fit to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.fields import Fields, planes_last
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer


class Truth(NamedTuple):
    """What the maps (N, 6, H, W) of a data layer tell of each cell, N H W of them."""

    labels: NDArray
    """Classes; 0 for none."""
    boxes: NDArray
    """(N, H, W, 4): middle, width and height."""
    overlaps: NDArray
    """Of the field with what it overlaps most."""

    @classmethod
    def of(cls, layer: Layer, blob: Blob) -> Truth:
        """An error of the layer's unless all are numbers, the labels whole ones."""
        maps = blob.data
        layer.require(not np.isnan(maps).any(), "the ground truth must be numbers; found NaN")
        layer.require_whole(maps[:, 0], "the labels in the ground truth")
        return cls(maps[:, 0].astype(int), planes_last(maps[:, 1:5]), maps[:, 5])


def expect_truth(layer: Layer, scores: Blob, truth: Blob) -> None:
    """In ``reshape``: a ShapeError unless the ground truth is maps (N, 6, H, W) of the size of the scores'."""
    good = len(scores.shape) == 4 and truth.shape == (scores.shape[0], 6, *scores.shape[2:])
    layer.require(
        good,
        f"the ground truth must be (N, 6, H, W) where the maps are (N, C, H, W); found {truth.shape_string} and "
        f"{scores.shape_string}",
        kind=ShapeError,
    )


def check_field_options(layer: Any) -> None:
    """In ``check_options`` of layers of one field: an error of the layer's unless its size is given."""
    layer.require(layer.coord_num == 4, f"must be 4; found {layer.coord_num}", "coord_num")
    for field in ("field_h", "field_w", "downsample_rate"):
        layer.require(getattr(layer, field) > 0, "must be given, and positive", field)


def field_of(layer: Any, bottom: Sequence[Blob]) -> Fields:
    """In ``reshape`` of such layers: their field; a ShapeError unless the bottoms are maps (N, C + 4, H, W) of scores
    and codes, and ground truth.
    """
    expect_truth(layer, bottom[0], bottom[1])
    layer.require(
        bottom[0].shape[1] == layer.cls_num + 4,
        f"the maps must have cls_num + 4 channels, {layer.cls_num + 4}; found {bottom[0].shape_string}",
        "cls_num",
        ShapeError,
    )
    return Fields([layer.field_w], [layer.field_h], layer.downsample_rate)


def expect_groups(layer: Layer, fields: Fields, bottom: Sequence[Blob]) -> None:
    """In ``reshape``: a ShapeError unless the bottoms are scores (N A, C, H, W), codes and ground truth of A fields."""
    scores, codes, truth = bottom
    expect_truth(layer, scores, truth)
    layer.require(
        codes.shape == (scores.shape[0], 4, *scores.shape[2:]) and scores.shape[0] % len(fields) == 0,
        f"of {len(fields)} fields scores must be (N {len(fields)}, C, H, W) and codes (N {len(fields)}, 4, H, W); "
        f"found {scores.shape_string} and {codes.shape_string}",
        kind=ShapeError,
    )
    classes = layer.cls_num  # type: ignore[attr-defined]
    layer.require(
        scores.shape[1] == classes,
        f"the scores must have cls_num channels, {classes}; found {scores.shape_string}",
        "cls_num",
        ShapeError,
    )
