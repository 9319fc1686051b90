"""The nets of the shipped models: blobs and params as Caffe makes them, or as the papers count them; and they train."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from minicaffe import backend, graph, models, proto
from minicaffe.net import Net
from minicaffe.proto.files import read_net

GOLDEN = json.loads((Path(__file__).parent / "golden" / "nets" / "structures.json").read_text())
"""Layers, blob and param shapes of Caffe's reference nets, their data layers replaced by inputs ``in_<blob>``."""

FILES = {
    "alexnet": "alexnet/train_val.prototxt",
    "bvlc_alexnet_deploy": "alexnet/deploy.prototxt",
    "bvlc_googlenet_deploy": "googlenet/deploy.prototxt",
    "bvlc_reference_caffenet_deploy": "caffenet/deploy.prototxt",
    "bvlc_reference_rcnn_ilsvrc13_deploy": "rcnn_ilsvrc13/deploy.prototxt",
    "caffenet": "caffenet/train_val.prototxt",
    "cifar10_full": "cifar10/cifar10_full_train_test.prototxt",
    "cifar10_full_sigmoid": "cifar10/cifar10_full_sigmoid_train_test.prototxt",
    "cifar10_full_sigmoid_bn": "cifar10/cifar10_full_sigmoid_train_test_bn.prototxt",
    "cifar10_quick": "cifar10/cifar10_quick_train_test.prototxt",
    "finetune_flickr_style_deploy": "flickr_style/deploy.prototxt",
    "flickr_style": "flickr_style/train_val.prototxt",
    "googlenet": "googlenet/train_val.prototxt",
    "lenet_deploy": "lenet/lenet.prototxt",
    "lenet_train_test": "lenet/lenet_train_test.prototxt",
    "mnist_autoencoder": "mnist_autoencoder/mnist_autoencoder.prototxt",
    "siamese_deploy": "siamese/mnist_siamese.prototxt",
    "siamese_train_test": "siamese/mnist_siamese_train_test.prototxt",
}

IMAGENET = {
    "squeezenet": 227, "resnet50": 224, "mobilenet": 224, "caffenet": 227, "alexnet": 227, "googlenet": 224, "vgg16": 224,
}  # fmt: skip
"""Models for ImageNet, and the side of the crops they take."""


def definition(path: str, shapes: dict, fillers: bool = False) -> proto.NetParameter:
    """A shipped net with inputs of these shapes in place of its data layers; without fillers its weights are zeros."""
    net = graph.with_inputs(read_net(models.find(path))[0], shapes)
    for layer in () if fillers else net.layer:
        for options in (layer.convolution_param, layer.inner_product_param):
            options.ClearField("weight_filler")
    return net


def image_net(name: str, file: str, phase: int, batch: int = 1, fillers: bool = False) -> Net:
    """A net of an ImageNet model."""
    side = IMAGENET[name]
    shapes = {"data": (batch, 3, side, side), "label": (batch,)}
    if file == "deploy":
        del shapes["label"]
    return Net(definition(f"{name}/{file}.prototxt", shapes, fillers), phase)


def learned(net: Net) -> int:
    """Numbers that training changes."""
    return sum(param.blob.count for param in net.learnable if param.lr_mult)


