"""Why some types of layers are not exported."""

from __future__ import annotations

_BY_TARGETS = "it chooses targets by values while training; export the TEST phase"
_BY_BOXES = "which boxes it keeps depends on their values, one after the other; name its bottoms as outputs"

REASONS = {
    "BoxAnnotatorOHEM": _BY_TARGETS,
    "CTCGreedyDecoder": "how long what it decodes is depends on values; name its bottom as an output",
    "CtcLoss": "ONNX has no connectionist temporal classification",
    "DetectionEvaluate": "it compares lists of boxes whose lengths depend on values",
    "DetectionOutput": _BY_BOXES,
    "DomainTransform": "it goes along rows pixel by pixel",
    "HDF5Output": "it writes files",
    "LabelsequenceAccuracy": "it compares sequences whose lengths depend on values",
    "MultiBoxFocalLoss": _BY_TARGETS,
    "MultiBoxLoss": _BY_TARGETS,
    "Proposal": _BY_BOXES,
    "RegionLoss": _BY_TARGETS,
    "UniqueLabel": "how many labels it finds depends on values",
    "WarpCTCLoss": "ONNX has no connectionist temporal classification",
    "YoloDetectionOutput": _BY_BOXES,
    "Yolov3": _BY_TARGETS,
    "Yolov3DetectionOutput": _BY_BOXES,
}
