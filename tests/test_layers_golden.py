"""Every layer case computed by Caffe (golden/layers) and its forks (golden/forks), on the CPU and on the strict
stand-in for CuPy.

On the stand-in a second pass must neither allocate nor wait for the device.
"""

from __future__ import annotations

import contextlib

import pytest
from golden_layers import LayerCase, check_net, layer_cases, net_cases

from minicaffe.layers import layer_types
from minicaffe.layers.base import registry

CASES = layer_cases()
ON_HOST = {
    *("BiasChannel", "SegAccuracy", "UniqueLabel", "Upsample"),
    *("ArgMax", "DummyData", "Filter", "GeneralContrastiveLoss", "GeneralTripletLoss", "NCALoss"),
    *("DetectionEvaluate", "DetectionOutput", "MultiBoxFocalLoss", "MultiBoxLoss"),
    *("BoxAnnotatorOHEM", "CtcLoss", "CTCGreedyDecoder", "LabelsequenceAccuracy", "Proposal"),
    *("RegionLoss", "YoloDetectionOutput", "Yolov3", "Yolov3DetectionOutput"),
}
"""Layers that compute on the host, or whose shapes depend on the data: these wait for a device."""
WITHOUT_CASE = {
    "AnnotatedData",
    "Data",
    "DenseImageData",
    "AutoCrop",
    "HDF5Data",
    "HDF5Output",
    "ImageLabelmapData",
    "ImageSegData",
    "ImageData",
    "MemoryData",
    "Python",
    "WindowData",
    *("Accum", "Correlation", "Resample", "HardSigmoid", "Mish", "WarpCTCLoss", "Proposal"),
    *("BboxAccuracy", "BoxGroupOutput", "BoxOutput", "DecodeBBox", "Detection", "DetectionAccuracy", "DetectionData"),
    *("DetectionGroupAccuracy", "DetectionGroupLoss", "DetectionLoss", "EvalData", "FrcnnOutput", "HardMining"),
    *(
        "ImageGtData",
        "MaskPooling",
        "MaskResize",
        "MergeCrop",
        "ProposalTarget",
        "ScaleRoute",
        "SoftmaxWithWeightedLoss",
    ),
    *("Convolution3D", "DataAugmentation", "Deconvolution3D", "DetectNetTransformation", "Downsample", "MalisLoss"),
    *("MatWrite", "MultiStageMeanfield", "Pooling3D", "VideoData"),
    *("BatchReduction", "Covariance", "EltwiseAffine", "EvalDetection", "InfimumLoss", "Insanity", "Noise"),
    *("SpatialDropout", "TrainableData"),
}
"""Types that other tests hold against Caffe's numbers, and those of forks that nobody has run."""


@pytest.mark.parametrize("name", CASES)
def test_caffes_numbers(name, where):
    case = LayerCase(name)
    case.check()
    if where.name == "strict":
        with without_waiting(case):
            case.net.run_forward()
            if case.meta["backward"]:
                case.net.run_backward()


@pytest.mark.parametrize("name", net_cases())
def test_caffes_numbers_of_whole_nets(name, where):
    check_net(name)


@contextlib.contextmanager
def without_waiting(case):
    """No allocation and no synchronisation inside, unless the layer is one of those that cannot do without."""
    import strict_cupy

    if case.meta["type"] in ON_HOST:
        yield
        return
    case.seed_gradients()
    for blob in case.net.blobs.values():
        blob.xdata, blob.xdiff  # noqa: B018  (the device is the head from here on)
    for blob in case.layer.blobs:
        blob.xdata, blob.xdiff  # noqa: B018
    before = strict_cupy.allocations()
    with strict_cupy.no_sync():
        yield
    assert strict_cupy.allocations() == before


def test_every_type_has_a_case():
    own = {name for name in layer_types() if name == "Python" or not registry[name].user_defined}
    assert {name.partition("__")[0] for name in CASES} == own - WITHOUT_CASE
