"""Connectionist temporal classification against a sum over all paths, and the accuracy of sequences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minicaffe import testing
from minicaffe.layers.ctc import edit_distance


def loss_of_all_paths(x: np.ndarray, label: list[int], blank: int) -> float:
    """-log of the probability of every path of classes that collapses to the label, for scores x (T, C)."""
    prob = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    total = 0.0
    for path in itertools.product(range(x.shape[1]), repeat=len(x)):
        if [k for k, _ in itertools.groupby(path) if k != blank] == label:
            total += np.prod([prob[t, k] for t, k in enumerate(path)])
    return float(-np.log(total)) if total else 0.0


@pytest.mark.parametrize("blank", [0, 1, 2])
def test_the_loss_is_that_of_all_paths(blank):
    rng = np.random.default_rng(blank)
    x, labels = rng.standard_normal((5, 6, 3)), rng.integers(0, 3, (6, 4))
    labels[0] = blank
    labels[1] = (blank + 1) % 3  # four equal labels need seven steps
    found = testing.run("CtcLoss", [x, labels], dtype="float64", ctc_loss_param={"blank_label": blank})
    expected = [loss_of_all_paths(x[:, n], [k for k in labels[n] if k != blank], blank) for n in range(6)]
    np.testing.assert_allclose(found.tops[0], np.mean(expected), rtol=1e-12)
    assert expected[1] == 0 and not found.bottom_diffs[0][:, 1].any() and found.bottom_diffs[0][:, 0].any()


def test_steps_that_do_not_count_get_no_gradient():
    x = np.random.default_rng(1).standard_normal((5, 2, 3)).astype(np.float32)
    labels = np.array([[1, 0], [2, 1]], np.float32)
    short = testing.run("CtcLoss", [x, labels], ctc_loss_param={"time_step": 3})
    alone = testing.run("CtcLoss", [x[:3], labels])
    assert short.tops[0] == alone.tops[0]
    np.testing.assert_array_equal(short.bottom_diffs[0][:3], alone.bottom_diffs[0])
    assert not short.bottom_diffs[0][3:].any()


def test_the_decoder_tells_how_close_labels_are():
    x = np.eye(4, dtype=np.float32)[[[1, 2, 0], [1, 2, 0], [0, 0, 0], [1, 3, 0]]]
    labels = [[1, 1, -1, 3], [2, 1, 3, 0], [0, 0, 0, 0]]
    found = testing.run("CTCGreedyDecoder", [x, np.array(labels, np.float32)], backward=False)
    # 1 1 is read as 1 1; of 2 1 3 a letter is missing; nothing is rightly nothing
    np.testing.assert_allclose(found.tops[0].ravel(), [1 - (0 + 1 / 3 + 0) / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "distance"), [("", "", 0), ("abc", "", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]
)
def test_edit_distance(a, b, distance):
    assert edit_distance([*a], [*b]) == edit_distance([*b], [*a]) == distance