@pytest.mark.parametrize("case", GOLDEN)
def test_structure_is_caffes(case):
    expected = GOLDEN[case]
    name, phase = case.rsplit("_", 1)
    net = Net(definition(FILES[name], expected["inputs"]), proto.Phase.Value(phase))
    found = [
        [
            layer.name,
            layer.type,
            net.bottom_names[layer.name],
            net.top_names[layer.name],
            [list(b.shape) for b in layer.blobs],
        ]
        for layer in net.layers
    ]
    if case.startswith("mnist_autoencoder"):  # two of its layers are named loss
        for row, step in zip(found, net.steps, strict=True):
            row[2:4] = ([net._blob_names[i] for i in ids] for ids in (step.bottom_ids, step.top_ids))
    inputs = {f"in_{blob}": blob for blob in expected["inputs"]}
    splits = {f"_in_{blob}_": f"_{blob}_" for blob in expected["inputs"]}

    def renamed(row: list) -> list:
        """Caffe's row, its input layers named as those of ``with_inputs``."""
        text = json.dumps([inputs.get(row[0], row[0]), *row[1:]])
        for old, new in splits.items():
            text = text.replace(f"{old}0_split", f"{new}0_split")
        return json.loads(text)

    assert found == [renamed(row) for row in expected["layers"]]
    blobs = {
        renamed([blob])[0] if blob not in inputs.values() else blob: values
        for blob, values in expected["blobs"].items()
    }
    assert {blob: [list(b.shape), net.blob_loss_weights[blob]] for blob, b in net.blobs.items()} == blobs
    assert net.outputs == expected["outputs"]
    assert sum(blob.count for layer in net.layers for blob in layer.blobs) == expected["params"]


def test_every_golden_structure_has_its_model():
    assert {case.rsplit("_", 1)[0] for case in GOLDEN} == set(FILES)


@pytest.mark.parametrize(
    "name, count",
    [("squeezenet", 1_235_496), ("resnet50", 25_557_032), ("mobilenet", 4_231_976), ("vgg16", 138_357_544)],
)
def test_params_are_as_many_as_the_paper_counts(name, count):
    nets = [
        image_net(name, file, phase)
        for file, phase in (("train_val", proto.TRAIN), ("train_val", proto.TEST), ("deploy", proto.TEST))
    ]
    assert [learned(net) for net in nets] == [count] * 3
    train, test, deploy = (
        {layer: [blob.shape for blob in blobs] for layer, blobs in net.params.items()} for net in nets
    )
    assert train == test == deploy


@pytest.mark.parametrize("name, shapes", [
    ("squeezenet", {
        "conv1": (1, 64, 113, 113), "pool1": (1, 64, 56, 56), "fire3/concat": (1, 128, 56, 56), "pool3": (1, 128, 28, 28),
        "pool5": (1, 256, 14, 14), "fire9/concat": (1, 512, 14, 14), "conv10": (1, 1000, 14, 14), "prob": (1, 1000, 1, 1)}),
    ("resnet50", {
        "conv1": (1, 64, 112, 112), "pool1": (1, 64, 56, 56), "res2c": (1, 256, 56, 56), "res3d": (1, 512, 28, 28),
        "res4f": (1, 1024, 14, 14), "res5c": (1, 2048, 7, 7), "pool5": (1, 2048, 1, 1), "prob": (1, 1000)}),
    ("mobilenet", {
        "conv1": (1, 32, 112, 112), "conv2_2/sep": (1, 128, 56, 56), "conv3_2/dw": (1, 128, 28, 28),
        "conv4_2/sep": (1, 512, 14, 14), "conv5_6/sep": (1, 1024, 7, 7), "pool6": (1, 1024, 1, 1), "prob": (1, 1000, 1, 1)}),
    ("vgg16", {
        "conv1_2": (1, 64, 224, 224), "pool1": (1, 64, 112, 112), "pool2": (1, 128, 56, 56), "conv3_3": (1, 256, 56, 56),
        "conv4_3": (1, 512, 28, 28), "pool5": (1, 512, 7, 7), "fc6": (1, 4096), "prob": (1, 1000)}),
])  # fmt: skip
def test_blobs_have_the_papers_shapes(name, shapes):
    net = image_net(name, "deploy", proto.TEST)
    assert {blob: net.blobs[blob].shape for blob in shapes} == shapes
    assert net.outputs == ["prob"]


def test_mobilenet_filters_each_channel_by_itself():
    net = image_net("mobilenet", "deploy", proto.TEST)
    depthwise = [layer for layer in net.layers if layer.name.endswith("/dw")]
    assert len(depthwise) == 2 * 13  # convolutions, and ReLUs
    for layer in depthwise[::2]:
        assert layer.group == layer.num_output == layer.blobs[0].shape[0]
        assert layer.blobs[0].shape[1:] == (1, 3, 3)


