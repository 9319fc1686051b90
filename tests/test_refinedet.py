"""The two stages of RefineDet: DetectionOutput and MultiBoxLoss with predictions of the first one."""

from __future__ import annotations

import numpy as np
import pytest

from minicaffe import testing
from minicaffe.errors import DataError, LayerError

PRIORS, CLASSES = 24, 3
VARIANCES = np.array([0.1, 0.1, 0.2, 0.2])
OUTPUT = {"num_classes": CLASSES, "code_type": "CENTER_SIZE", "keep_top_k": 20, "confidence_threshold": 0.05,
          "nms_param": {"nms_threshold": 0.4, "top_k": 30}}  # fmt: skip
LOSS = {"num_classes": CLASSES, "code_type": "CENTER_SIZE", "overlap_threshold": 0.4, "mining_type": "MAX_NEGATIVE",
        "neg_overlap": 0.4, "neg_pos_ratio": 3.0, "use_prior_for_matching": True, "use_difficult_gt": True}  # fmt: skip


def drawn(items: int, seed: int = 0) -> dict:
    """Predictions of both stages, and priors."""
    rng = np.random.default_rng(seed)
    low, sides = rng.uniform(0, 0.7, (PRIORS, 2)), rng.uniform(0.1, 0.3, (PRIORS, 2))
    scores = rng.dirichlet(np.ones(CLASSES), (items, PRIORS))
    return {
        "codes": rng.normal(0, 1, (items, PRIORS, 4)),
        "scores": scores,
        "boxes": np.concatenate([low, low + sides], axis=1),
        "objectness": rng.uniform(0, 1, (items, PRIORS)),
        "moves": rng.normal(0, 1, (items, PRIORS, 4)),
    }


def blob_of(boxes: np.ndarray) -> np.ndarray:
    return np.stack([boxes.reshape(-1), np.tile(VARIANCES, len(boxes))])[None]


def first_stage(given: dict) -> list[np.ndarray]:
    items = len(given["codes"])
    both = np.stack([1 - given["objectness"], given["objectness"]], axis=-1)
    return [both.reshape(items, -1), given["moves"].reshape(items, -1)]


