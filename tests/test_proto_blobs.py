"""Blobs and arrays: the wire form against protobuf's own, Caffe's rules for shapes, NVCaffe's raw values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minicaffe import proto
from minicaffe.errors import WeightsError
from minicaffe.proto.blobs import array_to_blob, blob_shape, blob_to_array, has_diff, shape_equals


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize(("dtype", "field"), [(np.float32, "data"), (np.float64, "double_data")])
def test_blob_is_the_one_that_protobuf_builds(dtype, field):
    array = np.arange(-3, 3, dtype=dtype).reshape(2, 3) / 7
    blob = array_to_blob(array, diff=array * 2)
    expected = proto.BlobProto()
    expected.shape.dim.extend([2, 3])
    getattr(expected, field).extend(array.ravel().tolist())
    getattr(expected, field.replace("data", "diff")).extend((array * 2).ravel().tolist())
    assert blob == expected
    assert blob.SerializeToString() == expected.SerializeToString()


@given(hnp.arrays(st.sampled_from([np.float32, np.float64]), hnp.array_shapes(min_dims=0, max_dims=5)))
def test_array_comes_back_bit_for_bit(array):
    blob = proto.BlobProto.FromString(array_to_blob(array, diff=array).SerializeToString())
    assert same(blob_to_array(blob), array)
    assert same(blob_to_array(blob, diff=True), array)
    assert shape_equals(array.shape, blob)


def test_array_without_values_keeps_its_shape():
    blob = array_to_blob(np.empty((3, 0), np.float32))
    assert same(blob_to_array(blob), np.empty((3, 0), np.float32))
    assert shape_equals((3, 0), blob)


def test_array_may_be_a_view_or_of_another_type():
    array = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    assert same(blob_to_array(array_to_blob(array.T)), array.T.astype(np.float32))


def test_payload_longer_than_one_length_byte():
    array = np.arange(70_000, dtype=np.float32)
    result = blob_to_array(array_to_blob(array))
    assert same(result, array)
    result[0] = 1  # the array is the caller's own


def test_values_win_as_in_caffe():
    blob = proto.BlobProto(shape=proto.BlobShape(dim=[2]), data=[1, 2], double_data=[3, 4])
    assert same(blob_to_array(blob), np.array([3.0, 4.0]))


def test_older_dims_win_over_shape():
    blob = proto.BlobProto(num=2, channels=1, height=1, width=3, data=range(6), shape=proto.BlobShape(dim=[6]))
    assert blob_shape(blob) == (2, 1, 1, 3)
    assert blob_to_array(blob).shape == (2, 1, 1, 3)


def test_unset_older_dims_count_as_zero():
    assert blob_shape(proto.BlobProto(num=3)) == (3, 0, 0, 0)


def test_blob_without_shape_is_a_scalar():
    assert same(blob_to_array(proto.BlobProto(data=[5])), np.array(5, np.float32))


@pytest.mark.parametrize(
    "blob",
    [
        proto.BlobProto(shape=proto.BlobShape(dim=[2, 3]), data=range(5)),
        proto.BlobProto(num=1, data=[1]),
        proto.BlobProto(shape=proto.BlobShape(dim=[-2, -3]), data=range(6)),
        proto.BlobProto(),
    ],
)
def test_values_that_do_not_fill_the_shape_are_refused(blob):
    with pytest.raises(WeightsError, match="values, but"):
        blob_to_array(blob)


def test_missing_diff_is_refused():
    blob = array_to_blob(np.ones(3, np.float32))
    assert not has_diff(blob)
    with pytest.raises(WeightsError, match="0 are stored as its diff"):
        blob_to_array(blob, diff=True)


def test_diff_of_another_shape_is_refused():
    with pytest.raises(WeightsError, match=r"the diff has shape \(2,\), its blob \(3,\)"):
        array_to_blob(np.ones(3), np.ones(2))


def test_blob_beyond_the_limit_of_a_message_is_refused():
    huge = np.broadcast_to(np.float32(0), (2**29,))
    with pytest.raises(WeightsError, match="2147483648 bytes does not fit"):
        array_to_blob(huge)


@pytest.mark.parametrize(
    ("kind", "dtype", "result"),
    [
        ("DOUBLE", np.float64, np.float64),
        ("FLOAT", np.float32, np.float32),
        ("FLOAT16", np.float16, np.float32),
        ("INT", np.int32, np.float32),
        ("UINT", np.uint32, np.float32),
        ("BOOL", np.bool_, np.float32),
    ],
)
def test_nvcaffe_raw_values(kind, dtype, result):
    values = np.array([[0, 1, 1], [1, 0, 0]], dtype)
    raw_type = proto.BlobProto.RawType.Value(kind)
    blob = proto.BlobProto(
        shape=proto.BlobShape(dim=[2, 3]),
        raw_data_type=raw_type,
        raw_data=values.tobytes(),
        raw_diff_type=raw_type,
        raw_diff=values[::-1].tobytes(),
    )
    assert same(blob_to_array(blob), values.astype(result))
    assert same(blob_to_array(blob, diff=True), values[::-1].astype(result))
    assert has_diff(blob)


def test_raw_values_cut_short_are_refused():
    with pytest.raises(WeightsError, match="3 bytes, not a multiple of 4"):
        blob_to_array(proto.BlobProto(raw_data_type=proto.BlobProto.FLOAT, raw_data=b"123"))


@pytest.mark.parametrize(
    ("shape", "blob", "equal"),
    [
        ((500,), {"num": 1, "channels": 1, "height": 1, "width": 500}, True),
        ((500, 800), {"num": 1, "channels": 1, "height": 500, "width": 800}, True),
        ((500, 800), {"num": 500, "channels": 800, "height": 1, "width": 1}, False),
        ((20, 1, 5, 5), {"num": 20, "channels": 1, "height": 5, "width": 5}, True),
        ((1, 20, 1, 5, 5), {"num": 20, "channels": 1, "height": 5, "width": 5}, False),
        ((500,), {"shape": {"dim": [1, 1, 1, 500]}}, False),
        ((500,), {"shape": {"dim": [500]}}, True),
        ((), {}, True),
        ((), {"num": 1, "channels": 1, "height": 1, "width": 1}, True),
    ],
)
def test_shapes_are_compared_as_in_caffe(shape, blob, equal):
    assert shape_equals(shape, proto.BlobProto(**blob)) is equal


def test_a_blob_of_very_many_axes():
    blob = proto.BlobProto(shape=proto.BlobShape(dim=[2**62] * 3000))
    with pytest.raises(WeightsError, match="at most 32 axes; found 3000"):
        blob_to_array(blob)