def test_resnet_normalises_by_phase():
    for phase in (proto.TRAIN, proto.TEST):
        norms = [layer for layer in image_net("resnet50", "train_val", phase).layers if layer.type == "BatchNorm"]
        assert len(norms) == 53
        assert all(layer.use_global_stats == (phase == proto.TEST) for layer in norms)


def fill_by_formula(net: Net) -> None:
    """The weights and the input of the ``fingerprint__*`` cases, float32 numbers, which so need not be stored."""
    for k, blob in enumerate(blob for blobs in net.params.values() for blob in blobs):
        values = (np.arange(blob.count, dtype=np.int64) * 7919 + k * 104729) % 2003 / 2003.0 - 0.5
        values *= 2 * np.sqrt(6 / (blob.count / blob.shape[0])) if len(blob.shape) > 1 else 0.1
        blob.data[...] = values.astype(np.float32).reshape(blob.shape)
    data = net.blobs["data"]
    values = (np.arange(data.count, dtype=np.int64) * 6151 + 17) % 509 / 509.0 * 255 - 128
    data.data[...] = values.astype(np.float32).reshape(data.shape)


@pytest.mark.parametrize("name", ["bvlc_alexnet", "bvlc_reference_caffenet", "bvlc_googlenet"])
def test_values_are_caffes(name, golden):
    """In float64: the first values of a blob may be small beside the sums they come from, and float32 loses their
    digits.
    """
    with np.load(golden / "nets" / f"fingerprint__{name}.npz") as z:
        expected = {key.replace("|", "/"): values for key, values in z.items()}
    shapes = {"data": GOLDEN[f"{name}_deploy_TEST"]["inputs"]["data"]}
    net = Net(definition(FILES[f"{name}_deploy"], shapes), proto.TEST, dtype=np.float64)
    fill_by_formula(net)
    net.run_forward()
    compared = 0
    for key in expected:
        kind, _, blob = key.partition("__")
        if kind == "first16":
            found = net.blobs[blob].data.ravel()[:16]
        elif kind == "stat":
            x = net.blobs[blob].data
            found = [x.mean(), np.abs(x).mean(), x.std(), x.max(), x.min()]
        else:
            continue
        scale = np.abs(expected[key]).max()
        np.testing.assert_allclose(found, expected[key], rtol=0, atol=1e-4 * scale + 1e-6, err_msg=key)
        compared += 1
    assert compared >= 30


def trained_once(net: Net, classes: int) -> None:
    """Run the net forward and backward on random images, and check what comes out: the loss of chance, and finite
    gradients.
    """
    rng = np.random.default_rng(1)
    net.blobs["data"].data[...] = rng.uniform(-50, 50, net.blobs["data"].shape)
    net.blobs["label"].data[...] = rng.integers(classes, size=net.blobs["label"].shape)
    net.run_forward()
    assert net.blobs["loss"].data == pytest.approx(math.log(classes), abs=1)
    net.run_backward()
    for param in net.learnable:
        assert np.isfinite(param.blob.diff).all()
        assert param.blob.diff.any() == bool(param.lr_mult)


@pytest.mark.parametrize("name, batch", [("squeezenet", 1), ("mobilenet", 2)])
def test_a_step_of_training(name, batch):
    backend.random.seed(1)
    net = image_net(name, "train_val", proto.TRAIN, batch, fillers=True)
    trained_once(net, 1000)


@pytest.mark.parametrize("name", ["quick", "full"])
def test_a_step_of_training_on_cifar10(name):
    backend.random.seed(1)
    net = Net(definition(FILES[f"cifar10_{name}"], {"data": (4, 3, 32, 32), "label": (4,)}, fillers=True), proto.TRAIN)
    trained_once(net, 10)
