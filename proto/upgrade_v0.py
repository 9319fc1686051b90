"""The first upgrade: V0 layers (``layers { layer { type: "conv" num_output: 20 } bottom: "data" }``) to V1 layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from minicaffe import proto
from minicaffe.errors import PrototxtError

_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

_PARAMS = {
    "concat": "concat_param",
    "conv": "convolution_param",
    "data": "data_param",
    "dropout": "dropout_param",
    "hdf5_data": "hdf5_data_param",
    "images": "image_data_param",
    "infogain_loss": "infogain_loss_param",
    "innerproduct": "inner_product_param",
    "lrn": "lrn_param",
    "pool": "pooling_param",
    "window_data": "window_data_param",
}

# V0 field: its V1 name, and the layer types that have it; it goes into the type's own param message.
_FIELDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "num_output": ("num_output", ("conv", "innerproduct")),
    "biasterm": ("bias_term", ("conv", "innerproduct")),
    "weight_filler": ("weight_filler", ("conv", "innerproduct")),
    "bias_filler": ("bias_filler", ("conv", "innerproduct")),
    "pad": ("pad", ("conv", "pool")),
    "kernelsize": ("kernel_size", ("conv", "pool")),
    "group": ("group", ("conv",)),
    "stride": ("stride", ("conv", "pool")),
    "pool": ("pool", ("pool",)),
    "dropout_ratio": ("dropout_ratio", ("dropout",)),
    "local_size": ("local_size", ("lrn",)),
    "alpha": ("alpha", ("lrn",)),
    "beta": ("beta", ("lrn",)),
    "k": ("k", ("lrn",)),
    "source": ("source", ("data", "hdf5_data", "images", "window_data", "infogain_loss")),
    "batchsize": ("batch_size", ("data", "hdf5_data", "images", "window_data")),
    "rand_skip": ("rand_skip", ("data", "images")),
    "shuffle_images": ("shuffle", ("images",)),
    "new_height": ("new_height", ("images",)),
    "new_width": ("new_width", ("images",)),
    "concat_dim": ("concat_dim", ("concat",)),
    "det_fg_threshold": ("fg_threshold", ("window_data",)),
    "det_bg_threshold": ("bg_threshold", ("window_data",)),
    "det_fg_fraction": ("fg_fraction", ("window_data",)),
    "det_context_pad": ("context_pad", ("window_data",)),
    "det_crop_mode": ("crop_mode", ("window_data",)),
}

_TRANSFORM_FIELDS = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}


def has_v0_layers(net: Any) -> bool:
    """Whether any of the net's ``layers`` has a nested ``layer``."""
    return any(layer.HasField("layer") for layer in net.layers)


def v0_to_v1(net: Any) -> tuple[Any, list[str]]:
    """The net with V1 ``layers``, and the settings its layers' types do not have.

    As in Caffe, of the net's own fields only the name, the inputs and force_backward are kept.

    Raises:
        PrototxtError: a layer of an unknown type, or a padding layer in the wrong place.
    """
    upgraded = proto.NetParameter(input=net.input, input_dim=net.input_dim)
    for name in ("name", "force_backward"):
        if net.HasField(name):
            setattr(upgraded, name, getattr(net, name))
    problems: list[str] = []
    for connection in _without_padding(net):
        if connection.HasField("layer"):
            problems += _upgrade_layer(connection, upgraded.layers.add())
        else:
            upgraded.layers.append(connection)
    return upgraded, problems


def _without_padding(net: Any) -> Iterator[Any]:
    """The net's layers without those of type "padding", whose pad moves into the convolution or pooling they feed."""
    producer: dict[str, Any] = dict.fromkeys(net.input)
    for layer in net.layers:
        name, kind = layer.layer.name, layer.layer.type
        upgraded = copy.deepcopy(layer)
        for j, blob in enumerate(layer.bottom):
            if blob not in producer:
                raise PrototxtError(f"Unknown blob input {blob} to layer {name}")
            padding = producer[blob]
            if padding is None or padding.layer.type != "padding":
                continue
            if kind not in ("conv", "pool"):
                raise PrototxtError(
                    f"Padding layer input to non-convolutional / non-pooling layer type {kind} (layer {name})"
                )
            if len(layer.bottom) != 1:
                raise PrototxtError(f"Conv Layer takes a single blob as input. Layer {name} has {len(layer.bottom)}")
            if len(padding.bottom) != 1 or len(padding.top) != 1:
                raise PrototxtError(f"Padding Layer {padding.layer.name} takes and produces a single blob")
            upgraded.layer.pad = padding.layer.pad
            upgraded.bottom[j] = padding.bottom[0]
        producer.update(dict.fromkeys(layer.top, layer))
        if kind != "padding":
            yield upgraded


def _upgrade_layer(connection: Any, layer: Any) -> list[str]:
    """Fill the V1 ``layer`` from a V0 one; returns the fields that its type does not have."""
    problems: list[str] = []
    v0 = connection.layer
    layer.bottom.extend(connection.bottom)
    layer.top.extend(connection.top)
    if v0.HasField("name"):
        layer.name = v0.name
    if v0.HasField("type"):
        if v0.type not in _TYPES:
            raise PrototxtError(f"Unknown layer name: {v0.type} (layer {v0.name})")
        layer.type = proto.V1LayerParameter.LayerType.Value(_TYPES[v0.type])
    layer.blobs.extend(v0.blobs)
    layer.blobs_lr.extend(v0.blobs_lr)
    layer.weight_decay.extend(v0.weight_decay)
    for field, value in v0.ListFields():
        if field.name in _TRANSFORM_FIELDS:
            setattr(layer.transform_param, _TRANSFORM_FIELDS[field.name], value)
        elif field.name == "hdf5_output_param" and v0.type == "hdf5_output":
            layer.hdf5_output_param.CopyFrom(value)
        elif field.name in _FIELDS or field.name == "hdf5_output_param":
            name, types = _FIELDS.get(field.name, ("", ()))
            if v0.type in types:
                _set(getattr(layer, _PARAMS[v0.type]), name, value)
            else:
                problems.append(f"Unknown parameter {field.name} for layer type {v0.type}")
    return problems


def _set(message: Any, name: str, value: Any) -> None:
    """Set the field ``name``, whether it holds one value, a list (V1's pad, kernel_size and stride) or a message."""
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.message_type:
        getattr(message, name).CopyFrom(value)
    elif isinstance(getattr(message, name), (int, float, str)):
        setattr(message, name, value)
    else:
        getattr(message, name).append(value)
