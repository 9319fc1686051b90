"""Upgrades of nets and solvers written for older versions of Caffe to today's fields; messages in, messages out.

In order: V0 (``layers { layer { type: "conv" } }``), transform fields inside V1 data params, V1
(``layers { type: CONVOLUTION }``), ``input`` fields, BatchNorm's learning rates. Results and log lines are those of
Caffe's upgrade_net_proto_text.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from minicaffe import proto
from minicaffe.errors import PrototxtError
from minicaffe.proto.upgrade_v0 import has_v0_layers, v0_to_v1

log = logging.getLogger(__name__)

Net = Any  # proto.NetParameter; the message classes exist only at run time
Problems = list[str]


def net_needs_upgrade(net: Net) -> bool:
    """Whether `upgrade_net` has anything to do: an old format, or a BatchNorm layer that declares its three params."""
    return any(step.needed(net) for step in _STEPS)


def upgrade_net(net: Net, source: str = "net") -> tuple[Net, Problems]:
    """``net`` in today's format, and what could not be carried over.

    The result is ``net`` itself if it is up to date, else a new message; ``source`` names the net in logs and errors.

    Raises:
        PrototxtError: the net mixes formats, or an old layer is of an unknown type or wrongly padded (Caffe aborts).
    """
    problems: Problems = []
    try:
        if net.layer and net.layers:
            raise PrototxtError(
                "Refusing to upgrade inconsistent NetParameter input; the definition includes both 'layer' and "
                "'layers' fields. The current format defines 'layer' fields with string type like "
                "layer { type: 'Layer' ... } and not layers { type: LAYER ... }. "
                "Manually switch the definition to 'layer' format to continue."
            )
        for step in _STEPS:
            if step.needed(net):
                log.info("Attempting to upgrade %s: %s", step.what, source)
                net, found = step.upgrade(net)
                for problem in found:
                    log.error(problem)
                if found:
                    log.error(step.failure)
                else:
                    log.info(step.success)
                if step.advice:
                    log.warning(step.advice)
                problems += found
    except PrototxtError as error:
        raise PrototxtError(f"{source}: {error}") from None
    return net, problems


def solver_needs_upgrade(solver: Any) -> bool:
    """Whether the solver names its type by the old enum field ``solver_type``."""
    return solver.HasField("solver_type")


def upgrade_solver(solver: Any, source: str = "solver") -> Any:
    """``solver`` with, say, ``solver_type: ADAM`` rewritten as ``type: "Adam"``; itself if there is nothing to rewrite.

    Raises:
        PrototxtError: both fields are set.
    """
    if not solver_needs_upgrade(solver):
        return solver
    log.info("Attempting to upgrade input file specified using deprecated 'solver_type' field (enum)': %s", source)
    if solver.HasField("type"):
        raise PrototxtError(
            f"{source}: Failed to upgrade solver: old solver_type field (enum) and new type field (string) "
            "cannot be both specified in solver proto text. Remove solver_type."
        )
    upgraded = copy.deepcopy(solver)
    upgraded.type = _SOLVER_TYPES[proto.SolverParameter.SolverType.Name(solver.solver_type)]
    upgraded.ClearField("solver_type")
    log.info(
        "Successfully upgraded file specified using deprecated 'solver_type' field (enum) to 'type' field (string)."
    )
    log.warning("Note that future Caffe releases will only support 'type' field (string) for a solver's type.")
    return upgraded


_SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}


# ---------------------------------------------------------------------- transform fields of V1 data layers; V1 -> today

_V1_DATA_PARAMS = {
    "DATA": "data_param",
    "IMAGE_DATA": "image_data_param",
    "VIDEO_DATA": "image_data_param",
    "WINDOW_DATA": "window_data_param",
}


def _old_transform(layer: Any) -> list[tuple[Any, str]]:
    """The data param message of a V1 layer and each transform field set in it."""
    name = _V1_DATA_PARAMS.get(proto.V1LayerParameter.LayerType.Name(layer.type))
    if name is None or not layer.HasField(name):
        return []
    param = getattr(layer, name)
    return [(param, field) for field in ("scale", "mean_file", "crop_size", "mirror") if param.HasField(field)]


def _has_old_transform(net: Net) -> bool:
    return any(_old_transform(layer) for layer in net.layers)


def _move_transform(net: Net) -> tuple[Net, Problems]:
    upgraded = copy.deepcopy(net)
    for layer in upgraded.layers:
        for param, field in _old_transform(layer):
            setattr(layer.transform_param, field, getattr(param, field))
            param.ClearField(field)
    return upgraded, []


_V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
    # Of forks.
    "BATCH_NORM": "BatchNorm",
    "BIAS_CHANNEL": "BiasChannel",
    "BN": "BN",
    "CONVOLUTION3D": "Convolution3D",
    "CROP": "AutoCrop",
    "DECONVOLUTION3D": "Deconvolution3D",
    "DENSE_IMAGE_DATA": "DenseImageData",
    "DOMAIN_TRANSFORM": "DomainTransform",
    "ELTWISE_AFFINE": "EltwiseAffine",
    "IMAGE_LABELMAP_DATA": "ImageLabelmapData",
    "IMAGE_SEG_DATA": "ImageSegData",
    "INSANITY": "Insanity",
    "INTERP": "Interp",
    "LOCAL": "Local",
    "LSTM": "LSTM",
    "MAT_WRITE": "MatWrite",
    "MULTI_STAGE_MEANFIELD": "MultiStageMeanfield",
    "NOISE": "Noise",
    "NORMALIZE": "Normalize",
    "POOLING3D": "Pooling3D",
    "PRELU": "PReLU",
    "PYTHON": "Python",
    "RESHAPE": "Reshape",
    "ROI_POOLING": "ROIPooling",
    "ROIPOOLING": "ROIPooling",
    "SEG_ACCURACY": "SegAccuracy",
    "SMOOTH_L1_LOSS": "SmoothL1Loss",
    "SPATIAL_PRODUCT": "SpatialProduct",
    "TRANSPOSE": "Transpose",
    "TRIPLET_LOSS": "TripletLoss",
    "UNIQUE_LABEL": "UniqueLabel",
    "UPSAMPLE": "Upsample",
    "VIDEO_DATA": "VideoData",
    "VIDEO_SEGMENTATION_DATA": "VideoSegmentationData",
    "VIDEO_WITH_VOXEL_TRUTH_DATA": "VideoWithVoxelTruthData",
    "VOLUME_DATA": "VolumeData",
    "VOXEL_SOFTMAX": "Softmax",
    "VOXEL_SOFTMAX_LOSS": "SoftmaxWithLoss",
}

# V1 list: the field of ParamSpec that holds its i-th entry.
_V1_PARAM_LISTS = {
    "param": "name",
    "blob_share_mode": "share_mode",
    "blobs_lr": "lr_mult",
    "weight_decay": "decay_mult",
}


def _has_v1_layers(net: Net) -> bool:
    return len(net.layers) > 0


def _v1_to_v2(net: Net) -> tuple[Net, Problems]:
    upgraded = _copy_fields(net, _all_but("layers"), proto.NetParameter())
    for v1 in net.layers:
        layer = _copy_fields(v1, _SHARED_WITH_V1, upgraded.layer.add())
        if v1.HasField("type"):
            layer.type = _V1_TYPES[proto.V1LayerParameter.LayerType.Name(v1.type)]
        if v1.HasField("softmaxloss_param"):
            _take_ignored_label(v1, layer)
        for old, new in _V1_PARAM_LISTS.items():
            for i, value in enumerate(getattr(v1, old)):
                while len(layer.param) <= i:
                    layer.param.add()
                setattr(layer.param[i], new, value)
    return upgraded, []


def _take_ignored_label(v1: proto.V1LayerParameter, layer: proto.LayerParameter) -> None:
    """``softmaxloss_param`` is DeepLab's ``loss_param``."""
    options = v1.softmaxloss_param
    if options.weight_source or len(options.ignore_label) > 1:
        raise PrototxtError(
            f"layer '{v1.name}': softmaxloss_param.{'weight_source' if options.weight_source else 'ignore_label'}: "
            "classes with weights of their own are given as loss_param { weight_by_label_freqs: true class_weighting: "
            "… }, and one label can be ignored"
        )
    for label in options.ignore_label:
        layer.loss_param.ignore_label = label


