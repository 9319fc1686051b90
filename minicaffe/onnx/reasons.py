"""Why some types of layers are not exported."""

from __future__ import annotations

_BY_TARGETS = "it chooses targets by values while training; export the TEST phase"

REASONS = {
    "BoxAnnotatorOHEM": _BY_TARGETS,
    "CtcLoss": "ONNX has no connectionist temporal classification",
    "DetectionEvaluate": "it compares lists of boxes whose lengths depend on values",
    "DomainTransform": "it goes along rows pixel by pixel",
    "HDF5Output": "it writes files",
    "MultiBoxFocalLoss": _BY_TARGETS,
    "MultiBoxLoss": _BY_TARGETS,
    "RegionLoss": _BY_TARGETS,
    "WarpCTCLoss": "ONNX has no connectionist temporal classification",
    "Yolov3": _BY_TARGETS,
}
