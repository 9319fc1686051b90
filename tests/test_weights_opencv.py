"""Weights that are written here, read by another program: OpenCV 4's dnn module computes the same (skipped without it)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import minicaffe
from minicaffe import proto
from minicaffe.proto.blobs import array_to_blob

cv2 = pytest.importorskip("cv2", reason="OpenCV 4 is not installed (pip install 'opencv-python-headless<5')")
if not hasattr(cv2.dnn, "readNetFromCaffe"):
    pytest.skip("this OpenCV reads no Caffe models; 4 does", allow_module_level=True)

NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 12 dim: 12 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
        convolution_param { num_output: 8 kernel_size: 3 pad: 1 group: 1 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }
layer { name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "bn" top: "bn" }
layer { name: "pool" type: "Pooling" bottom: "bn" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "depth" type: "Convolution" bottom: "pool" top: "depth"
        convolution_param { num_output: 8 kernel_size: 3 group: 8 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "depth" top: "ip"
        inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""


@pytest.fixture
def net(tmp_path):
    """A net whose params are all different from what fillers give."""
    (tmp_path / "net.prototxt").write_text(NET)
    net = minicaffe.Net(str(tmp_path / "net.prototxt"), minicaffe.TEST)
    rng = np.random.default_rng(1)
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] += rng.uniform(0.1, 0.4, blob.shape)
    return net


def same_in_opencv(net, weights: Path) -> None:
    x = np.random.default_rng(2).standard_normal((2, 3, 12, 12), dtype=np.float32)
    net.blobs["x"].data[...] = x
    ours = net.forward()["prob"]
    theirs = cv2.dnn.readNetFromCaffe(str(weights.parent / "net.prototxt"), str(weights))
    theirs.setInput(x)
    np.testing.assert_allclose(theirs.forward(), ours, rtol=1e-4, atol=1e-6)
    assert ours.std() > 1e-3


def test_saved_net(net, tmp_path):
    net.save(str(tmp_path / "w.caffemodel"))
    same_in_opencv(net, tmp_path / "w.caffemodel")


def test_snapshot_with_gradients(net, tmp_path):
    minicaffe.weights.save(net, tmp_path / "w.caffemodel", write_diff=True)
    same_in_opencv(net, tmp_path / "w.caffemodel")


def test_net_that_went_through_hdf5(net, tmp_path):
    net.save_hdf5(str(tmp_path / "w.caffemodel.h5"))
    other = minicaffe.Net(str(tmp_path / "net.prototxt"), minicaffe.TEST)
    other.copy_from(str(tmp_path / "w.caffemodel.h5"))
    other.save(str(tmp_path / "w.caffemodel"))
    same_in_opencv(net, tmp_path / "w.caffemodel")


def old_form(net, kind: str) -> bytes:
    """The net's weights as older versions and forks wrote them."""
    message = net.to_proto()
    for layer in message.layer:
        for blob in layer.blobs:
            values = np.array(blob.data, np.float32).reshape(blob.shape.dim)
            if kind == "double":
                blob.CopyFrom(array_to_blob(values.astype(np.float64)))
            elif kind == "half":
                blob.ClearField("data")
                blob.raw_data_type, blob.raw_data = proto.BlobProto.FLOAT16, values.astype("<f2").tobytes()
            elif kind == "4-D":
                dims = (1,) * (4 - values.ndim) + values.shape
                blob.ClearField("shape")
                blob.num, blob.channels, blob.height, blob.width = dims
    if kind != "V1":
        return message.SerializeToString()
    types = {"Convolution": 4, "Pooling": 17, "ReLU": 18, "InnerProduct": 14, "Softmax": 20}
    old = proto.NetParameter(name=message.name)
    for layer in message.layer:
        if layer.type in types:
            old.layers.add(name=layer.name, type=types[layer.type], blobs=layer.blobs)
    return old.SerializeToString()


@pytest.mark.parametrize("kind", ["double", "half", "4-D", "V1"])
def test_older_forms_are_read_and_written_anew(net, tmp_path, kind):
    (tmp_path / "old.caffemodel").write_bytes(old_form(net, kind))
    other = minicaffe.Net(str(tmp_path / "net.prototxt"), minicaffe.TEST)
    for blobs in other.params.values():
        for blob in blobs:
            blob.data[...] = 7
    other.copy_from(str(tmp_path / "old.caffemodel"))
    if kind == "V1":  # which has no BatchNorm and no Scale
        for name in ("bn", "scale"):
            for mine, theirs in zip(other.params[name], net.params[name], strict=True):
                mine.data[...] = theirs.data
    exact = kind != "half"
    for name, blobs in net.params.items():
        for mine, theirs in zip(other.params[name], blobs, strict=True):
            np.testing.assert_allclose(mine.data, theirs.data, rtol=0 if exact else 1e-3)
    other.save(str(tmp_path / "w.caffemodel"))
    same_in_opencv(other, tmp_path / "w.caffemodel")
