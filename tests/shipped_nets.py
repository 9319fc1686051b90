"""A small net of each shipped model, with random weights."""

from __future__ import annotations

import numpy as np

from minicaffe import graph, models, proto
from minicaffe.net import Net
from minicaffe.proto.files import read_net
from minicaffe.proto.origin import Origin

SHIPPED = {
    "alexnet/deploy.prototxt": {"data": (1, 3, 67, 67)},
    "caffenet/deploy.prototxt": {"data": (1, 3, 67, 67)},
    "cifar10/cifar10_full.prototxt": {"data": (1, 3, 32, 32)},
    "cifar10/cifar10_full_sigmoid_train_test_bn.prototxt": {"data": (2, 3, 32, 32), "label": (2,)},
    "cifar10/cifar10_quick.prototxt": {"data": (1, 3, 32, 32)},
    "flickr_style/deploy.prototxt": {"data": (1, 3, 67, 67)},
    "googlenet/deploy.prototxt": {"data": (1, 3, 224, 224)},
    "lenet/lenet.prototxt": {"data": (1, 1, 28, 28)},
    "lenet/lenet_train_test.prototxt": {"data": (4, 1, 28, 28), "label": (4,)},
    "mnist_autoencoder/mnist_autoencoder.prototxt": {"data": (2, 1, 28, 28)},
    "mobilenet/deploy.prototxt": {"data": (1, 3, 32, 32)},
    "rcnn_ilsvrc13/deploy.prototxt": {"data": (1, 3, 67, 67)},
    "resnet50/deploy.prototxt": {"data": (1, 3, 224, 224)},
    "segmentation/deploy.prototxt": {"image": (1, 1, 96, 96)},
    "siamese/mnist_siamese.prototxt": {"data": (1, 1, 28, 28)},
    "siamese/mnist_siamese_train_test.prototxt": {"pair_data": (3, 2, 28, 28), "sim": (3,)},
    "squeezenet/deploy.prototxt": {"data": (1, 3, 67, 67)},
    "ssd/deploy.prototxt": {"image": (1, 1, 96, 96)},
    "vgg16/deploy.prototxt": {"data": (1, 3, 32, 32)},
}
"""A net of each shipped model, and sizes of its inputs, small where the net takes that."""


def shipped(path, shapes):
    """A shipped net with a quarter of its channels and few hidden units, but for those it ends with; all of SSD and
    of the FCN, whose later layers name how many there are.
    """
    definition = graph.with_state(read_net(models.find(path))[0], proto.TEST, stages=["test-on-test"])
    definition = graph.with_inputs(graph.filter_net(definition), shapes)
    for layer in definition.layer:
        conv, inner = layer.convolution_param, layer.inner_product_param
        if layer.type == "Convolution" and not path.startswith(("ssd", "segmentation")):
            conv.group = conv.group // 4 or 1 if conv.group == conv.num_output else conv.group
            conv.num_output //= 4
        elif layer.type == "InnerProduct":
            inner.num_output = inner.num_output if inner.num_output < 1000 else 64
    net = Net.from_param(definition, Origin(path))
    randomize(net, np.random.default_rng(0))
    return net


def randomize(net, rng):
    """Random weights, whose sums keep their size, and random statistics."""
    for step in net.steps:
        blobs = [blob.data for blob in step.layer.blobs]
        if step.layer.type == "BatchNorm":
            blobs[2][...] = rng.uniform(1, 900)
            blobs[0][...] = rng.normal(0, 0.3, blobs[0].shape) * blobs[2]
            blobs[1][...] = rng.uniform(0.5, 2, blobs[1].shape) * blobs[2]
        elif step.layer.type == "Scale":
            blobs[0][...], blobs[1][...] = rng.uniform(0.7, 1.3, blobs[0].shape), rng.normal(0, 0.3, blobs[1].shape)
        else:
            for values in blobs:
                fan_in = values[0].size if values.ndim > 1 else 100
                values[...] = rng.standard_normal(values.shape, np.float32) / fan_in**0.5
