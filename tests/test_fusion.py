"""Layers that run as one give what they give one by one: blobs, gradients, params, statistics, whichever way they run."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from strict_gpu import StrictBackend

from minicaffe import backend, fusion, proto, solvers
from minicaffe.kernels import fast_paths
from minicaffe.net import Net
from minicaffe.proto import text

NORM = """
layer {{ name: "{0}_norm" type: "BatchNorm" bottom: "{1}" top: "{0}" batch_norm_param {{ eps: 0.01 {2} }} }}
layer {{ name: "{0}_scale" type: "Scale" bottom: "{0}" top: "{0}" {3}
  scale_param {{ bias_term: true filler {{ type: "gaussian" std: 1 }} bias_filler {{ type: "gaussian" std: 1 }} }} }}
"""
RELU = """layer {{ name: "{0}_relu" type: "ReLU" bottom: "{0}" top: "{0}" relu_param {{ negative_slope: {1} }} }}"""
CONVOLUTION = """
layer {{ name: "{0}" type: "Convolution" bottom: "{1}" top: "{0}"
  convolution_param {{ num_output: 4 bias_term: false kernel_size: 3 pad: 1 weight_filler {{ type: "msra" }} }} }}
"""
FRAME = """
{{0}} force_backward: {0}
layer {{{{ name: "x" type: "Input" top: "x" input_param {{{{ shape {{{{ dim: 3 dim: 4 dim: 5 dim: 6 }}}} }}}} }}}}
layer {{{{ name: "goal" type: "Input" top: "goal" input_param {{{{ shape {{{{ dim: 3 dim: 4 dim: 5 dim: 6 }}}} }}}} }}}}
{{1}}
layer {{{{ name: "loss" type: "EuclideanLoss" bottom: "{{2}}" bottom: "goal" top: "loss" }}}}
"""


def net_param(layers: str, last: str, force: bool = False) -> proto.NetParameter:
    frame = FRAME.format("true" if force else "false")
    return text.parse(frame.format('name: "fused"', layers, last), proto.NetParameter())


def norm(top: str, bottom: str | None = None, options: str = "", more: str = "") -> str:
    return NORM.format(top, bottom or top, options, more)


def relu(blob: str, slope: float = 0) -> str:
    return RELU.format(blob, slope)


def convolution(top: str, bottom: str) -> str:
    return CONVOLUTION.format(top, bottom)


SUM = 'layer {{ name: "{0}" type: "Eltwise" bottom: "{1}" bottom: "{2}" top: "{0}" {3} }}'
BLOCK = (
    convolution("a", "x") + norm("a") + relu("a") + convolution("b", "a") + norm("b") + SUM.format("c", "a", "b", "") + relu("c")
)
NETS = {
    "norm, scale, relu": (convolution("a", "x") + norm("a") + relu("a"), "a"),
    "leaky": (convolution("a", "x") + norm("a") + relu("a", 0.25), "a"),
    "norm, scale": (convolution("a", "x") + norm("a"), "a"),
    "rows": (
        'layer { name: "flat" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 120 bias_term: false '
        'weight_filler { type: "msra" } } }' + norm("a") + relu("a")
        + 'layer { name: "back" type: "Reshape" bottom: "a" top: "b" reshape_param { shape { dim: 0 dim: 4 dim: 5 dim: 6 } } }',
        "b",
    ),
    "norm elsewhere": (convolution("a", "x") + norm("b", "a") + relu("b") + convolution("c", "b"), "c"),
    "running statistics": (convolution("a", "x") + norm("a", options="use_global_stats: true") + relu("a"), "a"),
    "nothing below": (norm("a", "x") + relu("a"), "a"),
    "scale does not learn": (convolution("a", "x") + norm("a", more="param { lr_mult: 0 }" * 2) + relu("a"), "a"),
    "bias does not learn": (convolution("a", "x") + norm("a", more="param { } param { lr_mult: 0 }") + relu("a"), "a"),
    "block": (BLOCK, "c"),
    "two blocks": (BLOCK + convolution("d", "c") + norm("d") + SUM.format("e", "c", "d", "") + relu("e", 0.5), "e"),
    "weighted sum": (
        convolution("a", "x") + SUM.format("c", "a", "x", "eltwise_param { coeff: 1 coeff: -2 }") + relu("c")
        + convolution("d", "c") + SUM.format("e", "c", "d", "eltwise_param { coeff: 0.5 coeff: 1 }"),
        "e",
    ),
    "relu on the shortcut": (
        convolution("a", "x") + convolution("b", "a")
        + 'layer { name: "z" type: "ReLU" bottom: "a" top: "z" }' + SUM.format("e", "b", "z", "") + relu("e"),
        "e",
    ),
    "three readers": (
        convolution("a", "x") + relu("a") + SUM.format("b", "a", "a", "") + SUM.format("c", "a", "b", ""), "c"
    ),
}  # fmt: skip
FUSED = {
    "norm, scale, relu": ([1], [3]), "leaky": ([1], [3]), "norm, scale": ([1], [2]), "rows": ([1], [3]),
    "norm elsewhere": ([1], []), "running statistics": ([1], []), "nothing below": ([0], []),
    "scale does not learn": ([1], [3]), "bias does not learn": ([1], [3]),
    "block": ([1, 6, 8], [3, 7]), "two blocks": ([1, 6, 8], [3, 7]),
    "weighted sum": ([2], [4]), "relu on the shortcut": ([4], []), "three readers": ([], []),
}  # fmt: skip


def build(name: str, phase: int = proto.TRAIN, dtype=np.float64, force: bool = False) -> Net:
    backend.current().random.seed(1) if hasattr(backend.current().random, "seed") else None
    net = Net(net_param(*NETS[name], force), phase, dtype=dtype)
    rng = np.random.default_rng(3)
    for blob in (*(b for p in net.params.values() for b in p), *(net.blobs[i] for i in net.inputs)):
        blob.data[...] = rng.standard_normal(blob.shape)
    for layer in net.layers:
        if layer.type == "BatchNorm":
            layer.blobs[1].data[...] **= 2
            layer.blobs[2].data[...] = 1.5
    return net


def values(net: Net) -> dict[str, np.ndarray]:
    """Copies of all that a net holds."""
    blobs = [*net._blob_list, *((f"{name} {i}", b) for name, p in net.params.items() for i, b in enumerate(p))]
    return {f"{name} {part}": getattr(blob, part).copy() for name, blob in blobs for part in ("data", "diff")}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], dtype=np.float64) -> None:
    rtol = 1e-4 if dtype == np.float32 else 1e-11
    assert a.keys() == b.keys()
    for key in a:
        scale = np.abs(b[key]).max(initial=0)
        np.testing.assert_allclose(a[key], b[key], rtol=rtol, atol=rtol * scale, err_msg=key)


def passes(net: Net, times: int = 2) -> dict[str, np.ndarray]:
    for _ in range(times):
        net.run_forward()
        net.run_backward()
    return values(net)


def one_by_one(name: str, *args, times: int = 2, **options) -> dict[str, np.ndarray]:
    with fast_paths.without("fusion"):
        return passes(build(name, *args, **options), times)


@pytest.fixture
def counted(monkeypatch):
    """The passes that ran."""
    ran = []
    for kind in (fusion.StandardizeForward, fusion.StandardizeBackward, fusion.RectifiedSum, fusion.SplitGradient):

        def run(self, run=kind.run):
            ran.append(type(self))
            run(self)

        monkeypatch.setattr(kind, "run", run)
    return ran


@pytest.mark.parametrize("name", NETS)
def test_what_is_fused(name):
    net = build(name)
    assert tuple([net.layers[at].name for at in net._fused[way]] for way in ("forward", "backward")) == FUSED[name]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("phase", [proto.TRAIN, proto.TEST])
@pytest.mark.parametrize("name", NETS)
def test_fused_equals_one_by_one(name, phase, force, dtype):
    how = {"phase": phase, "dtype": dtype, "force": force}
    same(passes(build(name, **how)), one_by_one(name, **how), dtype)
