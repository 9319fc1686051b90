"""A declarative table of layers to test alone, by family: at least one case for every registered type."""

from __future__ import annotations

from layer_cases import (
    activation,
    cascades,
    channels,
    classification,
    common,
    data,
    detection,
    indexing,
    joins,
    loss,
    metric,
    neuron,
    normalisation,
    recurrent,
    reduction,
    regions,
    sampling,
    segmentation,
    sequence,
    utility,
    vision,
)
from layer_cases.case import Case

FAMILIES = (
    *(
        activation,
        cascades,
        channels,
        classification,
        common,
        data,
        detection,
        indexing,
        joins,
        loss,
        metric,
        neuron,
        normalisation,
        recurrent,
        reduction,
        regions,
        sampling,
        segmentation,
        sequence,
    ),
    *(utility, vision),
)
CASES: list[Case] = [case for family in FAMILIES for case in family.CASES]
