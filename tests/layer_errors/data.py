"""Layers that bring data into a net or out of it, and the Python layer.  More of it needs files: ``test_layers_data``."""

from __future__ import annotations

from layer_errors.row import row

SHAPE = {"dim": [2, 3]}
SIZES = {"batch_size": 2, "channels": 3, "height": 4, "width": 5}

ROWS = [
    row("Input", "shape", r"once for each of the 3 tops; found 2", shape=[SHAPE, SHAPE], tops=3),
    row("Input", "shape", r"must not be negative; found \[2, -1\]", shape={"dim": [2, -1]}),
    row(
        "DummyData",
        "shape",
        r"once for each of the 1 tops; found 0|once for each of the 3 tops; found 2",
        shape=[SHAPE, SHAPE],
        tops=3,
    ),
    row("DummyData", "shape", r"must not be negative; found \[2, -1\]", shape={"dim": [2, -1]}),
    row("DummyData", "shape", r"Both shape and legacy fields", shape=SHAPE, num=2),
    row("DummyData", "height", r"once for each of the 1 tops; found 0", num=2, channels=3, width=4),
    row("DummyData", "data_filler", r"once for each of the 3 tops; found 2", shape=SHAPE, data_filler=[{}, {}], tops=3),
    row("DummyData", "data_filler", r"unknown filler type 'normal'", shape=SHAPE, data_filler={"type": "normal"}),
    row("Data", None, r"missing", source="missing", batch_size=2, backend="LMDB"),
    row("Data", None, r"batch_size", source="missing", backend="LMDB"),
    row("AnnotatedData", None, r"missing", source="missing", batch_size=2, backend="LMDB"),
    row("VideoData", None, r"missing", source="missing", batch_size=2, modality="RGB"),
    row("VideoData", "video_file", r"films and cameras are not read; extract", video_file="a.avi"),
    row("VideoData", "crop_size", r"transform_param says", source="a", modality="RGB", crop_size=3),
    row("VideoData", "source", r"does not tell whose VideoData", source="a", batch_size=2),
    row("VideoData", "new_length", r"must be positive", source="a", modality="RGB", new_length=0),
    row("VideoData", "num_segments", r"must be positive", source="a", modality="RGB", num_segments=0),
    row("VideoData", "use_image", r"films are not read; extract", source="a", sampling_rate=2),
    row("VideoData", "sampling_rate", r"must be positive", source="a", use_image=True, sampling_rate=0),
    row("VideoData", "modality", r"is of yjxiong's VideoData", source="a", use_image=True, modality="RGB"),
    row("DenseImageData", None, r"missing", source="missing", tops=2),
    row("ImageData", None, r"missing", source="missing", tops=2),
    row("DetectionData", None, r"missing", detection_data_param={"source": "missing", "batch_size": 2}),
    row("EvalData", None, r"missing", eval_data_param={"source": "missing", "batch_size": 1}, tops=2),
    row("ImageGtData", None, r"missing", image_gt_data_param={"source": "missing", "batch_size": 2}),
    row("WindowData", None, r"missing", source="missing", batch_size=2, transform_param={"crop_size": 4}, tops=2),
    row("MemoryData", None, r"calling reset", tops=2, **SIZES),
    *(row("MemoryData", field, r"must be positive; found 0", tops=2, **{**SIZES, field: 0}) for field in SIZES),
    row("MemoryData", "dim", r"must be positive; found \[2, 0\]", tops=2, dim=[2, 0]),
    row("MemoryData", "batch_size", r"dim says 2; found 3", tops=2, dim=[2, 4], batch_size=3),
    row("HDF5Data", "batch_size", r"must be positive; found 0", source="missing"),
    row("HDF5Data", "source", r"cannot read missing", source="missing", batch_size=2),
    row(
        "HDF5Data",
        "transform_param",
        r"does not transform data; remove it",
        source="missing",
        batch_size=2,
        transform_param={},
    ),
    row("HDF5Output", "file_name", r"give the file to write", (2, 3), (2,)),
    row("HDF5Output", "file_name", r"cannot write HDF5 file /", (2, 3), (2,), file_name="/"),
    row("HDF5Output", None, r"same first dimension; found 2 3 .*3 ", (2, 3), (3,), file_name="{folder}/out.h5"),
    row("HDF5Output", None, r"1 to 4 axes; found 1 1 1 1 1", (1, 1, 1, 1, 1), (1,), file_name="{folder}/out.h5"),
    row(
        "Python",
        "module",
        r"no module named 'missing_module'; put its folder on PYTHONPATH",
        (2,),
        module="missing_module",
        layer="L",
    ),
    row(
        "Python",
        "layer",
        r"must define a class 'Gone' derived from.*found nothing of that name",
        (2,),
        module="layer_cases.data",
        layer="Gone",
    ),
    row("Python", "layer", r"derived from minicaffe\.Layer; found", (2,), module="layer_cases.case", layer="Case"),
]
