"""BatchNorm and Scale folded into the layer before: every kind of layer, and where they must stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_case import run

from minicaffe import proto, weight_files
from minicaffe.errors import WeightsError
from minicaffe.folding import fold
from minicaffe.net import Net
from minicaffe.proto.text import parse
from minicaffe.weight_files import Stored

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 dim: 5 dim: 7 } } }\n'
BN = 'layer { name: "bn" type: "BatchNorm" bottom: "x" top: "%s" batch_norm_param { eps: 0.1 } }\n'
SCALE = 'layer { name: "scale" type: "Scale" bottom: "%s" top: "%s" scale_param { bias_term: %s } }\n'
RELU = 'layer { name: "relu" type: "ReLU" bottom: "%s" top: "y" }\n'


def linear(kind: str, options: str = "") -> str:
    param = "inner_product_param" if kind == "InnerProduct" else "convolution_param"
    size = "" if kind == "InnerProduct" else "kernel_size: 3 "
    return f'layer {{ name: "x" type: "{kind}" bottom: "data" top: "x" {param} {{ num_output: 4 {size}{options} }} }}\n'


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def filled(definition: str) -> tuple[proto.NetParameter, Stored]:
    """The net, and weights for it: noise, and variances that are none too small."""
    net = Net(parse(definition, proto.NetParameter()), proto.TEST)
    rng = np.random.default_rng(3)
    for name, blobs in net.params.items():
        for j, blob in enumerate(blobs):
            positive = net.layer_dict[name].type == "BatchNorm" and j > 0
            blob.data[...] = rng.uniform(0.5, 2, blob.shape) if positive else rng.standard_normal(blob.shape)
    net.save("net.caffemodel")
    return parse(definition, proto.NetParameter()), weight_files.read("net.caffemodel")


def output(net: proto.NetParameter, stored: Stored, name: str = "y") -> np.ndarray:
    weight_files.write("tested.npz", stored)
    made = Net(net, proto.TEST)
    if stored.layers:
        made.copy_from("tested.npz")
    made.blobs["data"].data[...] = np.random.default_rng(1).standard_normal(made.blobs["data"].shape)
    made.forward()
    return made.blobs[name].data.copy()


KINDS = [
    linear("Convolution"),
    linear("Convolution", "bias_term: false"),
    linear("Convolution", "group: 2 pad: 1"),
    linear("Convolution", "dilation: 2 pad: 2"),
    linear("Deconvolution", "stride: 2"),
    linear("Deconvolution", "group: 2 bias_term: false"),
    linear("InnerProduct"),
    linear("InnerProduct", "transpose: true"),
    linear("InnerProduct", "bias_term: false"),
    linear("ConvolutionDepthwise", "bias_term: false").replace("num_output: 4", "num_output: 1"),
    linear("DepthwiseConvolution", "group: 2"),
]
BEHIND = {
    "in place": BN % "x" + SCALE % ("x", "x", "true") + RELU % "x",
    "to new blobs": BN % "b" + SCALE % ("b", "s", "true") + RELU % "s",
    "without bias": BN % "x" + SCALE % ("x", "x", "false") + RELU % "x",
    "scale alone": SCALE % ("x", "s", "true") + RELU % "s",
    "norm alone": BN % "b" + RELU % "b",
}


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("kind", KINDS)
def test_the_output_stays_the_same(kind, behind):
    net, stored = filled(INPUT + kind + BEHIND[behind])
    folded = fold(net, stored)
    assert [layer.name for layer in folded.net.layer] == ["data", "x", "relu"] and not folded.kept
    expected = output(net, stored)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(output(folded.net, folded.weights), expected, rtol=1e-4, atol=1e-5)


def test_the_originals_are_left_alone():
    net, stored = filled(INPUT + KINDS[0] + BEHIND["in place"])
    before, arrays = net.SerializeToString(), {name: array.copy() for name, array in stored.named().items()}
    fold(net, stored)
    assert net.SerializeToString() == before
    for name, array in stored.named().items():
        np.testing.assert_array_equal(array, arrays[name])


OTHER = 'layer { name: "other" type: "ReLU" bottom: "x" top: "z" }\n'


@pytest.mark.parametrize("definition, kept", [
    (KINDS[0] + BN % "b" + OTHER + RELU % "b", {"bn": "it stands behind no layer that it could go into"}),
    (BN.replace('"x"', '"data"') % "b" + RELU % "b", {"bn": "it stands behind no layer that it could go into"}),
    (KINDS[0] + (BN % "b").replace("eps: 0.1", "use_global_stats: false") + RELU % "b",
     {"bn": "it uses the statistics of each batch (use_global_stats: false)"}),
    (KINDS[0] + (SCALE % ("x", "s", "true")).replace("bias_term", "axis: 2 bias_term") + RELU % "s",
     {"scale": "it scales axis 2, 1 axes; expected axis 1 alone"}),
    (KINDS[0].replace("convolution_param", 'loss_weight: 1 convolution_param') + BN % "b" + RELU % "b",
     {"bn": "the output of 'x' is a loss (loss_weight)"}),
    (KINDS[0] + BN % "b" + 'layer { name: "scale" type: "Scale" bottom: "b" bottom: "x" top: "s" }\n' + RELU % "s",
     {"bn": "it stands behind no layer that it could go into", "scale": "it stands behind no layer that it could go into"}),
])  # fmt: skip
def test_what_must_stay(definition, kept):
    definition = INPUT + definition
    if 'bottom: "x" top: "s"' in definition and 'bottom: "b"' in definition:
        net, stored = parse(definition, proto.NetParameter()), Stored()
    else:
        net, stored = filled(definition)
    folded = fold(net, stored)
    assert folded.kept == kept and not folded.into
    assert [layer.name for layer in folded.net.layer] == [layer.name for layer in net.layer]


def test_layers_that_share_params_stay():
    shared = KINDS[0].replace("convolution_param", 'param { name: "w" } param { name: "b" } convolution_param')
    twin = shared.replace('name: "x"', 'name: "twin"').replace('top: "x"', 'top: "t"')
    net, stored = filled(INPUT + shared + twin + BN % "b" + RELU % "b")
    assert fold(net, stored).kept == {"bn": "'x' shares its params with other layers"}


def test_a_bias_that_is_new_learns_as_the_weights_do():
    conv = KINDS[1].replace("convolution_param", "param { lr_mult: 0 } convolution_param")
    net, stored = filled(INPUT + conv + BEHIND["in place"])
    layer = fold(net, stored).net.layer[1]
    assert layer.convolution_param.bias_term and [spec.lr_mult for spec in layer.param] == [0, 0]


def test_only_the_test_phase_is_left():
    train = 'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "y" top: "l" include { phase: TRAIN } }\n'
    net, stored = filled(INPUT + KINDS[0] + BEHIND["in place"])
    net.MergeFrom(parse(train, proto.NetParameter()))
    assert [layer.name for layer in fold(net, stored).net.layer] == ["data", "x", "relu"]


def test_weights_that_the_net_has_no_use_for_are_left_out():
    net, stored = filled(INPUT + KINDS[0] + BEHIND["in place"])
    stored.layers["auxiliary"] = [np.ones(3, np.float32)]
    folded = fold(net, stored)
    assert list(folded.weights.layers) == ["x"]
    weight_files.write("folded.caffemodel", folded.weights)


def test_weights_that_are_missing_are_named():
    net, stored = filled(INPUT + KINDS[0] + BEHIND["in place"])
    del stored.layers["bn"]
    with pytest.raises(
        WeightsError, match=r"layer 'bn' \(BatchNorm\): its params in the weights file are none; expected"
    ):
        fold(net, stored)


def test_the_command_writes_both_files_and_compares_the_nets(capsys):
    definition = INPUT + KINDS[1] + BEHIND["to new blobs"]
    filled(definition)
    Path("net.prototxt").write_text(definition)
    outcome = run(
        capsys, "fold_bn", "net.prototxt", "net.caffemodel", "folded.prototxt", "folded.caffemodel", "--quiet"
    )
    assert outcome.status == 0
    lines = outcome.out.splitlines()
    assert lines[:2] == ["bn, scale -> x", "folded.prototxt, folded.caffemodel: 3 layers, 2 fewer"]
    assert lines[2].startswith("largest difference of the 3 blobs that both nets have: ")
    assert run(capsys, "verify", "folded.prototxt", "folded.caffemodel").status == 0
