"""Layers of yjxiong, ENet, happynear and Intel Caffe against their definitions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from minicaffe import testing
from minicaffe.errors import DataError

RNG = np.random.default_rng


def test_spatial_dropout_drops_channels():
    x = RNG(0).uniform(1, 2, (40, 50, 2, 3)).astype(np.float32)
    dy = RNG(1).standard_normal(x.shape).astype(np.float32)
    found = testing.run("SpatialDropout", [x], top_diffs=[dy], seed=3, dropout_param={"dropout_ratio": 0.2})
    kept = found.tops[0] != 0
    assert (kept == kept[:, :, :1, :1]).all() and abs(kept.mean() - 0.8) < 0.03
    np.testing.assert_allclose(found.tops[0], x * kept / 0.8, rtol=1e-5)
    np.testing.assert_allclose(found.bottom_diffs[0], dy * kept / 0.8, rtol=1e-5)
    test = testing.run("SpatialDropout", [x[:1]], phase="TEST", dropout_ratio=0.2)
    np.testing.assert_array_equal(test.tops[0], x[:1])


@pytest.mark.parametrize(("options", "mean", "std"), [({"gaussian_std": 2.0, "bias": 1.0, "uniform_range": 9.0}, 1, 2),
                                                      ({"uniform_range": 3.0}, 0, 3**0.5), ({}, 0, 0)])  # fmt: skip
def test_noise_is_added_while_training(options, mean, std):
    x = RNG(0).standard_normal((200, 100)).astype(np.float32)
    found = testing.run("Noise", [x], top_diffs=[x], seed=1, **options)
    noise = found.tops[0] - x
    assert abs(noise.mean() - mean) <= 0.05 * std and abs(noise.std() - std) <= 0.02 * std
    if "gaussian_std" in options:
        share = (abs(noise - mean) < std).mean()
        assert abs(share - math.erf(2**-0.5)) < 0.01
    np.testing.assert_array_equal(found.bottom_diffs[0], x)


def test_insanity_draws_slopes():
    x = RNG(0).standard_normal((100, 100)).astype(np.float32)
    found = testing.run("Insanity", [x], top_diffs=[np.ones_like(x)], seed=1, lb=2.0, ub=4.0)
    divisors = x / found.tops[0]
    np.testing.assert_allclose(divisors[x > 0], 1)
    drawn = divisors[x <= 0]
    assert 2 <= drawn.min() < 2.01 and 3.99 < drawn.max() <= 4.0001 and abs(drawn.mean() - 3) < 0.03
    np.testing.assert_allclose(found.bottom_diffs[0], 1 / divisors, rtol=1e-5)
    test = testing.run("Insanity", [x], phase="TEST", lb=2.0, ub=4.0).tops[0]
    np.testing.assert_allclose(test, np.where(x > 0, x, x * math.log(2) / 2), rtol=1e-5)


def test_eltwise_affine_and_what_it_begins_with():
    x, dy = RNG(0).standard_normal((2, 2, 3, 4, 5))
    found = testing.run("EltwiseAffine", [x], top_diffs=[dy], params=[np.array([2.0, 3, 4]), np.array([0.0, 1, -1])])
    a, b = np.array([2, 3, 4])[:, None, None], np.array([0, 1, -1])[:, None, None]
    np.testing.assert_allclose(found.tops[0], a * x + b, rtol=1e-5)
    np.testing.assert_allclose(found.bottom_diffs[0], a * dy, rtol=1e-5)
    np.testing.assert_allclose(found.param_diffs[0], (x * dy).sum(axis=(0, 2, 3)), rtol=1e-4)
    np.testing.assert_allclose(found.param_diffs[1], dy.sum(axis=(0, 2, 3)), rtol=1e-4)
    shared = testing.run("EltwiseAffine", [x], channel_shared=True)
    np.testing.assert_allclose(shared.tops[0], 1.0001 * x + 0.0001, rtol=1e-5, atol=1e-6)


def test_infimum_loss():
    x = np.array([[0.1, 0.25, 3.0], [-1.0, 0.2, 0.5]])
    found = testing.run("InfimumLoss", [x], loss_weight=3.0)
    assert found.tops[0] == pytest.approx((0.15 + 1.25 + 0.05) / 6)
    np.testing.assert_allclose(found.bottom_diffs[0], np.array([[-1, 0, 0], [-1, -1, 0]]) / 2)


def test_trainable_data_is_filled_and_learns():
    dy = RNG(0).standard_normal((2, 3))
    found = testing.run("TrainableData", [], top_diffs=[dy], shape=[2, 3], blob_filler={"value": 4.0})
    np.testing.assert_array_equal(found.tops[0], np.full((2, 3), 4))
    np.testing.assert_allclose(found.param_diffs[0], dy, rtol=1e-6)


def by_hand(x, axis, parts, pos, combine):
    """What BatchReduction makes of x (…, T, …), a row at a time."""
    before, after = x.shape[:axis], x.shape[axis + 1 + pos :]
    y = np.zeros((*before, len(parts), *after))
    for place in np.ndindex(*before):
        start = 0
        for n, steps in enumerate(parts):
            rows = [x[(*place, t, t) if pos else (*place, t)] for t in range(start, start + steps)]
            y[(*place, n)] = combine(np.stack(rows))
            start += steps
    return y


@pytest.mark.parametrize(
    ("shape", "options", "axis", "parts", "combine"),
    [
        ((4, 3, 2), {}, 0, [4], lambda rows: rows.sum(0)),
        ((2, 5, 3), {"operation": "MEAN", "axis": 1}, 1, [5], lambda rows: rows.mean(0)),
        ((2, 6, 3), {"level": [1, 2, 1], "operation": "MEAN", "axis": 1}, 1, [1, 4, 1], lambda rows: rows.mean(0)),
        ((2, 3, 3, 2), {"pos": True, "axis": 1}, 1, [3], lambda rows: rows.sum(0)),
        ((2, 4, 4), {"pos": True, "level": [2], "axis": 1}, 1, [4], lambda rows: rows.sum(0)),
        ((2, 5, 3), {"operation": "TOPK", "k": 2, "axis": 1}, 1, [5], lambda rows: np.sort(rows, 0)[-2:].mean(0)),
        ((2, 4, 4, 2), {"operation": "TOPK", "k": 3, "pos": True, "axis": 1}, 1, [4],
         lambda rows: np.sort(rows, 0)[-3:].mean(0)),
    ],
)  # fmt: skip
def test_batch_reduction(shape, options, axis, parts, combine):
    own = {name: options[name] for name in ("level", "pos") if name in options}
    param = {**own, "reduction_param": {name: value for name, value in options.items() if name not in own}}
    x = RNG(0).standard_normal(shape)
    found = testing.run("BatchReduction", [x], batch_reduction_param=param)
    expected = by_hand(x, axis, parts, options.get("pos", False), combine)
    expected = expected if "level" in options else expected.squeeze(axis)
    np.testing.assert_allclose(found.tops[0], expected, rtol=1e-5, atol=1e-6)
    assert found.tops[0].shape == expected.shape
    dy = RNG(1).standard_normal(expected.shape)
    slope = testing.run("BatchReduction", [x], top_diffs=[dy], batch_reduction_param=param).bottom_diffs[0]
    step = 1e-6 * RNG(2).standard_normal(shape)
    moved = by_hand(x + step, axis, parts, options.get("pos", False), combine).reshape(expected.shape)
    assert (slope * step).sum() == pytest.approx(((moved - expected) * dy).sum(), rel=1e-3)


def test_eval_detection():
    """Two classes, one anchor of 2 x 2 cells on a grid of 4 x 4; codes of 0 mean the middle of a cell and the anchor."""
    values = np.full((2, 7, 4, 4), -20.0)
    values[:, :4] = 0

    def predict(item, row, column, kind, objectness):
        values[item, 4, row, column] = math.log(objectness / (1 - objectness))
        values[item, 5 + kind, row, column] = 0

    predict(0, 0, 0, 1, 0.6)  # finds the first object, after the next one
    predict(0, 0, 1, 1, 0.9)  # overlaps it by a third
    predict(0, 3, 3, 0, 0.8)  # where there is none of its class
    predict(0, 1, 3, 0, 0.002)  # too unlikely
    truth = np.zeros((2, 3, 5))
    truth[0, 0] = 1, 0.125, 0.125, 0.5, 0.5
    truth[0, 2] = 1, 0.5, 0.5, 0.5, 0.5  # behind a row of zeros
    truth[1, :2] = (0, 0.5, 0.5, 0.1, 0.1), (0, 0.7, 0.7, 0.1, 0.1)
    options = {"side": 4, "num_class": 2, "num_object": 1, "biases": [2.0, 2.0], "threshold": 0.3}

    def table(**more):
        top = testing.run("EvalDetection", [values, truth], phase="TEST", **options, **more).tops[0]
        assert top.shape == (2, 2 + 4 * 16)
        np.testing.assert_array_equal(top[:, :2], [[0, 1], [2, 0]])
        assert not top[1, 2:].any()
        return top[0, 2:].reshape(16, 4)

    rows = table()
    np.testing.assert_allclose(rows[:3], [[0, 0.8, 0, 1], [1, 0.9, 1, 0], [1, 0.6, 0, 1]], rtol=1e-5)
    assert not rows[3:].any()
    rows = table(nms=0.2)  # the second of class 1 goes
    np.testing.assert_allclose(rows[:3], [[0, 0.8, 0, 1], [1, 0.9, 1, 0], [0, 0, 0, 0]], rtol=1e-5)
    rows = table(nms=0.5)  # a third is less than a half
    np.testing.assert_allclose(rows[2], [1, 0.6, 0, 1], rtol=1e-5)


def test_mat_write_writes_what_matlab_reads(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    (tmp_path / "list.txt").write_text("a.jpg 0\nb.jpg 1\nc.jpg 2\n")
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    how = {"prefix": f"{tmp_path}/out_", "source": f"{tmp_path}/list.txt", "strip": 4, "period": 2}
    rig = testing.Rig("MatWrite", [x, x[0, 0, 0]], backward=False, **how)
    for _ in range(3):
        rig.forward()
    assert {path.name for path in tmp_path.glob("*.mat")} == {f"out_{n}_blob_{i}.mat" for n in "ac" for i in (0, 1)}
    found = scipy_io.loadmat(tmp_path / "out_c_blob_0.mat")["data"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, x.transpose(3, 2, 1, 0))
    with pytest.raises(DataError, match=r"source: lists 3 names, and this is pass 5"):
        rig.forward()
        rig.forward()


def test_mat_write_replaces_no_other_file(tmp_path):
    pytest.importorskip("scipy.io")
    (tmp_path / "iter_0_blob_0.mat").write_text("mine")
    with pytest.raises(DataError, match=r"prefix: cannot write .*it exists and is no file of MATLAB"):
        testing.run("MatWrite", [np.zeros(2)], backward=False, prefix=f"{tmp_path}/")
    assert (tmp_path / "iter_0_blob_0.mat").read_text() == "mine"


def test_priors_of_textboxes_lie_on_the_border_of_cells_too():
    maps = [np.zeros((1, 1, 2, 3)), np.zeros((1, 3, 40, 60))]
    how = {"min_size": [10.0], "max_size": [20.0], "aspect_ratio": [2.0], "step": 20.0, "offset": 0.5}
    plain, dense = (
        testing.run("PriorBox", maps, backward=False, denser_prior_boxes=denser, **how)
        .tops[0][0]
        .reshape(2, 2, 3, -1, 4)
        for denser in (False, True)
    )
    np.testing.assert_array_equal(dense[..., ::2, :], plain)
    lower = plain.copy()
    lower[0, ..., [1, 3]] += 10 / 40
    np.testing.assert_allclose(dense[..., 1::2, :], lower, atol=1e-6)


def test_textboxes_finds_quadrilaterals():
    count, rng = 5, RNG(4)
    corner, side = rng.uniform(0, 0.5, (2, count, 2))
    priors = np.concatenate([corner, corner + side + 0.1], axis=1)
    variances = np.tile([0.1, 0.15, 0.2, 0.25], (count, 1))
    codes, scores = rng.standard_normal((1, count, 12)), rng.uniform(0.1, 0.9, (1, count, 2))
    how = {"num_classes": 2, "code_type": "CENTER_SIZE", "use_polygon": True, "nms_param": {"nms_threshold": 1.0}}
    bottoms = [codes.reshape(1, -1), scores.reshape(1, -1), np.stack([priors, variances]).reshape(1, 2, -1)]
    rows = testing.run("DetectionOutput", bottoms, backward=False, phase="TEST", **how).tops[0][0, 0]
    assert rows.shape == (count, 15)
    for row, p in zip(rows, np.argsort(-scores[0, :, 1]), strict=True):
        (left, top, right, bottom), code = priors[p], codes[0, p]
        width, height = right - left, bottom - top
        quadrilateral = [
            *(left + 0.1 * code[4] * width, top + 0.15 * code[5] * height),
            *(right + 0.1 * code[6] * width, top + 0.15 * code[7] * height),
            *(right + 0.1 * code[8] * width, bottom + 0.15 * code[9] * height),
            *(left + 0.1 * code[10] * width, bottom + 0.15 * code[11] * height),
        ]
        np.testing.assert_allclose(row[7:], quadrilateral, rtol=1e-5, atol=1e-6)
        centre = (left + right) / 2 + 0.1 * code[0] * width
        half = width * math.exp(0.2 * code[2]) / 2
        np.testing.assert_allclose(row[[3, 5]], [centre - half, centre + half], rtol=1e-5, atol=1e-6)
        assert row[2] == np.float32(scores[0, p, 1])


def test_textboxes_finds_nothing():
    bottoms = [np.zeros((2, 12)), np.zeros((2, 2)), np.ones((1, 2, 4))]
    how = {"num_classes": 2, "code_type": "CENTER_SIZE", "use_polygon": True, "confidence_threshold": 0.5}
    rows = testing.run("DetectionOutput", bottoms, backward=False, phase="TEST", **how).tops[0][0, 0]
    np.testing.assert_array_equal(rows, [[0] + [-1] * 14, [1] + [-1] * 14])


def test_inner_product_with_weights_of_length_1():
    rng = RNG(6)
    x, w, dy = rng.standard_normal((3, 4)), rng.standard_normal((2, 4)), rng.standard_normal((3, 2))
    how = {"num_output": 2, "bias_term": False, "normalize": True}
    rig = testing.Rig("InnerProduct", [x], params=[w], dtype=np.float64, **how)
    rig.forward()
    unit = w / np.sqrt((w * w).sum(axis=1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(rig.layer.blobs[0].data, unit, rtol=1e-9)
    np.testing.assert_allclose(rig.top[0].data, x @ unit.T, rtol=1e-9)
    found = testing.run("InnerProduct", [x], params=[w], top_diffs=[dy], dtype=np.float64, **how)
    np.testing.assert_allclose(found.bottom_diffs[0], dy @ unit, rtol=1e-6)
    np.testing.assert_allclose(found.param_diffs[0], dy.T @ x, rtol=1e-6)
