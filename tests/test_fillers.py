"""The fillers against values drawn by Caffe after a seed (golden/rng/rng.npz), and their errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.backend import random
from minicaffe.backend.random import Stream
from minicaffe.errors import LayerError
from minicaffe.fillers import fill

CAFFE = np.load(Path(__file__).parent / "golden" / "rng" / "rng.npz")
SEEDS = (1, 1701)
DRAWN = {
    "uniform": {"type": "uniform", "min": -1, "max": 2},
    "gaussian": {"type": "gaussian", "mean": 0.5, "std": 2},
    "gaussian_sparse": {"type": "gaussian", "std": 1, "sparse": 3},
    "xavier": {"type": "xavier"},
    "xavier_fanout": {"type": "xavier", "variance_norm": proto.FillerParameter.FAN_OUT},
    "xavier_avg": {"type": "xavier", "variance_norm": proto.FillerParameter.AVERAGE},
    "msra": {"type": "msra"},
    "msra_fanout": {"type": "msra", "variance_norm": proto.FillerParameter.FAN_OUT},
    "positive_unitball": {"type": "positive_unitball"},
}


def filled(shape, stream=None, dtype=np.float32, **fields):
    values = np.full(shape, np.nan, dtype)
    fill(values, proto.FillerParameter(**fields), stream)
    return values


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", DRAWN)
def test_drawn_values_are_caffes(name, seed):
    expected = CAFFE[f"{name}__seed{seed}"]
    values = filled(expected.shape, Stream(seed), **DRAWN[name])
    assert values.tobytes() == expected.tobytes()  # the sign of zero included
    assert np.array_equal(filled(expected.shape, Stream(seed), np.float64, **DRAWN[name]), expected)


def test_gaussian_values_whose_rows_have_length_1():
    drawn = filled((4, 3, 2), Stream(1), type="gaussian").reshape(4, -1)
    found = filled((4, 3, 2), Stream(1), type="gaussian_unitball", mean=1, std=2).reshape(4, -1)
    np.testing.assert_allclose(found, drawn / np.sqrt((drawn * drawn).sum(axis=1, keepdims=True)), rtol=1e-6)


def test_the_identity():
    assert np.array_equal(filled((3, 3, 1, 1), Stream(1), type="identity").reshape(3, 3), np.eye(3))
    for shape in ((3,), (3, 2), (3, 3, 1, 2)):
        with pytest.raises(LayerError, match="as many outputs as inputs"):
            filled(shape, Stream(1), type="identity")


def test_msra_for_a_slope_below_0():
    plain, sloped = (filled((5, 4), Stream(1), type="msra", **more) for more in ({}, {"alpha": 0.5}))
    np.testing.assert_allclose(sloped, plain / np.sqrt(1.25), rtol=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_net_is_initialised_layer_by_layer_and_then_drops_out_from_the_same_stream(seed):
    stream = Stream(seed)
    for blob, fields in {
        "init_c_0": {"type": "xavier"},
        "init_c_1": {"type": "uniform"},
        "init_i_0": {"type": "gaussian", "std": 0.1},
        "init_i_1": {},
    }.items():
        expected = CAFFE[f"{blob}__seed{seed}"]
        assert np.array_equal(filled(expected.shape, stream, **fields), expected)
    x = CAFFE[f"dropout_in__seed{seed}"]
    keep = 1 - np.float32(0.4)
    for key in ("dropout_out", "dropout_out_2nd"):
        mask = stream.bernoulli(keep, x.size).reshape(x.shape)
        assert np.array_equal(x * mask * (1 / keep), CAFFE[f"{key}__seed{seed}"])


def test_constant_takes_no_draw():
    stream = Stream(1)
    assert np.all(filled((2, 3), stream, value=0.25) == 0.25)
    assert np.all(filled((2, 3), stream) == 0)
    assert stream.draw() == Stream(1).draw()


@pytest.mark.parametrize(
    ("size", "profile"),
    [(3, [1 / 2, 1, 1 / 2]), (4, [1 / 4, 3 / 4, 3 / 4, 1 / 4]), (1, [1])],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bilinear_is_the_upsampling_kernel_in_every_channel(size, profile, dtype):
    values = filled((3, 2, size, size), dtype=dtype, type="bilinear")
    assert np.array_equal(values, np.broadcast_to(np.outer(profile, profile), values.shape))


def test_positive_unitball_rows_sum_to_one():
    assert np.allclose(filled((5, 7), Stream(1), type="positive_unitball").sum(axis=1), 1)


def test_a_blob_of_one_axis_has_its_count_as_fan_out():
    fields = {"type": "xavier", "variance_norm": proto.FillerParameter.FAN_OUT}
    assert np.array_equal(filled((12,), Stream(1), **fields), Stream(1).uniform(-0.5, 0.5, 12))


def test_a_scalar_blob_is_filled_as_one_of_one_element():
    assert filled((), Stream(1), type="uniform") == Stream(1).uniform(0, 1, 1)[0]


def test_the_process_wide_stream_is_the_default():
    random.seed(1)
    assert np.array_equal(filled((6, 4, 3, 2), type="xavier"), CAFFE["xavier__seed1"])


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((2, 2), {"type": "xaver"}, "unknown filler type 'xaver'.*constant.*did you mean 'xavier'"),
        ((2, 2), {"type": "zzz"}, r"unknown filler type 'zzz' \(known types: bilinear, .*xavier\)$"),
        ((0, 2), {"type": "xavier"}, r"'xavier': the blob of shape \(0, 2\) has no elements"),
        ((2, 2), {"type": "xavier", "sparse": 1}, "'xavier': sparse is 1; only the gaussian"),
        ((2, 2), {"type": "uniform", "min": 1, "max": -2.5}, "'uniform': max is -2.5;.*min, which is 1"),
        ((2, 2), {"type": "uniform", "max": float("inf")}, "'uniform': max is inf; it must be finite"),
        ((2, 2), {"type": "gaussian", "std": 0}, "'gaussian': std is 0; .*greater than 0"),
        ((2, 2), {"type": "gaussian", "std": float("nan")}, "'gaussian': std is nan"),
        ((2, 2), {"type": "gaussian", "sparse": 3}, r"'gaussian': sparse is 3; it must lie in \[0, 2\]"),
        ((2, 2), {"type": "gaussian", "sparse": -2}, "'gaussian': sparse is -2"),
        ((1, 1, 3, 4), {"type": "bilinear"}, r"'bilinear': the blob's shape is \(1, 1, 3, 4\).*square kernel"),
        ((4, 4), {"type": "bilinear"}, "'bilinear'.*4 axes"),
    ],
)
def test_errors_name_the_filler_and_its_field(shape, fields, message):
    with pytest.raises(LayerError, match=message):
        filled(shape, Stream(1), **fields)
