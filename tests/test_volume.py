"""C3D: its layers over time and space, its definitions of each age, and its files of weights."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from minicaffe import Net, proto, testing
from minicaffe.errors import LayerError, ShapeError
from minicaffe.proto.blobs import blob_to_array

RNG = np.random.default_rng(0)


def pooled(x, kernel, stride, pad, reduce):
    """What C3D makes of x (N, C, length, H, W): ``reduce`` of each window's values and of its size with padding."""
    sizes = [-(-(n + 2 * p - k) // s) + 1 for n, k, s, p in zip(x.shape[2:], kernel, stride, pad, strict=True)]
    y = np.empty((*x.shape[:2], *sizes), x.dtype)
    for place in itertools.product(*map(range, sizes)):
        first = [i * s - p for i, s, p in zip(place, stride, pad, strict=True)]
        last = [min(f + k, n + p) for f, k, n, p in zip(first, kernel, x.shape[2:], pad, strict=True)]
        window = tuple(slice(max(f, 0), last) for f, last in zip(first, last, strict=True))
        area = np.prod([b - a for a, b in zip(first, last, strict=True)])
        y[(..., *place)] = reduce(x[(..., *window)].reshape(*x.shape[:2], -1), area)
    return y


def options(kernel, stride, pad):
    names = (("kernel_depth", "temporal_stride", "temporal_pad"), ("kernel_size", "stride", "pad"))
    return {
        name: values[i]
        for i, group in enumerate(names)
        for name, values in zip(group, (kernel, stride, pad), strict=True)
    }


@pytest.mark.parametrize(
    ("kernel", "stride", "pad"),
    [((2, 2, 2), (2, 2, 2), (0, 0, 0)), ((3, 3, 3), (1, 2, 2), (0, 1, 1)), ((1, 3, 3), (1, 2, 2), (0, 0, 0))],
)
def test_pooling_over_time_and_space(kernel, stride, pad):
    x = RNG.standard_normal((2, 3, 5, 6, 8)).astype(np.float32)
    given = options(kernel, stride, pad)
    mean = testing.run("Pooling3D", [x], pool="AVE", **given).tops[0]
    np.testing.assert_allclose(
        mean, pooled(x, kernel, stride, pad, lambda v, area: v.sum(-1) / area), rtol=1e-5, atol=1e-6
    )
    if not any(pad):
        largest = testing.run("Pooling3D", [x], **given).tops[0]
        np.testing.assert_array_equal(largest, pooled(x, kernel, stride, pad, lambda v, _: v.max(-1)))


def test_the_first_of_equal_maxima_gets_the_gradient():
    x = np.zeros((1, 1, 2, 2, 2), np.float32)
    x[0, 0, :, 1, 0] = x[0, 0, 0, 1, 1] = 1
    result = testing.run("Pooling3D", [x], kernel_size=2, kernel_depth=2, top_diffs=[np.full((1, 1, 1, 1, 1), 3)])
    expected = np.zeros_like(x)
    expected[0, 0, 0, 1, 0] = 3
    np.testing.assert_array_equal(result.bottom_diffs[0], expected)


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_convolutions_are_caffes_of_three_axes(kind):
    x = RNG.standard_normal((2, 3, 4, 6, 5)).astype(np.float32)
    shape = (4, 3, 2, 3, 3) if kind == "Convolution" else (3, 4, 2, 3, 3)
    params = [RNG.standard_normal(shape), RNG.standard_normal(4)]
    shared = {"num_output": 4, "params": params}
    plain = testing.run(kind, [x], kernel_size=[2, 3, 3], pad=[0, 1, 1], stride=[2, 1, 1], **shared)
    named = testing.run(f"{kind}3D", [x], kernel_size=3, kernel_depth=2, pad=1, temporal_stride=2, **shared)
    for a, b in zip((*plain.tops, *plain.bottom_diffs), (*named.tops, *named.bottom_diffs), strict=True):
        np.testing.assert_array_equal(a, b)


V1 = """
input: "data" input_dim: 2 input_dim: 3 input_dim: 4 input_dim: 8 input_dim: 8
layers { name: "conv" type: CONVOLUTION3D bottom: "data" top: "conv" convolution_param {
  num_output: 4 kernel_size: 3 kernel_depth: 3 pad: 1 temporal_pad: 1 filter_group: 2 weight_filler { type: "xavier" } } }
layers { name: "pool" type: POOLING3D bottom: "conv" top: "pool" pooling_param {
  pool: MAX kernel_size: 2 kernel_depth: 1 stride: 2 temporal_stride: 1 } }
layers { name: "deconv" type: DECONVOLUTION3D bottom: "pool" top: "deconv" convolution_param {
  num_output: 5 kernel_size: 4 kernel_depth: 3 pad: 1 temporal_pad: 1 stride: 2 } }
layers { name: "fc" type: INNER_PRODUCT bottom: "deconv" top: "fc" inner_product_param { num_output: 6 } }
layers { name: "prob" type: VOXEL_SOFTMAX bottom: "deconv" top: "prob" }
"""
V2 = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [2, 3, 4, 8, 8] } } }
layer { name: "conv" type: "Convolution3D" bottom: "data" top: "conv" convolution3d_param {
  num_output: 4 kernel_size: 3 kernel_depth: 3 stride: 1 temporal_stride: 1 pad: 1 temporal_pad: 1
  weight_filler { type: "gaussian" std: 0.01 } bias_filler { value: 1 } } }
