"""Why some types of layers are not exported."""

from __future__ import annotations

_BY_TARGETS = "it chooses targets by values while training; export the TEST phase"

_CASCADE = "it chooses boxes of a cascade by values; name its bottoms as outputs"

REASONS = {
    "BboxAccuracy": _BY_TARGETS,
    "BoxAnnotatorOHEM": _BY_TARGETS,
    "BoxGroupOutput": _CASCADE,
    "BoxOutput": _CASCADE,
    "CtcLoss": "ONNX has no connectionist temporal classification",
    "DataAugmentation": "it draws random numbers",
    "DecodeBBox": _CASCADE,
    "DetectNetTransformation": _BY_TARGETS,
    "Detection": _BY_TARGETS,
    "DetectionAccuracy": _BY_TARGETS,
    "DetectionEvaluate": "it compares lists of boxes whose lengths depend on values",
    "DetectionGroupAccuracy": _BY_TARGETS,
    "DetectionGroupLoss": _BY_TARGETS,
    "DetectionLoss": _BY_TARGETS,
    "DomainTransform": "it goes along rows pixel by pixel",
    "EvalDetection": "it compares lists of boxes whose lengths depend on values",
    "FrcnnOutput": _CASCADE,
    "HDF5Output": "it writes files",
    "HardMining": _BY_TARGETS,
    "MalisLoss": "it goes along a spanning tree",
    "MatWrite": "it writes files",
    "MultiBoxFocalLoss": _BY_TARGETS,
    "MultiBoxLoss": _BY_TARGETS,
    "MultiStageMeanfield": "it filters on a lattice that the image decides",
    "ProposalTarget": _BY_TARGETS,
    "RegionLoss": _BY_TARGETS,
    "ScaleRoute": _CASCADE,
    "WarpCTCLoss": "ONNX has no connectionist temporal classification",
    "Yolov3": _BY_TARGETS,
}
