"""AutoCrop: nets that say which blob to cut like which, and not where."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from minicaffe import proto
from minicaffe.errors import NetError
from minicaffe.net import Net
from minicaffe.proto import text

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 13 dim: 16 } } }'


def net(layers: str, phase: int = proto.TEST, data: str = DATA) -> Net:
    return Net(text.parse(data + layers, proto.NetParameter()), phase)


def conv(name: str, bottom: str, options: str, kind: str = "Convolution", more: str = "") -> str:
    filler = 'weight_filler { type: "xavier" }'
    return (
        f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {more} '
        f"convolution_param {{ num_output: 2 {options} {filler} }} }}"
    )


def pool(bottom: str, options: str = "kernel_size: 2 stride: 2") -> str:
    return f'layer {{ name: "pool" type: "Pooling" bottom: "{bottom}" top: "pool" pooling_param {{ {options} }} }}'


def crop(x: str, like: str = "data", kind: str = "AutoCrop", options: str = "") -> str:
    return f'layer {{ name: "cut" type: "{kind}" bottom: "{x}" bottom: "{like}" top: "cut" {options} }}'


RELU = 'layer { name: "relu" type: "ReLU" bottom: "c" top: "c" }'
HED = conv("c", "data", "kernel_size: 3 pad: 9") + RELU + pool("c") + conv("s", "pool", "kernel_size: 1")
HED += conv("up", "s", "kernel_size: 4 stride: 2", "Deconvolution")
DILATED = conv("c", "data", "kernel_size: 3 pad: 9 {}") + conv("up", "c", "kernel_size: 1")


@pytest.mark.parametrize(
    ("layers", "offsets"),
    [
        (HED, [9]),  # 8 of the pad, and 1 of the deconvolution over the pooling
        (DILATED.replace("{}", "dilation: 3"), [6]),
        (DILATED.replace("{}", "hole: 3"), [6]),
        (conv("up", "data", "kernel_size: 3 kernel_size: 1 pad: 4 pad: 2"), [3, 2]),
        (conv("up", "data", "kernel_size: 1"), [0]),
        (
            conv("c", "data", "kernel_size: 1 pad: 49 stride: 49")
            + conv("up", "c", "kernel_size: 1 stride: 49", "Deconvolution"),
            [49],
        ),
    ],
)
def test_the_crop_lies_over_the_other_blob(layers, offsets):
    made = net(layers + crop("up"))
    layer = made.layer_dict["cut"]
    assert made.blobs["cut"].shape == (1, 2, 13, 16)
    assert (layer.axis, list(layer.offset)) == (2, offsets)
    rng = np.random.default_rng(0)
    made.blobs["data"].data[...] = rng.standard_normal(made.blobs["data"].shape)
    made.forward()
    y, x = offsets[0], offsets[-1]
    np.testing.assert_array_equal(made.blobs["cut"].data, made.blobs["up"].data[:, :, y : y + 13, x : x + 16])


def test_pixels_stay_where_they_are():
    """A bright pixel comes out at its own place, through pooling, and a deconvolution that spreads it evenly."""
    made = net(
        conv("c", "data", "kernel_size: 3 pad: 9")
        + pool("c", "kernel_size: 3 stride: 1")
        + conv("up", "pool", "kernel_size: 5 stride: 1 group: 2", "Deconvolution")
        + crop("up")
    )
    for name in ("c", "up"):
        made.params[name][0].data[...] = 1
    made.blobs["data"].data[0, :, 6, 8] = 1
    made.forward()
    weights = made.blobs["cut"].data[0, 0]
    places = np.argwhere(weights > 0)
    np.testing.assert_array_equal(np.average(places, axis=0, weights=weights[weights > 0]), (6, 8))


def test_a_crop_of_a_crop():
    again = conv("d", "data", "kernel_size: 3 pad: 4") + crop("d", "cut").replace('name: "cut"', 'name: "twice"')
    made = net(HED + crop("up") + again.replace('top: "cut"', 'top: "twice"'))
    assert list(made.layer_dict["twice"].offset) == [3]


def test_what_is_given_counts():
    assert list(net(HED + crop("up", options="crop_param { offset: 2 }")).layer_dict["cut"].offset) == [2]


def test_a_saved_net_says_where_it_cut(tmp_path):
    saved = net(HED + crop("up"), proto.TRAIN).to_proto()
    layer = next(layer for layer in saved.layer if layer.name == "cut")
    assert (layer.type, list(layer.crop_param.offset)) == ("AutoCrop", [9])


def test_gradients_go_where_values_came_from():
    made = net(
        HED + crop("up") + 'layer { name: "l" type: "Reduction" bottom: "cut" top: "l" loss_weight: 1 }', proto.TRAIN
    )
    made.forward()
    made.backward()
    expected = np.zeros(made.blobs["up"].shape)
    expected[:, :, 9:22, 9:25] = 1
    np.testing.assert_array_equal(made.blobs["up"].diff, expected)


def test_the_crop_of_old_nets_is_automatic():
    old = """layers { name: "c" type: CONVOLUTION bottom: "data" top: "up"
        convolution_param { num_output: 2 kernel_size: 3 pad: 5 } }
        layers { name: "cut" type: CROP bottom: "up" bottom: "data" top: "cut" }"""
    made = net(old, data='input: "data" input_dim: 1 input_dim: 2 input_dim: 13 input_dim: 16 ')
    assert list(made.layer_dict["cut"].offset) == [4]


def test_a_plain_crop_cuts_from_0_on_and_warns(caplog):
    with caplog.at_level(logging.WARNING, "minicaffe"):
        made = net(HED + crop("up", kind="Crop"))
    assert list(made.layer_dict["cut"].offset) == []
    assert "older forks (FCN, HED, U-Net) let it begin at 9, over 'data'" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "minicaffe"):
        net(HED + crop("up", kind="Crop", options="crop_param { axis: 2 }"))
        net(conv("up", "data", "kernel_size: 1") + crop("up", kind="Crop"))
    assert "older forks" not in caplog.text


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        (conv("c", "data", "kernel_size: 3 pad: 9") + pool("c") + crop("pool"), "scale mismatch on crop"),
        (conv("c", "data", "kernel_size: 3") + crop("c"), "cannot crop negative width"),
        (conv("c", "data", "kernel_size: 2 pad: 2") + crop("c"), "cannot crop noninteger width"),
        (DATA.replace('"data"', '"other"') + crop("other"), "are they connected by spatial layers"),
        (conv("c", "data", "kernel_size: 3 stride: 0") + crop("c"), "scale mismatch"),
        (
            conv("c", "data", "kernel_size: [3, 3, 3]") + conv("d", "c", "kernel_size: [3, 3]") + crop("d"),
            "could not be broadcast",
        ),
        (conv("c", "data", "kernel_h: 3 kernel_w: 3 pad: 2") + crop("c"), r"give kernel_size=\[h, w\]"),
    ],
)
def test_what_cannot_lie_over_it_is_refused(layers, problem):
    with pytest.raises(NetError, match=rf"layer 'cut' \(AutoCrop\): .*{problem}.*crop_param"):
        net(layers)
