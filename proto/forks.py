"""What forks of Caffe added to it: whose a field is, and whether it changes what a layer computes."""

from __future__ import annotations

from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor

_SSD = "SSD (weiliu89/caffe)"
_FASTER = "Fast and Faster R-CNN (rbgirshick/caffe-fast-rcnn)"
_RFCN = "R-FCN (daijifeng001/caffe-rfcn)"
_YOLO = "MobileNet-YOLO (eric612/MobileNet-YOLO)"
_CASCADE = "Cascade R-CNN (zhaoweicai/cascade-rcnn)"
_MSCNN = "MSCNN (zhaoweicai/mscnn)"
_DEEPDETECT = "DeepDetect (jolibrain/caffe)"
_HAPPYNEAR = "happynear/caffe-windows"
_SEGNET = "SegNet (alexgkendall/caffe-segnet)"
_PSPNET = "PSPNet (hszhao/PSPNet)"
_NVCAFFE = "NVCaffe (NVIDIA/caffe)"
_INTEL = "Intel Caffe (intel/caffe)"
_YJXIONG = "yjxiong/caffe"
_C3D = "C3D (facebook/C3D)"
_FLOWNET = "FlowNet 2 (lmb-freiburg/flownet2)"

FIRST = 20001
"""The first of our own numbers, which fields of forks have in Caffe's messages."""

NO_EFFECT = frozenset(
    {
        *("engine", "cache", "threads", "parser_threads", "cudnn_convolution_algo_seeker", "conv_algos_override"),
        *("cudnn_math_override", "conv_algorithm", "fft", "use_gpu_transform", "verbose", "display", "show_data"),
        *("disk_reader_threads", "huge_video_dataset", "fuse", "filter_group"),
    }
)
"""Fields that say where, how fast or in what numbers to compute, or what to show."""