def moved(boxes: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Where codes of CENTER_SIZE say that boxes (P, 4) should lie, one by one."""
    result = np.zeros_like(boxes)
    for k, ((x0, y0, x1, y1), code) in enumerate(zip(boxes, codes, strict=True)):
        dx, dy, dw, dh = code * VARIANCES
        x, y = (x0 + x1) / 2 + dx * (x1 - x0), (y0 + y1) / 2 + dy * (y1 - y0)
        w, h = (x1 - x0) * np.exp(dw), (y1 - y0) * np.exp(dh)
        result[k] = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    return result


def test_detections_are_those_of_moved_priors_that_hold_objects():
    given = drawn(2)
    bottoms = [given["codes"].reshape(2, -1), given["scores"].reshape(2, -1), blob_of(given["boxes"])]
    found = testing.run(
        "DetectionOutput", [*bottoms, *first_stage(given)], phase="TEST", objectness_score=0.4, **OUTPUT
    )
    rows = []
    for n in range(2):
        scores = np.where(given["objectness"][n, :, None] >= 0.4, given["scores"][n], [1, 0, 0])
        alone = [
            given["codes"][n].reshape(1, -1),
            scores.reshape(1, -1),
            blob_of(moved(given["boxes"], given["moves"][n])),
        ]
        own = testing.run("DetectionOutput", alone, phase="TEST", **OUTPUT).tops[0][0, 0].copy()
        own[:, 0] = n
        rows.append(own)
    expected = np.concatenate(rows)
    assert len(expected) > 10 and (expected[:, 1] > 0).all()
    np.testing.assert_allclose(found.tops[0][0, 0], expected, rtol=1e-4, atol=1e-5)
    plain = testing.run("DetectionOutput", bottoms, phase="TEST", **OUTPUT).tops[0]
    assert plain.shape != found.tops[0].shape or abs(plain - found.tops[0]).max() > 0.01


def test_a_fourth_bottom_is_the_objectness_only_if_a_score_for_it_is_given():
    given = drawn(1)
    bottoms = [given["codes"].reshape(1, -1), given["scores"].reshape(1, -1), blob_of(given["boxes"])]
    images = testing.run("DetectionOutput", [*bottoms, np.zeros((1, 3, 8, 8))], phase="TEST", **OUTPUT).tops[0]
    np.testing.assert_array_equal(images, testing.run("DetectionOutput", bottoms, phase="TEST", **OUTPUT).tops[0])
    none = np.zeros((1, 2 * PRIORS))
    found = testing.run("DetectionOutput", [*bottoms, none], phase="TEST", objectness_score=0.5, **OUTPUT).tops[0]
    np.testing.assert_array_equal(found[0, 0], [[0, *[-1] * 6]])


def truth_near(boxes: np.ndarray, labels: list[int]) -> np.ndarray:
    """Ground truth of an item that lies where the first priors do."""
    rows = [[0, label, 0, *boxes[k], 0] for k, label in enumerate(labels)]
    return np.array(rows).reshape(1, 1, -1, 8)


def test_the_loss_is_that_of_moved_priors():
    given = drawn(1, seed=1)
    given["objectness"][:] = 0.5
    boxes = moved(given["boxes"], given["moves"][0])
    truth = truth_near(boxes, [1, 2])
    bottoms = [given["codes"].reshape(1, -1), given["scores"].reshape(1, -1)]
    both = testing.run("MultiBoxLoss", [*bottoms, blob_of(given["boxes"]), truth, *first_stage(given)], **LOSS)
    plain = testing.run("MultiBoxLoss", [*bottoms, blob_of(boxes), truth], **LOSS)
    np.testing.assert_allclose(both.tops[0], plain.tops[0], rtol=1e-4)
    for k in range(2):
        np.testing.assert_allclose(both.bottom_diffs[k], plain.bottom_diffs[k], rtol=1e-3, atol=1e-5)
    assert np.count_nonzero(plain.bottom_diffs[0]) >= 8


def test_negatives_are_priors_that_may_hold_objects():
    given = drawn(1, seed=2)
    given["moves"][:] = 0
    given["objectness"][:] = np.arange(PRIORS) % 2
    bottoms = [given["codes"].reshape(1, -1), given["scores"].reshape(1, -1), blob_of(given["boxes"])]
    truth = truth_near(given["boxes"], [1, 2])
    found = testing.run("MultiBoxLoss", [*bottoms, truth, *first_stage(given)], objectness_score=0.5, **LOSS)
    everywhere = testing.run("MultiBoxLoss", [*bottoms, truth], **LOSS)
    matched = found.bottom_diffs[0].reshape(PRIORS, 4).any(axis=1)
    used = found.bottom_diffs[1].reshape(PRIORS, CLASSES).any(axis=1)
    assert (used & ~matched).sum() == min(3 * matched.sum(), 11) and not (used & ~matched)[::2].any()
    assert (everywhere.bottom_diffs[1].reshape(PRIORS, CLASSES).any(axis=1) & ~matched)[::2].any()


def test_a_batch_may_be_empty():
    given = drawn(0)
    bottoms = [given["codes"].reshape(0, PRIORS * 4), given["scores"].reshape(0, PRIORS * CLASSES)]
    stage = [np.zeros((0, PRIORS * size)) for size in (2, 4)]
    truth = np.full((1, 1, 1, 8), -1.0)
    found = testing.run("MultiBoxLoss", [*bottoms, blob_of(drawn(1)["boxes"]), truth, *stage], **LOSS)
    assert found.tops[0] == 0


def test_two_classes_are_an_object_and_none():
    given = drawn(1, seed=3)
    bottoms = [given["codes"].reshape(1, -1), given["scores"][:, :, :2].reshape(1, -1), blob_of(given["boxes"])]
    options = {**LOSS, "num_classes": 2}
    many, one = (truth_near(given["boxes"], labels) for labels in ([20, 1, 7], [1, 1, 1]))
    found = testing.run("MultiBoxLoss", [*bottoms, many], objectness_score=0.01, **options)
    np.testing.assert_array_equal(found.tops[0], testing.run("MultiBoxLoss", [*bottoms, one], **options).tops[0])
    with pytest.raises(DataError, match="found the label 20"):
        testing.run("MultiBoxLoss", [*bottoms, many], **options)


@pytest.mark.parametrize("kind", ["DetectionOutput", "MultiBoxLoss"])
def test_what_does_not_fit_is_named(kind):
    given = drawn(2)
    bottoms = [given["codes"].reshape(2, -1), given["scores"].reshape(2, -1), blob_of(given["boxes"])]
    options, extra = (LOSS, [np.full((1, 1, 1, 8), -1.0)]) if kind == "MultiBoxLoss" else (OUTPUT, [])
    objectness, moves = first_stage(given)
    for first, problem in (
        ([objectness[:, 1:], moves], "number of objectness predictions: 48"),
        ([objectness, moves[:, 4:]], "number of first location predictions: 96"),
        ([objectness[:1], moves], "must be of 2 items, too; found 1 48"),
    ):
        with pytest.raises(LayerError, match=problem):
            testing.run(kind, [*bottoms, *extra, *first], **options)
    with pytest.raises(LayerError, match="must be true where priors are refined"):
        testing.run(kind, [np.tile(bottoms[0], 3), *bottoms[1:], *extra, objectness, moves], share_location=False,
                    **{**options, **({"mining_type": "NONE"} if extra else {})})  # fmt: skip
