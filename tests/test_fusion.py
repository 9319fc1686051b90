"""Layers that run as one give what they give one by one: blobs, gradients, params, statistics, whichever way they run."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from strict_gpu import StrictBackend

from minicaffe import backend, proto, solvers, summary
from minicaffe.blob import Blob
from minicaffe.engine import fusion
from minicaffe.errors import LayerError
from minicaffe.kernels import fast_paths
from minicaffe.layers.base import registry
from minicaffe.net import Net
from minicaffe.proto import text

NORM = """
layer {{ name: "{0}_norm" type: "BatchNorm" bottom: "{1}" top: "{0}" batch_norm_param {{ eps: 0.01 {2} }} }}
layer {{ name: "{0}_scale" type: "Scale" bottom: "{0}" top: "{0}" {3}
  scale_param {{ {4} filler {{ type: "gaussian" std: 1 }} }} }}
"""
RELU = """layer {{ name: "{0}_relu" type: "ReLU" bottom: "{0}" top: "{0}" relu_param {{ negative_slope: {1} }} }}"""
CONVOLUTION = """
layer {{ name: "{0}" type: "Convolution" bottom: "{1}" top: "{0}" {2}
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


def norm(top: str, bottom: str | None = None, options: str = "", more: str = "", scale: str = "bias_term: true") -> str:
    return NORM.format(top, bottom or top, options, more, scale)


def relu(blob: str, slope: float = 0) -> str:
    return RELU.format(blob, slope)


def convolution(top: str, bottom: str, more: str = "") -> str:
    return CONVOLUTION.format(top, bottom, more)


SUM = 'layer {{ name: "{0}" type: "Eltwise" bottom: "{1}" bottom: "{2}" top: "{0}" {3} }}'
BLOCK = (
    convolution("a", "x")
    + norm("a")
    + relu("a")
    + convolution("b", "a")
    + norm("b")
    + SUM.format("c", "a", "b", "")
    + relu("c")
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
    "frozen below": (convolution("a", "x", "param { lr_mult: 0 }") + norm("a") + relu("a"), "a"),
    "another axis": (convolution("a", "x") + norm("a", scale="bias_term: true axis: 2") + relu("a"), "a"),
    "no bias": (convolution("a", "x") + norm("a", scale="bias_term: false") + relu("a"), "a"),
    "scale does not learn": (convolution("a", "x") + norm("a", more="param { lr_mult: 0 }" * 2) + relu("a"), "a"),
    "bias does not learn": (convolution("a", "x") + norm("a", more="param { } param { lr_mult: 0 }") + relu("a"), "a"),
    "block": (BLOCK, "c"),
    "two blocks": (BLOCK + convolution("d", "c") + norm("d") + SUM.format("e", "c", "d", "") + relu("e", 0.5), "e"),
    "weighted norm": (
        convolution("a", "x") + convolution("b", "a") + norm("b")
        + SUM.format("c", "a", "b", "eltwise_param { coeff: 3 coeff: 2 }") + relu("c"),
        "c",
    ),
    "two norms": (
        convolution("a", "x") + norm("a") + convolution("b", "x") + norm("b") + SUM.format("c", "b", "a", "") + relu("c"), "c"
    ),
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
    "rectified convolution": (convolution("a", "x").replace("false", "true") + relu("a", 0.25), "a"),
    "two convolutions": (
        convolution("a", "x") + relu("a") + convolution("b", "a").replace("false", "true") + relu("b")
        + convolution("c", "b") + relu("c").replace('top: "c"', 'top: "d"'), "d"
    ),
}  # fmt: skip
FUSED = {
    "norm, scale, relu": (["a_norm"], ["a_relu"]),
    "leaky": (["a_norm"], ["a_relu"]),
    "norm, scale": (["a_norm"], ["a_scale"]),
    "rows": (["a_norm"], ["a_relu"]),
    "norm elsewhere": (["b_norm"], ["b_scale"]),
    "running statistics": (["a_norm"], ["a_scale"]),
    "frozen below": (["a_norm"], ["a_relu"]),
    "scale does not learn": (["a_norm"], ["a_relu"]),
    "bias does not learn": (["a_norm"], ["a_relu"]),
    "another axis": ([], []),
    "no bias": ([], []),
    "block": (["a_norm", "b_norm", "c"], ["a_relu", "c"]),
    "two blocks": (["a_norm", "b_norm", "c", "d_norm", "e"], ["a_relu", "c", "c_c_relu_0_split", "e"]),
    "weighted norm": (["b_norm", "c"], ["b_scale"]),
    "two norms": (["a_norm", "b_norm", "c"], ["a_scale", "c"]),
    "weighted sum": (["c"], ["c_c_relu_0_split"]),
    "relu on the shortcut": (["e"], []),
    "three readers": (["a"], []),
    "rectified convolution": (["a"], []),
    "two convolutions": (["a", "b"], []),
}
"""The first layers of the forward passes and the last ones of the backward passes."""


def build(name: str, phase: int = proto.TRAIN, dtype=np.float64, force: bool = False) -> Net:
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
    for kind in (
        fusion.StandardizeForward,
        fusion.StandardizeBackward,
        fusion.RectifiedSum,
        fusion.RectifiedConvolution,
        fusion.SplitGradient,
    ):

        def run(self, run=kind.run):
            ran.append(type(self))
            run(self)

        monkeypatch.setattr(kind, "run", run)
    return ran


@pytest.mark.parametrize("name", NETS)
def test_what_is_fused(name):
    net = build(name)
    plan = net._executor.plan()
    found = ([net.layers[at].name for at in sweep.passes] for sweep in (plan.sweeps.forward, plan.sweeps.backward))
    assert tuple(found) == FUSED[name]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("phase", [proto.TRAIN, proto.TEST])
@pytest.mark.parametrize("name", NETS)
def test_fused_equals_one_by_one(name, phase, force, dtype):
    how = {"phase": phase, "dtype": dtype, "force": force}
    same(passes(build(name, **how)), one_by_one(name, **how), dtype)


@pytest.mark.parametrize("phase", [proto.TRAIN, proto.TEST])
@pytest.mark.parametrize("name", NETS)
def test_a_pass_may_be_fused_in_one_direction_only(name, phase):
    expected = one_by_one(name, phase)
    for fused in ("forward", "backward"):
        net = build(name, phase)
        for _ in range(2):
            for way, run in (("forward", net.run_forward), ("backward", net.run_backward)):
                with contextlib.nullcontext() if way == fused else fast_paths.without("fusion"):
                    run()
        same(values(net), expected)


@pytest.mark.parametrize("phase", [proto.TRAIN, proto.TEST])
@pytest.mark.parametrize("name", NETS)
def test_parts_of_a_net(name, phase):
    """Forward or backward in two parts, wherever the cut lies."""
    expected = one_by_one(name, phase, times=1)
    last = len(build(name).steps) - 1
    for cut in range(1, last + 1):
        net = build(name, phase)
        net.run_forward(0, cut - 1)
        net.run_forward(cut, last)
        net.run_backward(last, cut)
        net.run_backward(cut - 1, 0)
        same(values(net), expected)
    for cut in range(1, last + 1):
        net = build(name, phase)
        net.run_forward()
        net.run_backward(last, cut)
        net.run_backward(cut - 1, 0)
        same(values(net), expected)


@pytest.mark.parametrize("name", ["two blocks", "three readers"])
def test_a_layer_left_out_backward(name):
    """What it wrote before stays as it is, the gradient included that a sum only hands on."""

    def found(net: Net) -> list[dict[str, np.ndarray]]:
        last, seen = len(net.steps) - 1, [passes(net)]
        for cut in range(1, last):
            net.blobs["x"].data[...] *= 1.1
            net.run_forward()
            net.run_backward(last, cut + 1)
            seen.append(values(net))
            net.run_backward(cut - 1, 0)
            seen += [values(net), passes(net, 1)]
        for step in net.steps:
            step.propagate_down[:] = [False] * len(step.propagate_down)
            net.blobs["x"].data[...] *= 1.1
            seen.append(passes(net))
        return seen

    with fast_paths.without("fusion"):
        expected = found(build(name))
    for fused, alone in zip(found(build(name)), expected, strict=True):
        same(fused, alone)


def test_the_gradient_of_a_shortcut_is_shared_again_in_the_next_whole_pass():
    net = build("two blocks")
    shared = net.steps[net.layer_index("c_c_relu_0_split")].top[1]
    total, last = net.steps[net.layer_index("e")].top[0], len(net.steps) - 1
    passes(net)
    net.run_backward(last, net.layer_index("e") + 1)
    assert not shared.shares_diff_with(total)
    net.run_backward(net.layer_index("e"), 0)
    assert not shared.shares_diff_with(total)
    passes(net)
    assert shared.shares_diff_with(total)


@pytest.mark.parametrize("wanted", [[True, False], [False, True], [False, False]])
def test_a_gradient_that_is_not_wanted_stays_though_later_layers_are_replayed(monkeypatch, wanted):
    """The end of the net is captured forward and backward as one, and the sum lies before it."""
    monkeypatch.setattr(registry["TanH"], "capturable", False)
    definition = net_param(BLOCK + 'layer { name: "d" type: "TanH" bottom: "c" top: "d" }' + convolution("e", "d"), "e")
    definition.layer[1].input_param.shape[0].dim[:] = [3, 5, 6]
    definition.layer[-1].type = "SoftmaxWithLoss"

    def found(*left_out: str) -> list:
        with fast_paths.without(*left_out):
            backend.random.seed(0)
            net, seen = Net(definition, dtype=np.float64), []
            (total,) = (step for step in net.steps if step.layer.name == "c")
            random = np.random.default_rng(0)
            for flags in ([True, True], wanted, [True, True], wanted):
                total.propagate_down[:] = flags
                for _ in range(5):
                    net.blobs["x"].data[...] = random.standard_normal(net.blobs["x"].shape)
                    net.forward_backward()
                    seen.append([blob.diff.copy() for step in net.steps for blob in (*step.bottom, *step.layer.blobs)])
            return seen

    for replayed, eager in zip(found(), found("replay"), strict=True):
        for ours, theirs in zip(replayed, eager, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_forward_pass_that_fails_leaves_the_gradient_of_a_shortcut_alone():
    definition = net_param(*NETS["two blocks"])
    definition.layer[1].input_param.shape[0].dim[:] = [3, 5, 6]
    definition.layer[-1].type = "SoftmaxWithLoss"  # which is captured with the layers before it, forward and backward
    net = Net(definition, dtype=np.float64)
    shared = net.steps[net.layer_index("c_c_relu_0_split")].top[1]
    net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal(net.blobs["x"].shape)
    net.forward_backward()
    net.run_backward(len(net.steps) - 1, net.layer_index("e") + 1)
    before = shared.diff.copy()
    net.blobs["x"].data[...] += 1
    net.run_forward()
    net.run_backward(len(net.steps) - 1, net.layer_index("e") + 1)
    net.blobs["goal"].data[...] = 9
    with pytest.raises(LayerError, match="found 9"):
        net.forward_backward()
    np.testing.assert_array_equal(shared.diff, before)


def test_a_gradient_that_the_user_shares_is_left_to_him():
    net = build("two blocks")
    passes(net)
    blob = net.steps[net.layer_index("c_c_relu_0_split")].top[1]
    elsewhere = Blob(blob.shape, np.float64)
    blob.share_diff(elsewhere)
    net.layers[net.layer_index("e_relu")].negative_slope = 0.5
    passes(net)
    np.testing.assert_array_equal(elsewhere.diff, net.steps[net.layer_index("e")].top[0].diff)


def test_two_shortcuts_are_apart_when_the_user_shares_the_gradient_of_their_sum():
    layers = "".join(
        f'layer {{ name: "{kind}{i}" type: "{kind}" bottom: "{bottom}" top: "{kind}{i}" {options} }}'
        for i, (kind, bottom, options) in enumerate(
            [
                ("Power", "x", "power_param { scale: 2 }"), ("TanH", "Power0", ""), ("Sigmoid", "Power0", ""),
                ("AbsVal", "TanH1", ""), ("Exp", "Sigmoid2", ""),
            ]
        )
    ) + SUM.format("sum", "TanH1", "Sigmoid2", "")  # fmt: skip

    def found() -> dict[str, np.ndarray]:
        net = Net(net_param(layers, "sum", force=True), dtype=np.float64)
        net.blobs["x"].data[...] = np.random.default_rng(0).standard_normal(net.blobs["x"].shape)
        elsewhere = Blob(net.blobs["sum"].shape, np.float64)
        net.blobs["sum"].share_diff(elsewhere)
        net.layers[net.layer_index("sum")].coefficients = (3, 1)
        return passes(net)

    with fast_paths.without("fusion"):
        expected = found()
    same(found(), expected)


def test_a_value_put_in_between_is_what_scale_reads():
    """Forward from the middle of a fused row: backward reads what the user put there, not what BatchNorm made."""
    found = []
    for context in (contextlib.nullcontext(), fast_paths.without("fusion")):
        with context:
            net = build("norm, scale, relu")
            net.run_forward()
            net.blobs["a"].data[...] = np.random.default_rng(7).standard_normal(net.blobs["a"].shape)
            net.run_forward(net.layer_index("a_scale"))
            net.run_backward()
            found.append(values(net))
    same(*found)


def test_callbacks_see_each_layer(counted):
    """With callbacks that look at a blob, and change it, layers run one by one."""
    for context in (contextlib.nullcontext(), fast_paths.without("fusion")):
        with context:
            net = build("block")
            seen, last = [], net.layer_index("b_norm")

            def look(index, net=net, seen=seen, last=last):
                seen.append((index, net.blobs["b"].data.copy(), net.blobs["b"].diff.copy()))
                if index == last:
                    net.blobs["b"].data[...] *= 2

            net.after_forward(look)
            net.before_backward(look)
            passes(net)
            if "fusion" not in fast_paths._left_out:
                first = seen
    assert not counted
    assert [index for index, *_ in seen] == [index for index, *_ in first]
    for (_, data, diff), (_, other_data, other_diff) in zip(seen, first, strict=True):
        np.testing.assert_array_equal(data, other_data)
        np.testing.assert_array_equal(diff, other_diff)


def test_debug_info_sees_each_layer(counted, caplog):
    net = build("block")
    net.debug_info = True
    with caplog.at_level("INFO", "minicaffe"):
        passes(net, 1)
    assert not counted
    assert "[Forward] Layer a_scale, top blob a data" in caplog.text
    assert "[Backward] Layer a_scale, bottom blob a diff" in caplog.text


def test_each_pass_runs(counted):
    net = build("two blocks")
    net.run_forward()
    forward = [
        fusion.StandardizeForward,
        fusion.StandardizeForward,
        fusion.RectifiedSum,
        fusion.StandardizeForward,
        fusion.RectifiedSum,
    ]
    assert counted == forward
    net.run_backward()
    backward = [
        fusion.StandardizeBackward,
        fusion.SplitGradient,
        fusion.StandardizeBackward,
        fusion.StandardizeBackward,
    ]
    assert counted == forward + backward


# --- memory -------------------------------------------------------------------------------------------------------


def kept(net: Net) -> dict[str, int]:
    return {layer.name: layer.scratch_bytes for layer in net.layers if layer.type in ("BatchNorm", "Scale")}


def size(net: Net) -> int:
    return net.blobs["a"].data.nbytes


def test_a_copy_is_kept_once():
    net = build("norm, scale, relu")
    with fast_paths.without("fusion"):
        other = build("norm, scale, relu")
    assert kept(net)["a_scale"] == 0
    assert kept(other)["a_scale"] == kept(other)["a_norm"] - 5 * 4 * 8 == size(net)
    assert summary.memory(other).scratch - summary.memory(net).scratch == size(net)
    passes(net)
    assert kept(net)["a_scale"] == 0
    with fast_paths.without("fusion"):
        passes(net)
    assert kept(net)["a_scale"] == size(net)


def test_no_copies_where_nothing_goes_backward():
    layers = convolution("a", "x") + norm("a") + relu("a")
    definition = text.parse(
        FRAME.format("false").format("", layers, "a").rpartition("layer {")[0], proto.NetParameter()
    )
    for phase in (proto.TRAIN, proto.TEST):
        for context in (contextlib.nullcontext(), fast_paths.without("fusion")):
            with context:
                net = Net(definition, phase)
                net.run_forward()
                assert max(kept(net).values()) < size(net)
    net = build("norm, scale, relu", proto.TEST)
    expected = net.forward()["loss"].copy()
    assert kept(net)["a_scale"] == size(net)
    net.reuse_memory(keep=["a"])
    np.testing.assert_array_equal(net.forward()["loss"], expected)
    assert kept(net)["a_scale"] == 0


def test_the_gradient_of_a_shortcut_is_that_of_the_sum():
    net = build("two blocks")
    top = net.steps[net.layer_index("c_c_relu_0_split")].top
    total = net.steps[net.layer_index("e")]
    assert [blob.diff_storage is total.top[0].diff_storage for blob in top] == [False, True]
    with fast_paths.without("fusion"):
        other = build("two blocks")
    saved = summary.memory(other).blob_gradients - summary.memory(net).blob_gradients
    assert saved == size(net) * sum(
        blob.diff_storage is s.top[0].diff_storage for s in net.steps if s.layer.type == "Eltwise" for blob in s.bottom
    )


@pytest.mark.parametrize("name", ["relu on the shortcut", "weighted sum"])
def test_a_gradient_that_would_be_written_over_is_not_shared(name):
    net = build(name)
    shared = [
        (step.layer.name, k)
        for step in net.steps if step.layer.type == "Eltwise"
        for k, blob in enumerate(step.bottom) if blob.diff_storage is step.top[0].diff_storage
    ]  # fmt: skip
    assert not shared


# --- other ways to run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["norm, scale, relu", "norm elsewhere", "two blocks"])
def test_another_batch_size(name):
    found = []
    for context in (contextlib.nullcontext(), fast_paths.without("fusion")):
        with context:
            net = build(name)
            passes(net)
            for batch in (5, 2):
                for blob in (net.blobs["x"], net.blobs["goal"]):
                    blob.reshape(batch, 4, 5, 6)
                    blob.data[...] = np.random.default_rng(batch).standard_normal(blob.shape)
                passes(net, 1)
            found.append(values(net))
    same(*found)


@pytest.mark.parametrize(
    "name",
    [
        "leaky",
        "running statistics",
        "norm elsewhere",
        "two blocks",
        "rows",
        "rectified convolution",
        "two convolutions",
    ],
)
def test_on_a_gpu(name):
    expected = passes(build(name))
    with backend.use(StrictBackend()):
        net = build(name)
        net.run_forward()
        net.run_backward()
        net.run_forward()
        net.run_backward()
        same(values(net), expected)


def test_a_snapshot_goes_on_as_without_a_break(tmp_path):
    def solver():
        param = text.parse(
            f'base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" random_seed: 1 max_iter: 9 snapshot_prefix: "{tmp_path}/s"',
            proto.SolverParameter(),
        )
        param.net_param.CopyFrom(net_param(*NETS["two blocks"]))
        made = solvers.create(param)
        rng = np.random.default_rng(5)
        for name in made.net.inputs:
            made.net.blobs[name].data[...] = rng.standard_normal(made.net.blobs[name].shape)
        return made

    whole = solver()
    whole.step(2)
    whole.snapshot()
    whole.step(2)
    resumed = solver()
    resumed.restore(f"{tmp_path}/s_iter_2.solverstate")
    resumed.step(2)
    for (_, a), (_, b) in zip(whole.net._blob_list, resumed.net._blob_list, strict=True):
        np.testing.assert_array_equal(a.data, b.data)
    for name, blobs in whole.net.params.items():
        for a, b in zip(blobs, resumed.net.params[name], strict=True):
            np.testing.assert_array_equal(a.data, b.data)


def test_a_forward_pass_of_the_first_layers_leaves_what_later_ones_keep():
    """Also where the net plans anew, here as it had run layer by layer before."""
    found = []
    for context in (contextlib.nullcontext(), fast_paths.without("fusion")):
        with context:
            net = build("norm, scale, relu")
            passes(net)
            for place in range(len(net.steps)):
                net.run_forward(place, place)
            net.run_backward()
            net.run_forward(0, net.layer_index("a_norm") - 1)
            net.run_backward()
            found.append(values(net))
    same(*found)


def test_layers_have_kept_what_a_layer_before_them_overwrites_when_it_runs_again():
    definition = """
        force_backward: true
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 2 dim: 4 dim: 4 } } }
        layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param {
            num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } } }
        layer { name: "r" type: "ReLU" bottom: "c" top: "c" }
        layer { name: "b" type: "BatchNorm" bottom: "c" top: "b" batch_norm_param { use_global_stats: true } }
        layer { name: "s" type: "Scale" bottom: "b" top: "b" scale_param { bias_term: true } }
    """
    found = []
    for left_out in ((), ("fusion",)):
        with fast_paths.without(*left_out):
            backend.random.seed(1)
            net = Net(text.parse(definition, proto.NetParameter()), proto.TRAIN)
            net.layer_dict["b"].blobs[2].data[...] = 1
            rng = np.random.default_rng(2)
            net.blobs["x"].data[...] = rng.standard_normal(net.blobs["x"].shape)
            net.forward()
            net.forward(start="c", end="c")
            net.blobs["b"].diff[...] = rng.standard_normal(net.blobs["b"].shape)
            net.backward()
            found.append(net.params["s"][0].diff.copy())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5)
