"""What Caffe does without a word, and minicaffe with a warning."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from PIL import Image

import minicaffe
from minicaffe import proto
from minicaffe.data.image_source import read_list
from minicaffe.errors import NetError
from minicaffe.proto import text

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }'
IP = """layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
         inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }"""


def build(*layers, more=""):
    return minicaffe.Net(text.parse(more + " ".join(layers), proto.NetParameter()), minicaffe.TRAIN)


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, "minicaffe")
    return lambda: [record.getMessage() for record in caplog.records]


def test_backward_without_gradients_of_the_inputs(warnings):
    net = build(INPUT, IP)
    net.forward(x=np.ones((2, 3)))
    assert not net.backward()["x"].any()
    net.backward()
    (message,) = warnings()
    assert "no gradient of x, which stays 0; set force_backward: true" in message


@pytest.mark.parametrize("rows", [1, 3])
def test_backward_after_a_blob_was_reshaped_needs_a_forward(rows):
    net = build(INPUT, IP, more="force_backward: true ")
    net.forward(x=np.ones((2, 3)))
    net.blobs["x"].reshape(rows, 3)
    with pytest.raises(NetError, match=r"layer 'ip' \(InnerProduct\) cannot run backward: its bottom 'x' was given"):
        net.backward()
    net.forward()
    net.backward()
    assert net.blobs["x"].diff.shape == (rows, 3)


@pytest.mark.parametrize("shape", [(1, 2), (5, 2), (2, 1)])
def test_backward_after_an_output_was_reshaped_needs_a_forward(shape):
    net = build(INPUT, IP, more="force_backward: true ")
    net.forward(x=np.ones((2, 3)))
    net.blobs["y"].reshape(*shape)
    with pytest.raises(NetError, match=r"layer 'ip' \(InnerProduct\) cannot run backward: its top 'y' was given"):
        net.backward()
    net.forward()
    net.backward()
    assert net.blobs["y"].shape == (2, 2)


def test_backward_with_them(warnings):
    net = build(INPUT, IP, more="force_backward: true ")
    net.forward(x=np.ones((2, 3)))
    assert net.backward(y=np.ones((2, 2)))["x"].any()
    assert not warnings()


def test_labels_are_no_inputs_that_lack_a_gradient(warnings):
    labels = 'layer { name: "l" type: "Input" top: "l" input_param { shape { dim: 2 } } }'
    loss = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "l" top: "loss" }'
    accuracy = 'layer { name: "acc" type: "Accuracy" bottom: "y" bottom: "l" top: "acc" }'
    net = build(INPUT, labels, IP, loss, accuracy)
    net.forward(x=np.ones((2, 3)), l=np.zeros(2))
    net.backward()
    (message,) = warnings()
    assert "no gradient of x, which stays 0" in message


RELU = 'layer { name: "relu" type: "Sigmoid" bottom: "x" top: "x" }'
CONSTANT = (
    'layer { name: "in" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 } data_filler { value: 3 } } }'
)


def test_a_source_that_is_filled_once_under_a_layer_in_place(warnings):
    build(INPUT, RELU)
    (message,) = warnings()
    assert "'relu' (Sigmoid) works in place on the top of layer 'in'" in message


def test_a_source_that_is_filled_anew(warnings):
    build(CONSTANT, RELU)
    build(CONSTANT.replace("value: 3", 'type: "gaussian"'), RELU)
    build(INPUT, RELU.replace('top: "x"', 'top: "y"'))
    assert not warnings()


def test_memory_data_with_a_transform(warnings):
    sizes = "batch_size: 1 channels: 1 height: 1 width: 1"
    build(
        f'layer {{ name: "m" type: "MemoryData" top: "x" top: "l" memory_data_param {{ {sizes} }} '
        "transform_param { scale: 2 } }"
    )
    (message,) = warnings()
    assert "layer 'm' (MemoryData): its transform_param is without effect" in message


def test_labels_that_are_no_whole_numbers(warnings, tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("a.png 1\nb.png 0.7\nc d.png 2 \ne.png x\n")
    assert [label for _, label in read_list(path)][:2] == [1, 0]
    (message,) = warnings()
    assert "line 2: the label '0.7' is read as 0" in message
    path.write_text("a.png 1\nc d.png -2\n")
    read_list(path)
    assert len(warnings()) == 1


@pytest.mark.parametrize("save", ["save", "save_hdf5"])
def test_weights_that_are_no_numbers(warnings, tmp_path, save):
    net = build(INPUT, IP)
    net.params["ip"][0].data[1, 1] = np.nan
    path = tmp_path / ("w.caffemodel" if save == "save" else "w.caffemodel.h5")
    getattr(net, save)(path)
    net.copy_from(path)
    (message,) = warnings()
    assert f"{path}: param 0 of layer 'ip' holds NaN or infinity" in message


@pytest.mark.parametrize("field", ["fg_fraction: nan", "fg_fraction: -1", "fg_fraction: 1.5", "bg_threshold: nan"])
def test_window_data_fractions(tmp_path, field):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "w.txt").write_text(f"# 0\n{tmp_path}/a.png\n3 9 9\n1\n1 1 0 0 5 5\n")
    with pytest.raises(minicaffe.MinicaffeError, match=f"window_data_param.{field.split(':')[0]}: must"):
        build(
            f'layer {{ name: "w" type: "WindowData" top: "x" top: "l" transform_param {{ crop_size: 4 }} '
            f'window_data_param {{ source: "{tmp_path}/w.txt" batch_size: 2 {field} }} }}'
        )
