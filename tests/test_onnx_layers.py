"""Every layer that can be exported computes in ONNX Runtime what it does here, for the batch as it is and for others."""

from __future__ import annotations

import numpy as np
import pytest
from layer_cases import CASES
from layer_cases.case import Case, integers, normal

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

from minicaffe import testing  # noqa: E402
from minicaffe.errors import NetError  # noqa: E402
from minicaffe.onnx import export_onnx, exported_types  # noqa: E402
from minicaffe.onnx.check import session  # noqa: E402
from minicaffe.onnx.plan import Probe  # noqa: E402

REFUSED = {
    "CTCGreedyDecoder-labels": "the distance to labels",
    "Dropout-TRAIN": "draws random numbers",
    "Dropout-sampled in TEST": "draws random numbers",
    "BatchReduction-levels": "reduces levels",
    "BatchReduction-same places": "rows at the same places",
    "Insanity-TRAIN": "draws random numbers",
    "Noise-normal": "draws random numbers",
    "Noise-uniform": "draws random numbers",
    "SpatialDropout-TRAIN": "draws random numbers",
    "Pooling-stochastic": "draws random numbers",
    "MarginInnerProduct-double": "how often it ran",
    "MarginInnerProduct-triple": "how often it ran",
    "MarginInnerProduct-quadruple": "how often it ran",
}
"""Cases of exportable types that are refused, and what is said."""
WITHOUT_TOPS = {"Silence"}
ALONG_THE_BATCH = [
    Case("Slice", (normal(5, 3),), {"axis": 0, "slice_point": [1, 3]}, "along the batch", tops=3),
    Case("Flatten", (normal(2, 3, 4),), {"axis": 0, "end_axis": 1}, "with the batch"),
    Case("Flatten", (normal(2, 3, 4),), {"axis": 1, "end_axis": 0}, "an axis of 1"),
    Case("Reshape", (normal(4, 3, 4),), {"shape": {"dim": [2, -1]}, "axis": 0, "num_axes": 1}, "of the batch"),
    Case("Reshape", (normal(2, 3, 4),), {"shape": {"dim": [1, -1, 0]}}, "one item"),
    Case("Crop", (normal(5, 3, 4), normal(4, 3, 4)), {"axis": 0, "offset": [1, 0, 0]}, "of the batch"),
    Case("Reduction", (normal(5, 3),), {"operation": "MEAN"}, "of the batch"),
    Case("Softmax", (normal(5, 3),), {"axis": 0, "scaling_temperature": 2.5}, "along the batch"),
    Case("ArgMax", (integers(3, 5, 4),), {"axis": 0, "top_k": 2}, "along the batch, equal ones"),
    Case("ArgMax", (integers(3, 5, 4, 3),), {"top_k": 3, "out_max_val": True}, "equal ones"),
    Case("Tile", (normal(2, 3),), {"tiles": 3, "axis": 0}, "of the batch"),
    Case("Permute", (normal(4, 3, 2),), {"order": [1, 0]}, "of the batch"),
    Case("Scale", (normal(4, 3, 2), normal(4, 3)), {"axis": 0}, "of items"),
    Case("Bias", (normal(4, 3, 2), normal(2)), {"axis": -1}, "from the end"),
    Case("Accuracy", (integers(3, 6, 4), integers(4, 6)), {"top_k": 2}, "equal ones"),
    Case("SoftmaxWithLoss", (normal(6, 4, scale=60), integers(4, 6)), {}, "certain"),
    Case("SoftmaxWithLoss", (normal(6, 4), integers(4, 6)), {"loss_param": {"ignore_label": 255}}, "no class ignored"),
    Case("Convolution", (normal(2, 3),), {"num_output": 4}, "without space"),
    Case("Clip", (normal(4, 3),), {"min": 0.5, "max": -0.5}, "bounds the wrong way round"),
    Case("RNN", (normal(1, 2, 5), integers(2, 1, 2)), {"num_output": 3}, "one step"),
    Case("LabelsequenceAccuracy", (normal(9, 2, 2), integers(2, 9, 1)), {}, "some right"),
]
"""What the other cases lack: layers that work along the batch, equal values, single steps."""
EXPORTED = [
    case
    for case in [*CASES, *ALONG_THE_BATCH]
    if case.type in exported_types() and case.name not in REFUSED and case.type not in WITHOUT_TOPS
]


def net_of(case: Case, tmp_path):
    rig = testing.Rig(case.type, case.draw(), **{"backward": False, "seed": 1, **case.how(tmp_path)})
    rig.fill_zero_params(np.random.default_rng(3))
    return rig


def outputs_of(rig):
    return [rig.net.top_names[rig.layer.name][k] for k in range(len(rig.layer.layer_param.top))]


def same(mine, values, name):
    assert values.dtype == np.float32
    assert values.shape == mine.shape, name
    scale = max(float(np.nanmax(np.abs(mine), initial=0)), 1e-30)
    np.testing.assert_allclose(values / scale, mine / scale, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", EXPORTED, ids=lambda case: case.name)
def test_a_layer_computes_the_same_in_onnx_runtime(case: Case, tmp_path):
    rig = net_of(case, tmp_path)
    names = outputs_of(rig)
    exported = export_onnx(rig.net, outputs=names)
    onnx.checker.check_model(exported.model, full_check=True)
    running, twin = session(exported.model), exported.twin.net
    probe = Probe(twin)
    for change in ({}, *exported.axes.changes):
        probe.resize(change)
        shapes = [twin.blobs[name].shape for name in rig.net.inputs]
        given = dict(zip(rig.net.inputs, case.draw(tuple(shapes)), strict=True))
        given = {name: np.asarray(values, np.float32) for name, values in given.items() if name in twin.inputs}
        twin.forward(**given)
        for name, values in zip(names, running.run(names, given), strict=True):
            same(twin.blobs[name].data, values, f"{name} {change}")


@pytest.mark.parametrize("case", [case for case in CASES if case.name in REFUSED], ids=lambda case: case.name)
def test_what_onnx_cannot_say_is_refused(case: Case, tmp_path):
    rig = net_of(case, tmp_path)
    with pytest.raises(NetError, match=f"layer '{case.type}' .*{REFUSED[case.name]}"):
        export_onnx(rig.net, outputs=outputs_of(rig))


def test_every_type_that_is_exported_is_tried():
    assert {case.type for case in EXPORTED} == set(exported_types()) - WITHOUT_TOPS
