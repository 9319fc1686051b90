"""Products of 16 bits and loss scaling, on the GPU's stand-in: see ``test_gpu_graphs``."""

from __future__ import annotations

from types import SimpleNamespace

import cuda_host
import numpy as np
import pytest
from google.protobuf.text_format import Parse as parse
from test_gpu_graphs import gpu, launches  # noqa: F401  (fixtures)

import minicaffe
from minicaffe import backend, proto
from minicaffe.blob import Blob
from minicaffe.errors import ArgumentError, DeviceError
from minicaffe.kernels import fast_paths, reference
from minicaffe.kernels.cuda.conv import select
from minicaffe.kernels.window import Window
from minicaffe.layers.neuron import ReLU
from minicaffe.parallel import exchange
from minicaffe.solvers import create
from minicaffe.solvers.loss_scale import LossScale
from minicaffe.storage import Storage
from minicaffe.testing.kernel_cases.halves import ROUNDINGS

pytestmark = pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ builds the CUDA kernels for the CPU")

NET = """
    name: "small" force_backward: true
    layer { name: "data" type: "Input" top: "data" top: "label"
            input_param { shape { dim: 4 dim: 2 dim: 7 dim: 7 } shape { dim: 4 } } }
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
            param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
            convolution_param { num_output: 3 kernel_size: 3 weight_filler { type: "xavier" } } }
    layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
    layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
            inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
UNITS = {"fp16": 2.0**-11, "bf16": 2.0**-8}
"""How far the nearest number may be, of a number's size."""
INFINITE = 2.0**32
"""A loss scale at which gradients are infinite in fp16."""


def solver_of(precision="fp32", loss_scale=None, prefix="", **fields):
    options = dict(type="SGD", base_lr=0.05, momentum=0.9, lr_policy="fixed", random_seed=3, weight_decay=0.01)
    param = proto.SolverParameter(**{**options, **fields}, snapshot_after_train=False, snapshot_prefix=prefix)
    parse(NET, param.net_param)
    made = create(param)
    made.use_precision(precision, loss_scale)
    made.add_callback(lambda: feed(made), lambda: None)
    return made


def feed(solver):
    rng = np.random.default_rng(solver.iter)
    solver.net.blobs["data"].data[...] = rng.standard_normal((4, 2, 7, 7))
    solver.net.blobs["label"].data[...] = rng.integers(0, 5, 4)


def trained(solver, iterations=6):
    """Losses, and all weights afterwards."""
    losses = []
    for _ in range(iterations):
        solver.step(1)
        losses.append(solver.net.loss)
    return losses, weights(solver)


def weights(solver):
    return [blob.data.copy() for blobs in solver.net.params.values() for blob in blobs]


def same_bits(one, other):
    assert one[0] == other[0]
    for a, b in zip(one[1], other[1], strict=True):
        np.testing.assert_array_equal(a, b)


def scale_by(solver, *numbers):
    """Set the first numbers of the loss scale: the scale, the steps it has served, after how many it doubles."""
    solver.loss_scale.storage.host()[: len(numbers)] = numbers


class OurReLU(ReLU):
    """A layer that does not say that it can be captured."""

    type = "OurReLU"


# --- what is rounded


