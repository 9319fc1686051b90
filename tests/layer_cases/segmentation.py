"""Layers of segmentation nets."""

from __future__ import annotations

import numpy as np

from layer_cases.case import Case, Values, integers, normal, uniform

MAPS = (((1, 3, 2, 3), (1, 1, 2, 3)), ((3, 3, 5, 6), (3, 1, 5, 6)))

MEANFIELD = {"spatial_filter_weights_str": "1 2 3", "bilateral_filter_weights_str": "2 1 0.5"}


def mask(pooled: int, *shape: int) -> Values:
    """What 2 x 2 max pooling gives as its mask for maps of width ``pooled``: places all different."""

    def draw(rng, size):
        rows, columns = np.mgrid[: size[2], : size[3]]
        down, right = rng.integers(0, 2, (2, *size))
        return ((2 * rows + down) * pooled + 2 * columns + right).astype(float)

    return Values(draw, shape)


CASES = [
    Case("BN", (normal(3, 2, 3, 4),), {"momentum": 0.8}, sizes=(((2, 2, 2, 2),), ((4, 2, 5, 6),))),
    Case("BN", (normal(4, 3),), {"eps": 0.01}, "flat"),
    Case(
        "BN",
        (normal(2, 3, 2, 4),),
        {"frozen": True},
        "frozen",
        params=(normal(1, 3, 1, 1), normal(1, 3, 1, 1), normal(1, 3, 1, 1), uniform(0.5, 2, 1, 3, 1, 1)),
        why_not={"gradient": "the params get none", "in_place": "the test asks for their gradients"},
    ),
    Case(
        "BN",
        (normal(2, 3, 2, 4),),
        {},
        "test",
        phase="TEST",
        params=(normal(1, 3, 1, 1), normal(1, 3, 1, 1), normal(1, 3, 1, 1), uniform(0.5, 2, 1, 3, 1, 1)),
    ),
    Case("BN", (normal(2, 3, 2, 4),), {"fork": "happynear"}, "happynear's"),
    Case(
        "BN",
        (normal(2, 3, 2, 4),),
        {"fork": "happynear"},
        "happynear's, test",
        phase="TEST",
        params=(normal(1, 3), normal(1, 3), normal(1, 3), uniform(0.5, 2, 1, 3)),
    ),
    Case(
        "BN",
        (normal(3, 2, 3, 4),),
        {"scale_filler": {"type": "constant", "value": 1.5}, "bn_mode": "LEARN"},
        "SegNet",
        sizes=(((2, 2, 2, 2),), ((4, 2, 5, 6),)),
    ),
    Case("BN", (normal(3, 2, 3, 4),), {"bn_mode": "INFERENCE"}, "SegNet's INFERENCE"),
    Case("Interp", (normal(2, 3, 4, 5),), {"height": 7, "width": 3}, sizes=(((1, 3, 2, 2),), ((3, 2, 6, 7),))),
    Case("Interp", (normal(2, 2, 3, 4),), {"zoom_factor": 3}, "zoom", sizes=(((1, 2, 1, 2),), ((3, 2, 4, 5),))),
    Case("Interp", (normal(2, 2, 9, 8),), {"shrink_factor": 2, "pad_beg": -1, "pad_end": -2}, "shrink, crop"),
    Case("Interp", (normal(2, 2, 3, 4),), {"interp_param": {"height": 5, "width": 7, "mode": "NEAREST"}}, "nearest"),
    Case(
        "Upsample",
        (normal(2, 3, 3, 4), mask(8, 2, 3, 3, 4)),
        {"scale": 2},
        "mask",
    ),
    Case(
        "Upsample",
        (normal(1, 2, 3, 4), mask(7, 1, 2, 3, 4)),
        {"upsample_h": 9, "upsample_w": 7},
        "mask of a size",
    ),
    Case(
        "MultiStageMeanfield",
        (normal(2, 3, 3, 4), normal(2, 3, 3, 4), uniform(0, 9, 2, 3, 3, 4)),
        {"num_iterations": 2, "theta_alpha": 4, "theta_beta": 3, "theta_gamma": 2, **MEANFIELD},
        params=(normal(1, 1, 3, 3), normal(1, 1, 3, 3), normal(1, 1, 3, 3)),
        sizes=(((1, 3, 2, 2),) * 3, ((1, 3, 4, 5),) * 3),
    ),
    Case("SegAccuracy", (normal(2, 3, 4, 5), integers(3, 2, 1, 4, 5)), sizes=MAPS),
    Case("SegAccuracy", (normal(2, 3, 4, 5), integers(3, 2, 1, 4, 5)), {"ignore_label": [1, 255]}, "ignoring",
         sizes=MAPS),
    Case("SpatialProduct", (normal(2, 3, 4, 5), normal(2, 1, 4, 5)), sizes=MAPS),
    Case("BiasChannel", (normal(2, 3, 2, 2), integers(3, 2, 2, 1, 1)), {"fg_bias": 3.5},
         sizes=(((1, 3, 1, 2), (1, 1, 1, 1)), ((3, 3, 4, 4), (3, 5, 1, 1)))),
    Case("UniqueLabel", (integers(4, 2, 1, 3, 3),), {"max_labels": 5},
         sizes=(((1, 1, 2, 2),), ((3, 1, 5, 5),))),
    Case("DiceCoefLoss", (uniform(0.1, 0.9, 1, 3, 4, 5), integers(3, 1, 1, 4, 5)), sizes=MAPS),
    Case("DiceCoefLoss", (uniform(0.1, 0.9, 1, 3, 4, 5), integers(3, 1, 1, 4, 5)),
         {"generalization": "MULTICLASS", "ignore_label": 0}, "ignoring", sizes=MAPS),
    Case("DiceCoefLoss", (uniform(0.1, 0.9, 2, 1, 4, 5), integers(2, 2, 1, 4, 5)), {}, "two classes",
         why_not={"gradient": "the fork's is N times as large"}),
    Case("SoftmaxWithLoss", (normal(2, 3, 4, 5), integers(3, 2, 1, 4, 5)),
         {"loss_param": {"weight_by_label_freqs": True, "class_weighting": [0.5, 2, 1.25]}}, "class weights", sizes=MAPS),
    Case("Dropout", (normal(2, 3, 4),), {"sample_weights_test": True}, "sampled in TEST", phase="TEST",
         why_not={"gradient": "a new mask at each pass", "parity": "each side draws its own"}),
]  # fmt: skip
