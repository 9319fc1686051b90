"""What forks of Caffe added to it: whose a field is, and whether it changes what a layer computes."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

_SSD = "SSD (weiliu89/caffe)"
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
        *("disk_reader_threads", "huge_video_dataset", "fuse"),
    }
)
"""Fields that say where, how fast or in what numbers to compute, or what to show."""

_FIELDS: dict[str, tuple[str, ...]] = {
    _SSD: ("resize_param", "noise_param", "distort_param", "expand_param", "emit_constraint", "crop_h", "crop_w"),
    _CASCADE: ("ceil_mode", "detection_data_param", "eval_data_param"),
    _MSCNN: ("image_gt_data_param",),
    _DEEPDETECT: ("scaling_temperature",),
    _HAPPYNEAR: (
        *("normalize", "min_is_better", "disable_mean", "disable_variance", "hard_ratio", "hard_mining_label"),
        *("cutting_point", "normalize_type", "sqrt_scale", "blob_filler", "face_transform", "face_mirror", "min_value"),
        *("max_value", "erase_ratio", "center_crop", "balance_class", "shape_offset", "transpose"),
    ),
    _SEGNET: ("weight_by_label_freqs", "class_weighting", "sample_weights_test"),
    _PSPNET: ("label_type", "crop_height", "crop_width", "hole", "hole_h", "hole_w"),
    _NVCAFFE: ("scale_bias", "img_rand_resize_lower", "img_rand_resize_upper", "rampup_interval", "larc"),
    _INTEL: ("random_resize_param", "random_aspect_ratio_param", "relu", "fusion_type", "filler", "avg_include_pad"),
    _YJXIONG: ("fix_crop", "more_fix_crop", "multi_scale", "scale_ratios", "max_distort", "is_flow", "shuffle"),
    _C3D: ("kernel_depth", "temporal_stride", "temporal_pad", "use_temporal_jitter", "sampling_rate", "new_length"),
    _FLOWNET: ("encoding", "rand_permute", "range_start", "range_end", "preselection_file"),
    "R-FCN (daijifeng001/caffe-rfcn)": ("pre_fixed_normalizer",),
    "naibaf7/caffe": ("dilation", "dim"),
}
_FORK_OF = {field: fork for fork, fields in _FIELDS.items() for field in fields}


def origin(field: str) -> str:
    """`` (the fork)`` that is known for a field of this name, or nothing."""
    fork = _FORK_OF.get(field)
    return f" ({fork})" if fork else ""


def changes_results(field: FieldDescriptor, value: Any) -> bool:
    """Whether a field that is set in one of Caffe's messages is a fork's and asks for something."""
    if field.number < FIRST or field.containing_type.file.name != "caffe.proto" or field.name in NO_EFFECT:
        return False
    return field.message_type is not None or hasattr(value, "extend") or value != field.default_value
