"""Which module defines each type of layer: a net imports those that it needs, when it is made."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

FAMILIES: Mapping[str, str] = {
    "activation": "Arccos Cosine HardSigmoid Mish NegReLU ReLU6 SeLu SoftTruncation Truncation",
    "annotated_data": "AnnotatedData",
    "augmentation": "DataAugmentation",
    "batch_reduction": "BatchReduction",
    "bn": "BN",
    "box_output": "BoxGroupOutput BoxOutput FrcnnOutput",
    "channels": "Axpy BroadcastMul ChannelScale Covariance Flip Gram ShuffleChannel Slope",
    "classification": "Accuracy HingeLoss InfogainLoss MultinomialLogisticLoss",
    "convolution": "Convolution Deconvolution Im2col",
    "ctc": "CTCGreedyDecoder CtcLoss LabelsequenceAccuracy WarpCTCLoss",
    "data": "Data DummyData ImageData MemoryData WindowData",
    "depthwise": "ConvolutionDepthwise DepthwiseConvolution",
    "detection_data": "DetectionData EvalData ImageGtData",
    "detection_evaluate": "DetectionEvaluate",
    "detection_output": "DetectionOutput",
    "detectnet": "DetectNetTransformation",
    "distance_loss": "GeneralContrastiveLoss GeneralTripletLoss NCALoss",
    "domain_transform": "DomainTransform",
    "downsample": "Downsample",
    "eltwise": "Eltwise",
    "eval_detection": "EvalDetection",
    "field_accuracy": "DetectionAccuracy DetectionGroupAccuracy",
    "field_group_loss": "DetectionGroupLoss",
    "field_loss": "Detection DetectionLoss",
    "flow": "ChannelNorm Correlation Mean",
    "focal_loss": "FocalLoss",
    "fork_lstm": "Lstm",
    "hdf5": "HDF5Data HDF5Output",
    "indexing": "AutoCrop BatchReindex Crop Filter Tile",
    "inner_product": "Embed InnerProduct",
    "input": "Input",
    "interp": "Interp",
    "label_map_data": "DenseImageData ImageLabelmapData ImageSegData",
    "loss": "ContrastiveLoss EuclideanLoss",
    "malis_loss": "MalisLoss",
    "margin": "LabelSpecificAdd MarginInnerProduct",
    "masks": "MaskPooling MaskResize",
    "mat_write": "MatWrite",
    "meanfield": "MultiStageMeanfield",
    "merge_crop": "MergeCrop",
    "metric": "CenterLoss InnerDistance Pairwise TripletLoss",
    "multibox_loss": "MultiBoxFocalLoss MultiBoxLoss",
    "neuron": "AbsVal BNLL Clip Dropout ELU PReLU ReLU Sigmoid Swish TanH Threshold",
    "normalisation": "BatchNorm LRN MVN",
    "ohem": "BoxAnnotatorOHEM SmoothL1LossOHEM SoftmaxWithLossOHEM",
    "parameter": "Parameter TrainableData",
    "permute": "Permute Transpose",
    "pooling": "Pooling",
    "power": "Exp Log Power",
    "prior_box": "PriorBox",
    "proposal": "Proposal",
    "random_neurons": "Insanity Noise SpatialDropout",
    "recurrent": "LSTM LSTMUnit RNN",
    "reduction": "ArgMax Reduction",
    "region_loss": "RegionLoss Yolov3",
    "region_steps": "BboxAccuracy DecodeBBox HardMining ScaleRoute",
    "region_targets": "ProposalTarget",
    "reorg": "Reorg Upsample",
    "roi": "PSROIPooling ROIAlign ROIPooling",
    "sampling": "Accum FlowWarp Resample Resize Transformer",
    "scale_bias": "Bias EltwiseAffine Scale",
    "score_loss": "ConfidencePenaltyLoss CorrelationLoss InfimumLoss L1Loss MultiLabelSigmoidLoss",
    "segmentation": "BiasChannel DiceCoefLoss SegAccuracy SpatialProduct UniqueLabel",
    "sequence": "ContinuationIndicator Reverse ReverseTime",
    "shape": "Concat Flatten Reshape Silence Slice Split",
    "sigmoid_loss": "SigmoidCrossEntropyLoss",
    "smooth_l1_loss": "SmoothL1Loss",
    "softmax": "Softmax SoftmaxWithLoss SoftmaxWithWeightedLoss",
    "spp": "SPP",
    "unit_norm": "Normalize",
    "video": "VideoData",
    "volume": "Convolution3D Deconvolution3D Pooling3D",
    "yolo_output": "YoloDetectionOutput Yolov3DetectionOutput",
}
"""The modules of layers, each with the types that it registers."""

HOMES: Mapping[str, str] = {name: family for family, names in FAMILIES.items() for name in names.split()}
"""The module of each type."""


def load(family: str) -> Any:
    """The module of this name."""
    return importlib.import_module(f"{__package__}.{family}")


class Registry(MutableMapping[str, Any]):
    """Layer classes by the type that a prototxt names; whoever asks for one of minicaffe's has its module imported."""

    def __init__(self) -> None:
        self._classes: dict[str, Any] = {}
        self._homes = dict(HOMES)
        """Of types whose modules are not imported yet."""

    def __getitem__(self, name: str) -> Any:
        if name in self._homes:
            load(self._homes[name])
        return self._classes[name]

    def __setitem__(self, name: str, layer: Any) -> None:
        self._classes[name] = layer
        self._homes.pop(name, None)

    def __delitem__(self, name: str) -> None:
        del self._classes[name]

    def __contains__(self, name: object) -> bool:
        return name in self._classes or name in self._homes

    def __iter__(self) -> Iterator[str]:
        return iter([*self._classes, *self._homes])

    def __len__(self) -> int:
        return len(self._classes) + len(self._homes)

    def registered_by(self, name: str) -> str | None:
        """The name of the module that defines the type; None if there is none."""
        if name in self._homes:
            return f"{__package__}.{self._homes[name]}"
        return self._classes[name].__module__ if name in self._classes else None