_SHARED_WITH_V1 = [
    name
    for name in proto.V1LayerParameter.DESCRIPTOR.fields_by_name
    if name in proto.LayerParameter.DESCRIPTOR.fields_by_name and name not in ("type", "param")
]


# ---------------------------------------------------------------------------------------------- input fields, BatchNorm


def _has_input_fields(net: Net) -> bool:
    return len(net.input) > 0


def _input_fields_to_layer(net: Net) -> tuple[Net, Problems]:
    upgraded = _copy_fields(net, _all_but("input", "input_shape", "input_dim", "layer"), proto.NetParameter())
    axes = 5 if len(net.input_dim) == 5 * len(net.input) else 4  # C3D: num, channels, length, height, width
    shapes = list(net.input_shape) or [
        proto.BlobShape(dim=net.input_dim[i : i + axes]) for i in range(0, len(net.input_dim), axes)
    ]
    # A net without shapes is a weights file of old: it needs no inputs.
    if shapes:
        if len(shapes) < len(net.input) or len(net.input_dim) % axes and not net.input_shape:
            raise PrototxtError(
                f"the net has {len(net.input)} input(s) but {len(net.input_shape)} input_shape and "
                f"{len(net.input_dim)} input_dim; give each input one input_shape, "
                "or four input_dim: num, channels, height, width"
            )
        layer = upgraded.layer.add(name="input", type="Input", top=net.input)
        layer.input_param.shape.extend(shapes[: len(net.input)])
    upgraded.layer.extend(net.layer)
    return upgraded, []


