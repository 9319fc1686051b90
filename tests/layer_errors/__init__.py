"""A table of what each layer refuses, by family: at least one row for every check that a layer makes."""

from __future__ import annotations

from layer_errors import (
    activation,
    cascades,
    channels,
    classification,
    common,
    data,
    detection,
    joins,
    metric,
    normalisation,
    recurrent,
    regions,
    sampling,
    segmentation,
    sequence,
    utility,
    vision,
)
from layer_errors.row import Row

FAMILIES = (
    activation,
    cascades,
    channels,
    classification,
    common,
    data,
    detection,
    joins,
    metric,
    normalisation,
    recurrent,
    regions,
    sampling,
    segmentation,
    sequence,
    utility,
    vision,
)
ROWS: list[Row] = [row for family in FAMILIES for row in family.ROWS]
