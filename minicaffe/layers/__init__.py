"""All built-in layers, by family; importing this package registers them."""

from minicaffe.layers import (
    classification,
    convolution,
    data,
    eltwise,
    hdf5,
    indexing,
    inner_product,
    loss,
    neuron,
    normalisation,
    parameter,
    pooling,
    power,
    recurrent,
    reduction,
    scale_bias,
    shape,
    softmax,
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
    "classification",
    "convolution",
    "data",
    "eltwise",
    "hdf5",
    "indexing",
    "inner_product",
    "loss",
    "neuron",
    "normalisation",
    "parameter",
    "pooling",
    "power",
    "recurrent",
    "reduction",
    "scale_bias",
    "shape",
    "softmax",
]
