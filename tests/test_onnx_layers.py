"""Every layer that can be exported computes in ONNX Runtime what it does here, for the batch as it is and for others."""

from __future__ import annotations

import numpy as np
import pytest
from layer_cases import CASES
from layer_cases.case import Case

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
    "Pooling-stochastic": "draws random numbers",
    "MarginInnerProduct-double": "how often it ran",
    "MarginInnerProduct-triple": "how often it ran",
    "MarginInnerProduct-quadruple": "how often it ran",
}
"""Cases of exportable types that are refused, and what is said."""
WITHOUT_TOPS = {"Silence"}
EXPORTED = [
    case
    for case in CASES
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
