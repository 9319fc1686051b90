from __future__ import annotations

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import OutOfMemoryError, ShapeError, WeightsError
from minicaffe.storage import Storage


def test_new_blob_is_zero_and_prints_its_shape_as_caffe_does():
    blob = Blob((64, 1, 28, 28))
    assert blob.shape_string == "64 1 28 28 (50176)"
    assert not blob.data.any() and not blob.diff.any()
    assert Blob().shape_string == "(1)"


def test_shrinking_keeps_memory_and_growing_loses_contents():
    blob = Blob((4, 3))
    blob.data[...] = 7
    blob.reshape(2, 3)
    assert (blob.data == 7).all()
    blob.reshape(4, 3)
    assert (blob.data == 7).all()
    blob.reshape(5, 3)
    assert not blob.data.any()


def test_legacy_accessors_are_front_aligned_and_refuse_five_axes():
    blob = Blob((6, 5))
    assert (blob.num, blob.channels, blob.height, blob.width) == (6, 5, 1, 1)
    with pytest.raises(ShapeError, match="legacy accessors"):
        Blob((1, 2, 3, 4, 5)).num  # noqa: B018


@pytest.mark.parametrize(("axis", "expected"), [(0, 0), (2, 2), (-1, 2), (-3, 0)])
def test_axis_counts_from_either_end(axis, expected):
    assert Blob((2, 3, 4)).axis(axis) == expected


@pytest.mark.parametrize("axis", [3, -4])
def test_axis_out_of_range_is_refused(axis):
    with pytest.raises(ShapeError, match=rf"axis {axis} out of range for 3-D Blob with shape 2 3 4 \(24\)"):
        Blob((2, 3, 4)).axis(axis)


def test_negative_size_and_too_many_axes_are_refused():
    for shape in ((2, -1), (1,) * 33):
        with pytest.raises(ShapeError):
            Blob(shape)


def test_shared_data_is_one_memory_and_survives_growth():
    a, b = Blob((2, 3)), Blob((6,))
    b.share_data(a)
    a.data[...] = np.arange(6).reshape(2, 3)
    assert (b.data == np.arange(6)).all()
    assert b.shares_data_with(a) and not b.diff.any()
    with pytest.raises(ShapeError, match="cannot share"):
        Blob((5,)).share_data(a)


def test_proto_round_trip_keeps_value_and_gradient():
    blob = Blob((2, 3))
    blob.data[...], blob.diff[...] = np.arange(6).reshape(2, 3), 1.5
    back = Blob.from_proto(proto.BlobProto.FromString(blob.to_proto(write_diff=True).SerializeToString()))
    assert back.shape == (2, 3) and (back.data == blob.data).all() and (back.diff == 1.5).all()
    assert not Blob.from_proto(blob.to_proto()).diff.any()


def test_legacy_shape_is_read():
    message = proto.BlobProto(num=1, channels=1, height=2, width=2, data=[1, 2, 3, 4])
    assert Blob.from_proto(message).shape == (1, 1, 2, 2)


def test_a_size_for_which_there_is_no_memory_is_forgotten(monkeypatch):
    monkeypatch.setattr("minicaffe.limits.available", lambda: 100e6)
    blob, view = Blob((2, 3)), Blob((2, 3))
    blob.data[...] = 1
    blob.reshape(10**9)
    view.reshape(10**9)
    view.share_data(blob)
    for other in (blob, view):
        with pytest.raises(OutOfMemoryError):
            _ = other.data
    for other in (blob, view):
        other.reshape(2, 3)
        other.data[...] = 2
    assert blob.data.sum() == 12 and view.shares_data_with(blob)


def test_memory_is_that_of_the_shape_at_its_first_use(monkeypatch):
    monkeypatch.setattr("minicaffe.limits.available", lambda: 100e6)
    blob = Blob((10**9,))
    blob.reshape(5)
    assert blob.data.shape == (5,) and blob.data_storage.nbytes == 20


def test_other_blobs_keep_the_size_of_shared_memory():
    blob, view = Blob((6,)), Blob((2, 3))
    view.share_data(blob)
    blob.reshape(2)
    assert view.data.shape == (2, 3)
    arena = Storage(10, np.float32)
    small = Blob((2,))
    small.place_data(arena, 4, 3)
    small.reshape(3)
    assert arena.size == 10 and small.data.shape == (3,)


class Numbers:
    """A source that tells how often it was read."""

    def __init__(self, first: float = 1) -> None:
        self.first, self.times = first, 0

    def read(self, array: np.ndarray) -> None:
        array[...] = np.arange(self.first, self.first + array.size).reshape(array.shape)
        self.times += 1

    def __str__(self) -> str:
        return "the numbers"


def loaded(numbers: Numbers) -> Blob:
    blob = Blob((2, 3))
    blob.load_data(numbers)
    return blob


def test_a_value_that_was_unloaded_is_read_again():
    numbers = Numbers()
    blob, expected = loaded(numbers), np.arange(1, 7).reshape(2, 3)
    view = Blob((6,))
    view.share_data(blob)
    for times in (2, 3):
        blob.unload_data()
        assert blob.data_storage.touched and numbers.times == times - 1
        np.testing.assert_array_equal(blob.peek_data(), expected)  # nobody writes there
        assert numbers.times == times
    blob.unload_data()
    np.testing.assert_array_equal(view.xdata, expected.ravel())
    view.xdata[0] = 9
    for _ in range(2):
        blob.unload_data()
        view.forget_views()
        assert blob.data[0, 0] == 9 and numbers.times == 4


def test_a_value_that_somebody_may_write_to_stays():
    numbers = Numbers()
    blob = loaded(numbers)
    blob.data[0, 0] = 9  # and nobody holds on to an array
    blob.unload_data()
    assert blob.data[0, 0] == 9
    held = Blob((2, 3))
    array = held.data
    held.load_data(numbers)
    array[0, 0] = 9
    del array
    held.unload_data()
    assert held.data[0, 0] == 9
    peeked = loaded(numbers)
    array, before = peeked.peek_data(), numbers.times
    peeked.unload_data()
    assert np.shares_memory(peeked.peek_data(), array) and numbers.times == before  # else there would be two copies
    part = Blob((3,))
    part.place_data(loaded(numbers).data_storage, 2, 3)
    part.load_data(numbers)
    part.unload_data()
    np.testing.assert_array_equal(part.data_storage.peek(), [1, 2, 1, 2, 3, 6])


def test_a_source_that_has_changed_is_an_error_until_something_else_is_loaded():
    numbers = Numbers()
    blob = loaded(numbers)
    blob.unload_data()
    numbers.first = 2
    for ask in (blob.peek_data, lambda: blob.data, lambda: blob.xdata):
        with pytest.raises(WeightsError, match="^the numbers has changed since it was loaded.*copy_from"):
            ask()
    blob.load_data(numbers)
    blob.unload_data()
    assert blob.data[0, 0] == 2
