"""All built-in layers, by family; importing this package registers them.

Beside that it is pycaffe's ``caffe.layers``: ``layers.Convolution(bottom, kernel_size=3)``, for a layer of any type,
makes the tops of a new layer in a definition (``minicaffe.net_spec``).
"""

from collections.abc import Callable
from typing import Any

from minicaffe import net_spec
from minicaffe.layers import (
    activation,
    annotated_data,
    augmentation,
    bn,
    channels,
    classification,
    convolution,
    ctc,
    data,
    depthwise,
    detection_evaluate,
    detection_output,
    distance_loss,
    domain_transform,
    downsample,
    eltwise,
    flow,
    focal_loss,
    fork_lstm,
    hdf5,
    indexing,
    inner_product,
    interp,
    loss,
    margin,
    metric,
    multibox_loss,
    neuron,
    normalisation,
    ohem,
    parameter,
    permute,
    pooling,
    power,
    prior_box,
    proposal,
    recurrent,
    reduction,
    region_loss,
    reorg,
    roi,
    sampling,
    scale_bias,
    score_loss,
    segmentation,
    sequence,
    shape,
    smooth_l1_loss,
    softmax,
    spp,
    unit_norm,
    video,
    volume,
    yolo_output,
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
    "annotated_data",
    "augmentation",
    "bn",
    "channels",
    "classification",
    "convolution",
    "ctc",
    "data",
    "depthwise",
    "detection_evaluate",
    "detection_output",
    "distance_loss",
    "domain_transform",
    "downsample",
    "eltwise",
    "flow",
    "focal_loss",
    "fork_lstm",
    "hdf5",
    "indexing",
    "inner_product",
    "loss",
    "margin",
    "metric",
    "multibox_loss",
    "neuron",
    "normalisation",
    "ohem",
    "parameter",
    "permute",
    "pooling",
    "power",
    "prior_box",
    "proposal",
    "recurrent",
    "sampling",
    "score_loss",
    "sequence",
    "reduction",
    "region_loss",
    "reorg",
    "roi",
    "scale_bias",
    "interp",
    "segmentation",
    "shape",
    "smooth_l1_loss",
    "softmax",
    "spp",
    "unit_norm",
    "video",
    "volume",
    "yolo_output",
]


def __getattr__(name: str) -> Callable[..., Any]:
    """What makes layers of type ``name``, which is registered, or has a capital letter first as all of Caffe's have."""
    if name[:1].isupper() or name in layer_types():
        return getattr(net_spec.layers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}, nor is there a layer of this type")


def __dir__() -> list[str]:
    return sorted({*globals(), *layer_types()})
