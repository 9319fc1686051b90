"""All built-in layers, by family; importing this package registers them."""

from minicaffe.layers import (
    activation,
    channels,
    classification,
    convolution,
    data,
<<<<<<< HEAD
    detection_evaluate,
    detection_output,
=======
    depthwise,
>>>>>>> forks
    eltwise,
    focal_loss,
    hdf5,
    indexing,
    inner_product,
    loss,
    multibox_loss,
    neuron,
    normalisation,
    parameter,
    permute,
    pooling,
    power,
    prior_box,
    recurrent,
    reduction,
    scale_bias,
    shape,
    smooth_l1_loss,
    softmax,
    unit_norm,
)
from minicaffe.layers.base import TEST, TRAIN, Layer
from minicaffe.layers.blob_vec import BlobVec
from minicaffe.layers.factory import create, layer_types

__all__ = [
    "TEST",
    "TRAIN",
    "BlobVec",
    "Layer",
    "create",
    "layer_types",
    "activation",
    "channels",
    "classification",
    "convolution",
    "data",
<<<<<<< HEAD
    "detection_evaluate",
    "detection_output",
=======
    "depthwise",
>>>>>>> forks
    "eltwise",
    "focal_loss",
    "hdf5",
    "indexing",
    "inner_product",
    "loss",
    "multibox_loss",
    "neuron",
    "normalisation",
    "parameter",
    "permute",
    "pooling",
    "power",
    "prior_box",
    "recurrent",
    "reduction",
    "scale_bias",
    "shape",
    "smooth_l1_loss",
    "softmax",
    "unit_norm",
]
