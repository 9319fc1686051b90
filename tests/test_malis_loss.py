"""MalisLoss against the paths themselves: for each pair of pixels the weakest edge of the best way between them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from minicaffe import testing

RNG = np.random.default_rng(0)


def maximin_edges(weights, edges, count):
    """For each pair of vertices (u, v) the edge without which, and all heavier ones, they are not connected."""
    answers, connected = {}, np.eye(count, dtype=bool)
    for e in sorted(range(len(edges)), key=lambda e: -weights[e]):
        u, v = edges[e]
        joined = connected | (connected[:, [u]] & connected[[v]]) | (connected[:, [v]] & connected[[u]])
        for pair in zip(*np.nonzero(np.triu(joined & ~connected)), strict=True):
            answers[pair] = e
        connected = joined
    return answers


def expected(predicted, true, segments, steps):
    loss, slopes = 0.0, np.zeros(predicted.shape)
    size = predicted.shape[2:]
    for n in range(len(predicted)):
        edges, where = [], []
        for d, place in itertools.product(range(len(steps)), np.ndindex(*size)):
            end = tuple(np.add(place, steps[d]))
            if all(0 <= at < limit for at, limit in zip(end, size, strict=True)):
                edges.append((np.ravel_multi_index(place, size), np.ravel_multi_index(end, size)))
                where.append((n, d, *place))
        labels = segments[n, 0].reshape(-1)
        pairs = [p for p in itertools.combinations(range(labels.size), 2) if labels[p[0]] and labels[p[1]]]
        for same, choose in ((True, np.minimum), (False, np.maximum)):
            values = [choose(predicted[w], true[w]) for w in where]
            answers = maximin_edges(values, edges, labels.size)
            kind = [p for p in pairs if (labels[p[0]] == labels[p[1]]) == same]
            for pair in kind:
                e = answers[pair]
                error = 1 - values[e] if same else -values[e]
                loss += 0.5 * error**2 / len(kind) / len(predicted)
                slopes[where[e]] -= 0.5 * error / len(kind)
    return loss, slopes


@pytest.mark.parametrize(
    ("size", "steps"), [((3, 4), None), ((5,), None), ((2, 3, 3), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, -1, 2)])]
)
def test_edges_that_join_and_part_segments(size, steps):
    edges = len(size) if steps is None else len(steps)
    predicted = RNG.permutation(np.linspace(0.1, 0.9, 2 * edges * int(np.prod(size)))).reshape(2, edges, *size)
    true = RNG.random(predicted.shape)
    segments = RNG.integers(0, 3, (2, 1, *size))
    bottoms = [predicted, true, segments]
    if steps is not None:
        bottoms.append(np.reshape(steps, (1, 1, edges, 3)))
    result = testing.run("MalisLoss", bottoms, top_diffs=[np.float32(2)], dtype=np.float64)
    moves = np.eye(len(size), dtype=int) if steps is None else np.array(steps)
    loss, slopes = expected(predicted, true, segments, moves)
    np.testing.assert_allclose(result.tops[0], loss, rtol=1e-6)
    np.testing.assert_allclose(result.bottom_diffs[0], 2 * slopes, rtol=1e-6, atol=1e-9)
    assert np.count_nonzero(slopes) >= 4


def test_without_segments_there_is_no_loss():
    a = RNG.random((1, 2, 3, 3))
    result = testing.run("MalisLoss", [a, a, np.zeros((1, 1, 3, 3))])
    assert result.tops[0] == 0 and not result.bottom_diffs[0].any()
