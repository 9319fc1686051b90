"""Why some types of layers are not exported."""

from __future__ import annotations

_BY_TARGETS = "it chooses targets by values while training; export the TEST phase"
_BY_LENGTH = "how many boxes it leaves depends on values"
_BY_TRUTH = "it compares boxes with their objects"

REASONS = {
    "BboxAccuracy": _BY_TRUTH,
    "BoxAnnotatorOHEM": _BY_TARGETS,
    "BoxGroupOutput": _BY_LENGTH,
    "BoxOutput": _BY_LENGTH,
    "CtcLoss": "ONNX has no connectionist temporal classification",
    "DecodeBBox": _BY_LENGTH,
    "Detection": _BY_TARGETS,
    "DetectionAccuracy": _BY_TRUTH,
    "DetectionEvaluate": "it compares lists of boxes whose lengths depend on values",
    "DetectionGroupAccuracy": _BY_TRUTH,
    "DetectionGroupLoss": _BY_TARGETS,
    "DetectionLoss": _BY_TARGETS,
    "DomainTransform": "it goes along rows pixel by pixel",
    "FrcnnOutput": _BY_LENGTH,
    "HDF5Output": "it writes files",
    "HardMining": _BY_TARGETS,
    "MultiBoxFocalLoss": _BY_TARGETS,
    "MultiBoxLoss": _BY_TARGETS,
    "ProposalTarget": _BY_TARGETS,
    "RegionLoss": _BY_TARGETS,
    "ScaleRoute": _BY_LENGTH,
    "SoftmaxWithWeightedLoss": _BY_TARGETS,
    "WarpCTCLoss": "ONNX has no connectionist temporal classification",
    "Yolov3": _BY_TARGETS,
}