def _old_batch_norms(net: Net) -> list[Any]:
    return [layer for layer in net.layer if layer.type == "BatchNorm" and len(layer.param) == 3]


def _freeze_batch_norms(net: Net) -> tuple[Net, Problems]:
    upgraded = copy.deepcopy(net)
    for layer in _old_batch_norms(upgraded):
        for spec in layer.param:
            spec.lr_mult = spec.decay_mult = 0
    return upgraded, []


def _copy_fields(message: Any, names: Collection[str], into: Any) -> Any:
    """``into``, an empty message, filled with the set fields of ``message`` that ``names`` lists."""
    for field, value in message.ListFields():
        if field.name not in names:
            continue
        if hasattr(value, "extend"):
            getattr(into, field.name).extend(value)
        elif field.message_type:
            getattr(into, field.name).CopyFrom(value)
        else:
            setattr(into, field.name, value)
    return into


def _all_but(*names: str) -> list[str]:
    return [name for name in proto.NetParameter.DESCRIPTOR.fields_by_name if name not in names]


@dataclass(frozen=True)
class _Step:
    needed: Callable[[Net], bool]
    upgrade: Callable[[Net], tuple[Net, Problems]]
    what: str
    success: str
    failure: str = ""
    advice: str = ""


_STEPS = (
    _Step(
        has_v0_layers,
        v0_to_v1,
        "input file specified using deprecated V0LayerParameter",
        "Successfully upgraded file specified using deprecated V0LayerParameter",
        "Warning: had one or more problems upgrading V0NetParameter to NetParameter (see above); continuing anyway.",
        "Note that future Caffe releases will not support V0NetParameter; use upgrade_net_proto_text for prototxt and "
        "upgrade_net_proto_binary for model weights upgrade this and any other net protos to the new format.",
    ),
    _Step(
        _has_old_transform,
        _move_transform,
        "input file specified using deprecated transformation parameters",
        "Successfully upgraded file specified using deprecated data transformation parameters.",
        advice="Note that future Caffe releases will only support transform_param messages for transformation fields.",
    ),
    _Step(
        _has_v1_layers,
        _v1_to_v2,
        "input file specified using deprecated V1LayerParameter",
        "Successfully upgraded file specified using deprecated V1LayerParameter",
    ),
    _Step(
        _has_input_fields,
        _input_fields_to_layer,
        "input file specified using deprecated input fields",
        "Successfully upgraded file specified using deprecated input fields.",
        advice="Note that future Caffe releases will only support input layers and not input fields.",
    ),
    _Step(
        lambda net: bool(_old_batch_norms(net)),
        _freeze_batch_norms,
        "batch norm layers using deprecated params",
        "Successfully upgraded batch norm layers using deprecated params.",
    ),
)
