"""Why some types of layers are not exported."""

from __future__ import annotations

_BY_TARGETS = "it chooses targets by values while training; export the TEST phase"

REASONS = {
    "BoxAnnotatorOHEM": _BY_TARGETS,
    "CTCGreedyDecoder": "how long what it decodes is depends on values; name its bottom as an output",
    "CtcLoss": "ONNX has no connectionist temporal classification",
    "DetectionEvaluate": "it compares lists of boxes whose lengths depend on values",
    "DomainTransform": "it goes along rows pixel by pixel",
    "HDF5Output": "it writes files",
    "LabelsequenceAccuracy": "it compares sequences whose lengths depend on values",
    "MultiBoxFocalLoss": _BY_TARGETS,
    "MultiBoxLoss": _BY_TARGETS,
    "RegionLoss": _BY_TARGETS,
    "UniqueLabel": "how many labels it finds depends on values",
    "WarpCTCLoss": "ONNX has no connectionist temporal classification",
    "Yolov3": _BY_TARGETS,
}