layer { name: "pool" type: "Pooling3D" bottom: "conv" top: "pool" pooling3d_param {
  pool: MAX kernel_size: 2 kernel_depth: 2 stride: 2 temporal_stride: 2 } }
"""


def net(tmp_path, text):
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    return Net(path, proto.TEST)


def test_definitions_of_c3d_of_both_ages(tmp_path):
    old = net(tmp_path, V1)
    shapes = {name: old.blobs[name].shape for name in ("data", "conv", "pool", "deconv", "fc", "prob")}
    assert list(map(tuple, shapes.values())) == [
        *((2, 3, 4, 8, 8), (2, 4, 4, 8, 8), (2, 4, 4, 4, 4), (2, 5, 4, 8, 8), (2, 6), (2, 5, 4, 8, 8)),
    ]  # fmt: skip
    new = net(tmp_path, V2)
    assert tuple(new.blobs["pool"].shape) == (2, 4, 2, 4, 4)
    np.testing.assert_array_equal(new.params["conv"][1].data, np.ones(4))


def c3ds_messages():
    """The classes of C3D's NetParameter and BlobProto, whose numbers are not Caffe's."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="c3d.proto", package="c3d", syntax="proto2")

    def message(name, *fields):
        added = file.message_type.add(name=name)
        for number, label, kind, title in fields:
            entry = added.field.add(name=title, number=number, label=label, type=field.TYPE_MESSAGE)
            if isinstance(kind, str):
                entry.type_name = f".c3d.{kind}"
            else:
                entry.type = kind
            if title in ("data", "diff"):
                entry.options.packed = True

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    dims = ("num", "channels", "length", "height", "width")
    message(
        "BlobProto",
        *((n, one, field.TYPE_INT32, dim) for n, dim in enumerate(dims, 1)),
        (6, many, field.TYPE_FLOAT, "data"),
    )
    message(
        "Layer",
        (4, one, field.TYPE_STRING, "name"),
        (5, one, field.TYPE_INT32, "type"),
        (6, many, "BlobProto", "blobs"),
    )
    message("Net", (1, one, field.TYPE_STRING, "name"), (2, many, "Layer", "layers"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return tuple(
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"c3d.{name}")) for name in ("Net", "BlobProto")
    )


def test_weights_of_c3d(tmp_path):
    Saved, _ = c3ds_messages()
    new = net(tmp_path, V1)
    saved, expected = Saved(name="c3d"), {}
    for name, type in (("conv", 30), ("deconv", 34), ("fc", 14)):
        layer = saved.layers.add(name=name, type=type)
        for blob in new.params[name]:
            values = RNG.standard_normal(blob.shape).astype(np.float32)
            expected.setdefault(name, []).append(values)
            num, channels, length, height, width = (1,) * (5 - values.ndim) + values.shape
            layer.blobs.add(
                num=num, channels=channels, length=length, height=height, width=width, data=values.reshape(-1)
            )
    path = tmp_path / "c3d.caffemodel"
    path.write_bytes(saved.SerializeToString())
    new.copy_from(path)
    for name, blobs in expected.items():
        for blob, values in zip(new.params[name], blobs, strict=True):
            np.testing.assert_array_equal(blob.data, values)


def test_a_blob_of_c3d_is_an_array_of_five_axes():
    values = RNG.standard_normal((1, 2, 3, 2, 5)).astype(np.float32)
    blob = c3ds_messages()[1](num=1, channels=2, length=3, height=2, width=5, data=values.reshape(-1))
    np.testing.assert_array_equal(blob_to_array(proto.BlobProto.FromString(blob.SerializeToString())), values)


@pytest.mark.parametrize(
    ("kind", "shape", "fields", "error", "message"),
    [
        ("Pooling3D", (1, 1, 4, 4), {"kernel_size": 2, "kernel_depth": 2}, ShapeError, "5 axes"),
        ("Pooling3D", (1, 1, 4, 4, 4), {"kernel_size": 2}, LayerError, "kernel_depth"),
        ("Pooling3D", (1, 1, 4, 4, 4), {"kernel_size": 2, "kernel_depth": 2, "temporal_pad": 2}, LayerError, "temporal_pad"),
        ("Pooling3D", (1, 1, 4, 4, 4), {"kernel_size": 2, "kernel_depth": 2, "pool": "STOCHASTIC"}, LayerError, "MAX or AVE"),
        ("Convolution3D", (1, 1, 4, 4), {"num_output": 1, "kernel_size": 2, "kernel_depth": 2}, ShapeError, "needs 3 axes"),
        ("Convolution3D", (1, 1, 4, 4, 4), {"num_output": 1, "kernel_size": 2}, LayerError, "kernel_depth"),
    ],
)  # fmt: skip
def test_what_makes_no_sense(kind, shape, fields, error, message):
    with pytest.raises(error, match=message):
        testing.run(kind, [np.zeros(shape)], **fields)