@pytest.mark.parametrize("implicit", [False, True], ids=["im2col", "implicit GEMM"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_is_rounded(precision, implicit, gpu, monkeypatch):  # noqa: F811
    monkeypatch.setattr(select, "is_implicit", lambda problem, tf32: implicit)
    solver, rounded = solver_of(precision), ROUNDINGS[precision]
    feed(solver)
    solver.net.clear_param_diffs()
    solver.net.forward_backward()
    blobs, (conv_w, _), (ip_w, _) = solver.net.blobs, solver.net.params["conv"], solver.net.params["ip"]

    def product(a, b):
        return rounded(a).astype(np.float64) @ rounded(b).astype(np.float64)

    window = Window((3, 3), (1, 1), (0, 0), (1, 1))
    x, w, dy = (rounded(array).astype(np.float64) for array in (blobs["data"].data, conv_w.data, blobs["conv"].diff))
    y, dw, dx = np.empty((4, 3, 5, 5)), np.zeros((3, 2, 3, 3)), np.empty((4, 2, 7, 7))
    reference.convolve(x, w, None, y, window, 1, np.empty(10_000))
    reference.convolve_weight_grad(x, dy, dw, window, 1, np.empty(10_000), False)
    reference.convolve_data_grad(dy, w, dx, window, 1, np.empty(10_000))
    hidden, dip = blobs["conv"].data.reshape(4, -1), blobs["ip"].diff
    for found, expected, kept in (
        (blobs["conv"].data, np.maximum(y, 0), True),
        (blobs["ip"].data, product(hidden, ip_w.data.T), False),
        (ip_w.diff, product(dip.T, hidden), False),
        (conv_w.diff, dw, False),
        (blobs["data"].diff, dx, False),
        (blobs["conv"].diff.reshape(4, -1), product(dip, ip_w.data) * (hidden > 0), True),
    ):
        assert found.dtype == np.float32 and np.array_equal(found, rounded(found)) == kept
        unit = UNITS[precision] if kept else 1e-5
        np.testing.assert_allclose(found, expected, rtol=unit, atol=1e-5 * np.abs(expected).max())
    together = ip_w.diff.copy()
    solver.net.clear_param_diffs()
    solver.net.backward_layer(solver.net.layer_index("ip"))
    np.testing.assert_array_equal(ip_w.diff, together)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_graphs_give_the_same_bits(precision, gpu, launches):  # noqa: F811
    with fast_paths.without("replay"):
        expected = trained(solver_of(precision))
    same_bits(expected, trained(solver_of(precision)))
    assert len({id(graph) for graph in launches}) == 2 and not gpu.not_captured
    assert expected[0] != trained(solver_of())[0]


def test_precision_may_change_between_iterations(gpu, launches):  # noqa: F811
    def run():
        solver, losses = solver_of(), []
        for precision in ("fp32", "fp16", "fp32", "bf16"):
            solver.precision = precision
            assert solver.precision == precision and (solver.loss_scale is not None) == (precision == "fp16")
            losses += trained(solver, 4)[0]
        return losses, weights(solver)

    with fast_paths.without("replay"):
        expected = run()
    same_bits(expected, run())
    # a pass and a step each: blobs are kept in other memory, which ends the graphs before
    assert len({id(graph) for graph in launches}) == 2 * 4


def test_another_thread_may_run_a_net_of_another_precision(gpu):  # noqa: F811
    """Which one is taken is only known once the other has let go of the device."""
    with gpu.running(), gpu.rounding("fp16"):
        waiting = gpu.rounding("fp16"), gpu.rounding("fp32")
    for context, precision in zip(waiting, ("fp16", "fp32"), strict=True):
        with context:
            assert gpu.ops.factors == precision
        assert gpu.ops.factors == "fp32"


def test_the_cpu_says_that_it_does_not_round(caplog):
    expected = trained(solver_of(), 2)
    backend.precision.warn_that_not.cache_clear()
    same_bits(expected, trained(solver_of("bf16"), 2))
    told = [record.getMessage() for record in caplog.records if "precision" in record.getMessage()]
    assert told == ["precision bf16 is for GPUs: the CPU multiplies in the precision of its arrays"]


def test_what_there_is_not(monkeypatch):
    solver = solver_of()
    with pytest.raises(ArgumentError, match="a precision is one of fp32, fp16, bf16; found 'half'"):
        solver.use_precision("half")
    for scale in (3, 0.5, -2, "static", float("inf"), 2.0**40):
        with pytest.raises(ArgumentError, match='a loss scale is "dynamic" or a power of two'):
            solver.use_precision("fp16", scale)
    assert solver.precision == "fp32" and solver.loss_scale is None
    net = proto.NetParameter()
    parse(NET, net)
    wide = minicaffe.Net(net, minicaffe.TRAIN, dtype=np.float64)
    with pytest.raises(ArgumentError, match="precision fp16 is for nets of float32; this one is of float64"):
        wide.precision = "fp16"


def test_bf16_needs_a_gpu_that_has_it(gpu, monkeypatch):  # noqa: F811
    monkeypatch.setattr(gpu, "_capability", 7)
    with pytest.raises(DeviceError, match="GPU 0 has compute capability 7, bf16 needs 8: take fp16"):
        solver_of("bf16").step(1)
    solver_of("fp16").step(1)


# --- the loss scale


@pytest.mark.parametrize("on", ["cpu", "gpu"])
def test_a_loss_scale_changes_no_bit_of_float32(on, request):
    if on == "gpu":
        request.getfixturevalue("gpu")
    expected = trained(solver_of())
    for scale in (1024, "dynamic"):
        solver = solver_of(loss_scale=scale)
        same_bits(expected, trained(solver))
        assert solver.loss_scale.left_out == 0 and solver.net.blobs["loss"].diff == 1


@pytest.mark.parametrize("replay", [True, False])
def test_steps_of_infinite_gradients_are_left_out(replay, gpu):  # noqa: F811
    with fast_paths.without(*([] if replay else ["replay"])):
        solver = solver_of("fp16", INFINITE)
        trained(solver, 2)
        scale_by(solver, 1024.0)
        trained(solver, 2)
        before, momentum = weights(solver), [blob.copy() for blob in solver.history_blobs()]
        scale_by(solver, INFINITE)
        _, after = trained(solver, 3)
    same_bits((0, before), (0, after))
    same_bits((0, momentum), (0, solver.history_blobs()))
    assert solver.loss_scale.value == INFINITE and solver.loss_scale.left_out == 2 + 3 and solver.iter == 7
    assert not any(blob.diff.any() for blobs in solver.net.params.values() for blob in blobs)


def test_a_dynamic_scale_is_halved_until_gradients_are_finite_and_grows_again(gpu):  # noqa: F811
    solver, scales, moved = solver_of("fp16"), [], []
    assert solver.loss_scale.value == 65536
    scale_by(solver, INFINITE, 0, 3)
    for _ in range(24):
        before = weights(solver)
        trained(solver, 1)
        scales.append(solver.loss_scale.value)
        moved.append(any(map(np.any, map(np.subtract, weights(solver), before))))
    first = moved.index(True)
    assert 0 < first < 20 and scales[:first] == [INFINITE / 2 ** (k + 1) for k in range(first)]
    assert solver.loss_scale.left_out == moved.count(False)
    assert scales[first : first + 3] == [scales[first - 1]] * 2 + [2 * scales[first - 1]]


def test_a_scale_of_one_leaves_divergence_to_be_seen(gpu):  # noqa: F811
    solver = solver_of("fp16")
    scale_by(solver, 1.0)
    solver.net.params["ip"][0].data[...] = 1e30
    trained(solver, 1)
    assert not np.isfinite(weights(solver)[2]).all() and solver.loss_scale.left_out == 0


def test_the_scale_is_taken_out_before_clipping_and_own_rates(gpu):  # noqa: F811
    for fields in ({"clip_gradients": 0.05}, {"larc": True, "larc_eta": 0.1, "clip_gradients": 0.5, "iter_size": 2}):
        expected = trained(solver_of(**fields))
        found = trained(solver_of(loss_scale=4096, **fields))
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)


def test_losses_before_a_layer_of_the_host_are_scaled_too(gpu):  # noqa: F811
    """The captured end of the net then does not hold all losses."""
    text = (
        NET
        + """
        layer { name: "sum" type: "Reduction" bottom: "ip" top: "sum" loss_weight: 0.5 }
        layer { name: "cut" type: "OurReLU" bottom: "ip" top: "cut" }
        layer { name: "end" type: "InnerProduct" bottom: "cut" top: "end" inner_product_param { num_output: 1
                weight_filler { type: "xavier" } } }
        layer { name: "loss2" type: "Reduction" bottom: "end" top: "loss2" loss_weight: 2 }
    """
    )
    param = proto.NetParameter()
    parse(text, param)
    net, found = minicaffe.Net(param, minicaffe.TRAIN), []
    rng = np.random.default_rng(0)
    net.blobs["data"].data[...] = rng.standard_normal((4, 2, 7, 7))
    net.blobs["label"].data[...] = [1, 0, 2, 3]
    scale = Storage(4, np.float64)
    scale.host()[0] = 1024
    for loss_scale in (None, None, None, scale, scale, scale):
        net.clear_param_diffs()
        net.forward_backward(loss_scale)
        found.append([blob.diff.copy() for blobs in net.params.values() for blob in blobs])
        assert [float(net.blobs[name].diff) for name in ("loss", "sum", "loss2")] == [1, 0.5, 2]
    for number, diffs in enumerate(found):
        for once, again in zip(found[0], diffs, strict=True):
            factor = 1024 if number >= 3 else 1
            np.testing.assert_array_equal(factor * once, again)


def test_gradients_that_are_exchanged_layer_by_layer_are_scaled(monkeypatch):
    """By two processes, of which the other has no gradients here."""
    monkeypatch.setattr(exchange, "BUCKET", 1)
    group = SimpleNamespace(size=2, start_sum=lambda array: lambda: None)
    solver, found = solver_of(), []
    feed(solver)
    _, diff = solver.net.pack_params()
    exchanged = exchange.GradientExchange(solver.net, diff, group, layer_wise=True)
    for loss_scale in (None, LossScale(1024).storage):
        solver.net.clear_param_diffs()
        exchanged.run(loss_scale)
        found.append(diff.peek().copy())
        assert solver.net.blobs["loss"].diff == 1
    assert found[0].any()
    np.testing.assert_array_equal(1024 * found[0], found[1])


def test_a_training_goes_on_with_its_scale(gpu, tmp_path):  # noqa: F811
    solver = solver_of("fp16", prefix=f"{tmp_path}/net")
    scale_by(solver, 2.0**12, 0, 4)
    trained(solver, 5)
    state = solver.snapshot()
    expected = trained(solver, 5)
    resumed = solver_of("fp16")
    scale_by(resumed, 1.0, 0, 4)
    resumed.restore(state)
    assert resumed.loss_scale.state() == [2.0**13, 1, 4, 0]
    same_bits(expected, trained(resumed, 5))
    assert resumed.loss_scale.state() == solver.loss_scale.state()
    fixed = solver_of("fp16", 256)
    fixed.restore(state)
    assert fixed.loss_scale.value == 256
    plain = solver_of()
    plain.restore(state)
    assert plain.loss_scale is None


def test_a_memory_table_names_rounded_factors(gpu):  # noqa: F811
    trained(solver_of("fp16"), 1)
    with pytest.raises(DeviceError, match="factors of products in 16 bits +[1-9]"):
        gpu.zeros((10**7, 10**7), np.float32)


# --- blobs of 16 bits

IN_PLACE = ("BatchNorm", "Scale", "ReLU")
FILTERS = "num_output: 4 kernel_size: 3 weight_filler { type: 'msra' }"
RESIDUAL = [  # name, type, bottoms, options
    ("conv1", "Convolution", "data", f"convolution_param {{ {FILTERS} bias_term: false }}"),
    ("bn1", "BatchNorm", "conv1", ""),
    ("scale1", "Scale", "bn1", "scale_param { bias_term: true }"),
    ("relu1", "ReLU", "scale1", ""),
    ("pool1", "Pooling", "relu1", "pooling_param { kernel_size: 3 stride: 2 }"),
    ("conv2", "Convolution", "pool1", f"convolution_param {{ {FILTERS} pad: 1 }}"),
    ("bn2", "BatchNorm", "conv2", ""),
    ("scale2", "Scale", "bn2", "scale_param { bias_term: true }"),
    ("sum", "Eltwise", "pool1 scale2", ""),
    ("relu2", "ReLU", "sum", ""),
    ("pool2", "Pooling", "relu2", "pooling_param { pool: AVE global_pooling: true }"),
    ("ip", "InnerProduct", "pool2", "inner_product_param { num_output: 5 weight_filler { type: 'xavier' } }"),
    ("loss", "SoftmaxWithLoss", "ip label", ""),
]


def residual_net(in_place):
    """A net with a shortcut, whose layers work in place where they can, or never."""
    text = """name: "residual" layer { name: "data" type: "Input" top: "data" top: "label"
              input_param { shape { dim: 4 dim: 2 dim: 9 dim: 9 } shape { dim: 4 } } }"""
    tops = {"data": "data", "label": "label"}
    for name, kind, bottoms, options in RESIDUAL:
        read = [tops[bottom] for bottom in bottoms.split()]
        tops[name] = read[0] if in_place and kind in IN_PLACE else name
        listed = " ".join(f'bottom: "{bottom}"' for bottom in read)
        text += f' layer {{ name: "{name}" type: "{kind}" {listed} top: "{tops[name]}" {options} }}'
    return text


NARROW = {"conv1", "pool1", "pool1_pool1_0_split_0", "pool1_pool1_0_split_1", "conv2", "sum", "pool2"}


def residual(precision="fp32", in_place=True):
    fields = dict(type="SGD", base_lr=0.05, momentum=0.9, lr_policy="fixed", random_seed=3)
    param = proto.SolverParameter(**fields, snapshot_after_train=False)
    parse(residual_net(in_place), param.net_param)
    made = create(param)
    made.use_precision(precision)
    rng = np.random.default_rng(7)
    made.net.blobs["data"].data[...] = rng.standard_normal((4, 2, 9, 9))
    made.net.blobs["label"].data[...] = [1, 4, 0, 2]
    return made


def narrow_blobs(net):
    """Names of those whose arrays hold 16 bits."""
    with backend.current().running():
        return {name for name, blob in net.blobs.items() if blob.xdata.dtype.itemsize == 2 == blob.xdiff.dtype.itemsize}


def test_a_net_with_blobs_of_16_bits_trains_as_one_of_float32(gpu, launches):  # noqa: F811
    expected = trained(residual(), 8)
    solver = residual("bf16")
    found = trained(solver, 8)
    assert narrow_blobs(solver.net) == NARROW and not gpu.not_captured
    assert all(blob.data.dtype == np.float32 for blob in solver.net.blobs.values())
    with fast_paths.without("replay"):
        same_bits(found, trained(residual("bf16"), 8))
    with fast_paths.without("fusion"):  # layers one by one round what lies between them
        alone = trained(residual("bf16"), 8)
    for others in (expected, alone):
        apart = np.abs(np.subtract(others[0], found[0])).max() / max(others[0])
        assert 0 < apart < 0.03


def test_each_layer_rounds_what_it_makes_of_rounded_numbers(gpu):  # noqa: F811
    """One after the other on the CPU, from what the GPU left before each."""
    rounded = ROUNDINGS["fp16"]
    with fast_paths.without("fusion"):
        net = residual("fp16", in_place=False).net
        net.blobs["data"].data[...] = rounded(net.blobs["data"].data)
        for blobs in net.params.values():
            blobs[0].data[...] = rounded(blobs[0].data)
        net.clear_param_diffs()
        net.forward_backward()
    kept = narrow_blobs(net)
    assert kept == {*NARROW, "bn1", "scale1", "relu1", "bn2", "scale2", "relu2"}
    found = {name: (blob.data.copy(), blob.diff.copy()) for name, blob in net.blobs.items()}
    found["ip"] = found["ip"][0], rounded(found["ip"][1])  # as a factor of a product
    gradients = {name: [blob.diff.copy() for blob in blobs] for name, blobs in net.params.items()}
    gradients["ip"].pop()  # its bias is none
    values = {name: [blob.data.copy() for blob in blobs] for name, blobs in net.params.items()}
    with backend.use(backend.host_backend()), fast_paths.without("fusion", "replay"):
        param = proto.NetParameter()
        parse(residual_net(in_place=False), param)
        host = minicaffe.Net(param, minicaffe.TRAIN)
        for name, blobs in host.params.items():
            for blob, value in zip(blobs, values[name], strict=True):
                blob.data[...] = value
        for index, step in enumerate(host.steps[1:-1], start=1):
            check_layer(host, index, step, found, gradients, kept)


def check_layer(host, index, step, found, gradients, kept):
    """Forward and backward of one layer, from what was found before it and behind it."""

    def compare(got, want, narrow, what):
        limit = 2e-5 * np.abs(want).max(initial=0) + UNITS["fp16"] * narrow * np.abs(want)
        assert (np.abs(got - want) <= limit).all(), f"{step.layer.name}, {what}: {np.abs(got - want).max()}"

    tops, bottoms = host.top_names[step.layer.name], host.bottom_names[step.layer.name]
    for name in bottoms:
        host.blobs[name].data[...] = found[name][0]
    host.run_forward(index, index)
    for name in tops:
        compare(found[name][0], host.blobs[name].data, name in kept, "value")
        host.blobs[name].data[...] = found[name][0]
        host.blobs[name].diff[...] = found[name][1]
    host.clear_param_diffs()
    host.backward_layer(index)
    for k, name in enumerate(bottoms):
        if step.propagate_down[k]:
            compare(found[name][1], host.blobs[name].diff, name in kept, "gradient")
    for got, blob in zip(gradients.get(step.layer.name, ()), step.layer.blobs, strict=False):
        compare(got, blob.diff, False, "gradient of a param")


def test_numbers_written_and_read_are_float32(gpu):  # noqa: F811
    net = residual("bf16").net
    net.forward()
    blob = net.blobs["conv2"]
    values = np.random.default_rng(0).standard_normal(blob.shape).astype(np.float32)
    blob.data[...] = values
    np.testing.assert_array_equal(blob.data, values)  # the host has what was written
    with gpu.running():
        assert blob.xdata.dtype == np.uint16
    np.testing.assert_array_equal(blob.data, ROUNDINGS["bf16"](values))
    net.precision = "fp32"
    np.testing.assert_array_equal(blob.data, ROUNDINGS["bf16"](values))
    with gpu.running():
        assert blob.xdata.dtype == np.float32


def test_nets_that_only_run_forward(gpu):  # noqa: F811
    param, found = proto.NetParameter(), {}
    parse(residual_net(in_place=True), param)
    del param.layer[-1]
    rng = np.random.default_rng(2)
    trained_net = residual("bf16").net
    for how in ("plain", "reuse_memory", "deploy"):
        net = minicaffe.Net(param, minicaffe.TEST)
        net.share_with(trained_net)
        net.blobs["data"].data[...] = rng.standard_normal((4, 2, 9, 9)) if not found else found["data"]
        found.setdefault("data", net.blobs["data"].data.copy())
        if how != "plain":
            net = getattr(net, how)() or net
        for precision in ("fp32", "bf16"):
            net.precision = precision
            net.blobs["data"].data[...] = found["data"]
            net.forward()
            found[how, precision] = net.blobs["ip"].data.copy()
    np.testing.assert_array_equal(found["plain", "bf16"], found["reuse_memory", "bf16"])
    for how in ("plain", "deploy"):
        apart = np.abs(found[how, "fp32"] - found[how, "bf16"]).max() / np.abs(found[how, "fp32"]).max()
        assert 0 < apart < 0.02


def test_memory_that_is_shared_with_others_is_float32_again(gpu):  # noqa: F811
    net = residual("fp16").net
    net.forward()
    before = net.blobs["pool2"].data.copy()
    other = Blob(before.shape)
    other.share_data(net.blobs["pool2"])
    with gpu.running():
        assert other.xdata.dtype == np.float32
    np.testing.assert_array_equal(other.data, before)
    for precision in ("fp32", "fp16"):
        net.precision = precision
        assert not {"pool2"} & narrow_blobs(net)
    before = Blob(net.blobs["conv2"].shape)
    net.precision = "fp32"
    before.share_data(net.blobs["conv2"])
    net.precision = "fp16"
    net.forward()
    assert narrow_blobs(net) == NARROW - {"pool2", "conv2"}
    del other, before
    net.precision = "bf16"
    assert narrow_blobs(net) == NARROW


@pytest.mark.parametrize(
    ("change", "wide"),
    [
        ({"relu1": {"type": "PReLU"}}, {"conv1"}),
        ({"pool2": {"loss_weight": [1]}}, {"pool2"}),
        ({"pool1": {"top": ["pool1", "mask"]}}, {"conv1", "pool1"}),
    ],
)
def test_blobs_of_other_layers_stay_float32(change, wide, gpu):  # noqa: F811
    param = proto.NetParameter()
    parse(residual_net(in_place=True), param)
    for layer in param.layer:
        for field, value in change.get(layer.name, {}).items():
            if field == "type":
                layer.type = value
            else:
                del getattr(layer, field)[:]
                getattr(layer, field).extend(value)
    net = minicaffe.Net(param, minicaffe.TRAIN)
    net.precision = "fp16"
    net.forward()
    found = narrow_blobs(net)
    assert not wide & found and "conv2" in found
