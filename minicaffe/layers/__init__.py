"""All built-in layers, by family; importing this package registers them."""

from minicaffe.layers import common, data, hdf5, loss, neuron, reduction, utility, vision
from minicaffe.layers.base import TEST, TRAIN, BlobVec, Layer, Source
from minicaffe.layers.factory import create, layer_types

__all__ = ["TEST", "TRAIN", "BlobVec", "Layer", "Source", "create", "layer_types",
           "common", "data", "hdf5", "loss", "neuron", "reduction", "utility", "vision"]
