"""Where the pixels of one blob lie over another, and the Crop layers that follow."""

from __future__ import annotations

import numpy as np
import pytest

import minicaffe as caffe
from minicaffe import layers as L
from minicaffe import params as P
from minicaffe.coord_map import (
    PASS_THROUGH_LAYERS,
    AxisMismatchException,
    CropError,
    UndefinedMapException,
    compose,
    coord_map,
    coord_map_from_to,
    crop,
    inverse,
)
from minicaffe.errors import NetError


def hourglass(kernel=3, stride=1, pad=0, pool=2, up=2, up_pad=0, size=(40, 40), **conv):
    """A convolution, a pooling and the deconvolution that undoes the pooling."""
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 2, *size]))
    n.conv = L.Convolution(n.data, num_output=4, kernel_size=kernel, stride=stride, pad=pad, **conv)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=pool, stride=pool)
    double = [2 * u for u in up] if isinstance(up, list) else 2 * up
    n.up = L.Deconvolution(n.pool, convolution_param=dict(num_output=4, kernel_size=double, stride=up, pad=up_pad))
    return n


def test_pooling_and_its_deconvolution_cancel_out():
    assert coord_map_from_to((n := hourglass()).up, n.data) == (1, 1, 0)
    assert coord_map_from_to((n := hourglass(pool=4, up=4)).up, n.data) == (1, 1, -1)
    assert coord_map_from_to(n.data, n.up) == (1, 1, 1)
    assert coord_map_from_to(n.up, n.up) == (None, 1, 0)


@pytest.mark.parametrize("pad", range(4))
def test_padding_shifts(pad):
    assert coord_map_from_to((n := hourglass(pad=pad)).up, n.data)[2] == -pad
    assert coord_map_from_to((n := hourglass(up_pad=pad)).up, n.data)[2] == pad
    assert coord_map_from_to((n := hourglass(pad=pad, up_pad=pad)).up, n.data)[2] == 0


def test_dilation_widens_the_kernel():
    n, wide = hourglass(kernel=3, dilation=2), hourglass(kernel=5)
    assert coord_map_from_to(n.up, n.data) == coord_map_from_to(wide.up, wide.data)


@pytest.mark.parametrize("type_name", [*PASS_THROUGH_LAYERS, "Convolution"])
def test_layers_that_work_on_pixels_leave_the_map(type_name):
    n = hourglass()
    n.after = L.Convolution(n.up, kernel_size=1) if type_name == "Convolution" else getattr(L, type_name)(n.up)
    assert coord_map_from_to(n.after, n.data) == coord_map_from_to(n.up, n.data)


def test_each_axis_has_a_map_of_its_own():
    small, large = hourglass(3, 1, 0), hourglass(5, 2, 10)
    both = hourglass([3, 5], [1, 2], [0, 10])
    (axis, a, b), maps = (
        coord_map_from_to(both.up, both.data),
        [coord_map_from_to(n.up, n.data) for n in (small, large)],
    )
    assert axis == 1
    for i, (_, alone_a, alone_b) in enumerate(maps):
        assert (a[i], b[i]) == (alone_a, alone_b)
    n = hourglass([3, 3, 3], [1, 1, 1], [0, 1, 2], size=(20, 20, 20))
    axis, a, b = coord_map_from_to(n.up, n.data)
    assert axis == 1 and list(a) == [1, 1, 1] and list(np.diff(b)) == [-1, -1]


def test_all_bottoms_and_tops_of_a_layer_lie_alike():
    n = hourglass()
    n.other = L.Input(shape=dict(dim=[1, 2, 40, 40]))
    n.one, n.two = L.Convolution(n.data, n.other, ntop=2, num_output=3, kernel_size=5, stride=2)
    assert coord_map_from_to(n.one, n.data) == coord_map_from_to(n.two, n.other) == (1, 2, 2)


def test_a_crop_shifts_and_has_one_bottom_only():
    n = hourglass()
    axis, a, b = coord_map_from_to(n.up, n.data)
    for options in (dict(axis=2, offset=7), dict(offset=[7]), dict(crop_param=dict(offset=7))):
        n.cut = L.Crop(n.up, n.data, **options)
        assert coord_map_from_to(n.cut, n.data) == (axis, a, b + 7)
    n.aside = L.Input(shape=dict(dim=[1, 2, 9, 9]))
    n.cut = L.Crop(n.up, n.aside)
    with pytest.raises(RuntimeError, match="connected by spatial layers"):
        coord_map_from_to(n.cut, n.aside)


@pytest.mark.parametrize(("pad", "size"), [(1, (40, 40)), (3, (40, 40)), (9, (37, 33))])
def test_a_cropped_net_runs_and_keeps_pixels_where_they_are(pad, size):
    n = hourglass(pad=pad, size=size, kernel=1)
    n.cropped = crop(n.up, n.data)
    net = caffe.Net(n.to_proto(), caffe.TEST)
    net.params["conv"][0].data[...] = 1
    net.params["up"][0].data[...] = 1
    net.blobs["data"].data[...] = 0
    net.blobs["data"].data[0, :, 16, 20] = 1
    values = net.forward()["cropped"][0, 0]
    assert values.shape == size and n.cropped.fn.params["crop_param"]["axis"] == 2
    rows, columns = np.nonzero(values)
    assert abs(rows.mean() - 16) <= 1 and abs(columns.mean() - 20) <= 1


def test_crops_that_cannot_match_are_refused():
    for n, message in (
        (hourglass(pool=3), "scale mismatch"),
        (hourglass(up_pad=10), "negative width"),
        (hourglass(kernel=2), "noninteger width"),
    ):
        with pytest.raises(AssertionError, match=message) as caught:
            crop(n.up, n.data)
        assert isinstance(caught.value, NetError)
    n = hourglass()
    n.ip = L.InnerProduct(n.up, num_output=10)
    with pytest.raises(RuntimeError, match="connected by spatial layers"):
        coord_map_from_to(n.ip, n.data)
    n.odd = L.Convolution(n.data, kernel_h=3, kernel_w=2)
    with pytest.raises(CropError, match="gives kernel_h, kernel_w"):
        crop(n.odd, n.data)
    n.whole = L.Pooling(n.data, global_pooling=True)
    with pytest.raises(CropError, match="without kernel_size"):
        crop(n.whole, n.data)


def test_maps_compose_and_invert():
    there = (1, 2.0, 3.0)
    assert compose(there, inverse(there)) == (1, 1, 0) == compose(inverse(there), there)
    assert compose((None, 1, 0), there) == there == compose(there, (None, 1, 0))
    with pytest.raises(AxisMismatchException, match="axes from 1 on cannot follow one of those from 2"):
        compose(there, (2, 1, 0))
    with pytest.raises(UndefinedMapException, match="InnerProduct"):
        coord_map(L.InnerProduct(num_output=1).fn)