_FIELDS: dict[str, tuple[str, ...]] = {
    _SSD: ("resize_param", "noise_param", "distort_param", "expand_param", "emit_constraint", "crop_h", "crop_w"),
    "TextBoxes++ (MhLiao/TextBoxes_plusplus)": ("use_polygon", "denser_prior_boxes"),
    _CASCADE: ("ceil_mode",),
    _DEEPDETECT: ("scaling_temperature", "geometry_param", "all_effects", "random_order", "decolorize_prob"),
    _HAPPYNEAR: (
        *("normalize", "min_is_better", "disable_mean", "disable_variance", "hard_ratio", "hard_mining_label"),
        *("cutting_point", "normalize_type", "sqrt_scale", "blob_filler", "face_transform", "face_mirror", "min_value"),
        *("max_value", "erase_ratio", "center_crop", "balance_class", "shape_offset", "transpose"),
    ),
    _SEGNET: ("weight_by_label_freqs", "class_weighting", "sample_weights_test"),
    _PSPNET: ("label_type", "crop_height", "crop_width", "scale_factors", "hole", "hole_h", "hole_w"),
    _NVCAFFE: ("scale_bias", "img_rand_resize_lower", "img_rand_resize_upper", "rampup_interval", "larc"),
    _INTEL: ("random_resize_param", "random_aspect_ratio_param", "relu", "fusion_type", "filler", "avg_include_pad"),
    _YJXIONG: ("fix_crop", "more_fix_crop", "multi_scale", "scale_ratios", "max_distort", "is_flow", "shuffle"),
    _C3D: ("kernel_depth", "temporal_stride", "temporal_pad", "use_temporal_jitter", "sampling_rate", "new_length"),
    _FLOWNET: ("encoding", "rand_permute", "range_start", "range_end", "preselection_file"),
    _RFCN: ("pre_fixed_normalizer",),
    "naibaf7/caffe": ("dilation", "dim", "kstride", "affinity_param"),
}
_TYPES: dict[str, tuple[str, ...]] = {
    _SSD: (
        *("Permute", "PriorBox", "DetectionOutput", "DetectionEvaluate", "AnnotatedData", "MultiBoxLoss", "Normalize"),
        *("SmoothL1Loss", "VideoData"),
    ),
    _FASTER: ("ROIPooling", "Proposal"),
    _RFCN: ("PSROIPooling", "SmoothL1LossOHEM", "SoftmaxWithLossOHEM", "BoxAnnotatorOHEM"),
    _CASCADE: (
        *("DecodeBBox", "ProposalTarget", "BboxAccuracy", "ROIAlign", "BoxGroupOutput", "DetectionGroupLoss"),
        *("DetectionGroupAccuracy", "DetectionData", "FrcnnOutput", "EvalData", "ScaleRoute", "HardMining"),
    ),
    _MSCNN: ("BoxOutput", "Detection", "DetectionAccuracy", "DetectionLoss", "ImageGtData", "SoftmaxWithWeightedLoss"),
    _YOLO: (
        *("Yolov3", "RegionLoss", "Yolov3DetectionOutput", "YoloDetectionOutput", "Reorg", "DepthwiseConvolution"),
        *("AssistedExcitation", "GaussianYolov3", "YoloSeg", "SegmentationEvaluate", "LaneData", "HardSigmoid"),
    ),
    _DEEPDETECT: (
        *("ConvolutionDepthwise", "ShuffleChannel", "ReLU6", "ContinuationIndicator", "CtcLoss", "Reverse"),
        *("FocalLoss", "LabelsequenceAccuracy", "DiceCoefLoss", "MultiLabelSigmoidLoss", "SeLu", "BroadcastMul"),
        "MultiBoxFocalLoss",
    ),
    _SEGNET: ("Upsample", "DenseImageData"),
    _PSPNET: (
        *("Interp", "BN", "ImageSegData", "SegAccuracy", "SpatialProduct", "BiasChannel", "DomainTransform"),
        *("UniqueLabel", "MatRead", "MatWrite"),
    ),
    _HAPPYNEAR: (
        *("Flip", "TripletLoss", "GeneralTripletLoss", "GeneralContrastiveLoss", "BatchContrastiveLoss", "Gram"),
        *("SoftContrastiveLoss", "ChannelScale", "InnerDistance", "Truncation", "SoftTruncation", "Slope", "Resize"),
        *("Transformer", "MarginInnerProduct", "LargeMarginInnerProduct", "LabelSpecificAdd", "LabelSpecificAffine"),
        *("LabelSpecificMargin", "LabelSpecificHardMargin", "LabelSpecificRescale", "LabelSpecificStatistics"),
        *("Pairwise", "NCALoss", "ConfidencePenaltyLoss", "CorrelationLoss", "FeatureDecayLoss", "FeatureIncayLoss"),
        *("InfimumLoss", "OrdinalRegressionLoss", "Hotspot", "PredictBox", "SubRegion", "Insanity", "Local", "Noise"),
        *("EltwiseAffine", "TrainableData", "Covariance", "MovingNormalize", "GlobalLSEMargin", "FCNData", "Arccos"),
        *("RadialRemovalMargin", "MultiLabelImageData", "WiderFaceData", "FCNAccuracy", "Cosine"),
    ),
    "caffe-face (ydwen/caffe-face)": ("CenterLoss",),
    "SENet (hujie-frank/SENet)": ("Axpy",),
    "CTPN (tianzhi0549/CTPN) and caffe_ocr (senlinuc/caffe_ocr)": (
        *("Lstm", "Transpose", "ReverseTime", "CTCGreedyDecoder"),
    ),
    "warp-ctc-caffe (xmfbit/warpctc-caffe)": ("WarpCTCLoss",),
    "HED (s9xie/hed) and RCF (yun-liu/rcf)": ("ImageLabelmapData", "AutoCrop"),
    _C3D: (
        *("Convolution3D", "Pooling3D", "Deconvolution3D", "CONVOLUTION3D", "POOLING3D"),
        *("VolumeData", "VideoSegmentationData", "VideoWithVoxelTruthData"),
    ),
    _YJXIONG: ("SegData", "BatchReduction", "ColorConv"),
    _FLOWNET: (
        *("Correlation", "Correlation1D", "FlowWarp", "DataAugmentation", "FlowAugmentation", "Accum", "L1Loss"),
        *("ChannelNorm", "Mean", "NegReLU", "CustomData", "Downsample", "Resample", "LpqLoss", "BlackAugmentation"),
        *("GenerateAugmentationParameters", "ImgReader", "ImgWriter", "FLOWriter", "FloatReader", "FloatWriter"),
        *("PFMWriter", "DisparityData"),
    ),
    _NVCAFFE: ("DetectNetTransformation",),
    _INTEL: ("EvalDetection", "SimplerNMS"),
    "ENet (TimoSaemann/ENet)": ("SpatialDropout",),
    "naibaf7/caffe": ("MergeCrop", "MalisLoss", "Affinity", "ConnectedComponent", "ConvolutionSK", "PoolingSK"),
    "SSTD (BestSonny/SSTD)": ("MaskPooling", "MaskResize"),
    "CRF-RNN (torrvision/crfasrnn)": ("MultiStageMeanfield",),
    "caffe-heatmap (tpfister/caffe-heatmap)": ("DataHeatmap", "EuclideanLossHeatmap"),
    "OpenPose (CMU-Perceptual-Computing-Lab/caffe_train and caffe_rtpose)": ("CPMData", "ImResize", "Nms"),
    "Deformable ConvNets (unsky/Deformable-ConvNets-caffe)": ("DeformableConvolution",),
    "ports of darknet": ("Mish",),
    "spatial transformer networks (daerduoCarey/SpatialTransformerLayer)": ("SpatialTransformer",),
}
_FORK_OF_TYPE = {type: fork for fork, types in _TYPES.items() for type in types}

here: set[str] = set()
"""Layer types that minicaffe has; layers enter theirs when they are registered."""

_FORK_OF = {field: fork for fork, fields in _FIELDS.items() for field in fields}


def origin(field: str) -> str:
    """``: the fork`` that is known for a field of this name, or nothing."""
    fork = _FORK_OF.get(field)
    return f": {fork}" if fork else ""


def origin_of_type(type: str) -> str:
    """``: the fork`` that is known for a layer type, or nothing."""
    fork = _FORK_OF_TYPE.get(type)
    return f": {fork}" if fork else ""


def changes_results(field: FieldDescriptor, value: Any) -> bool:
    """Whether a field that is set in one of Caffe's messages is a fork's and asks for something."""
    if field.number < FIRST or cast(Any, field.containing_type).file.name != "caffe.proto" or field.name in NO_EFFECT:
        return False
    return field.message_type is not None or hasattr(value, "extend") or value != field.default_value
