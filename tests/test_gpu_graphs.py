"""CUDA graphs without a GPU: the GPU backend itself on models of CuPy and cuBLAS that capture as CUDA does.

A graph holds the arguments that it was captured with: a number that changes from iteration to iteration and was given
by value, or memory that was replaced, would show in the numbers.
"""

from __future__ import annotations

import gc
import re
import threading
from types import SimpleNamespace

import cuda_host
import numpy as np
import pytest
import strict_cupy
from layer_cases import CASES
from strict_cuda import FakeCublas, FakeCupy, OutOfMemoryError
from test_capture import rolled

import minicaffe
from minicaffe import backend, compat, proto, testing
from minicaffe.backend import staging
from minicaffe.backend.gpu import GpuBackend
from minicaffe.errors import DeviceError, LayerError, MinicaffeError
from minicaffe.kernels import fast_paths
from minicaffe.layers import interface
from minicaffe.layers.neuron import ReLU
from minicaffe.proto.origin import Origin
from minicaffe.solvers.callbacks import Callbacks
from minicaffe.solvers.smoothing import SmoothedLoss
from minicaffe.testing.gpu import training

pytestmark = pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ builds the CUDA kernels for the CPU")


@pytest.fixture(autouse=True, scope="module")
def old_objects_left_alone():
    """What tests of other modules left in this process need not be looked through at each test's ``gc.collect``."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def gpu(monkeypatch):
    modules = {"cupy": FakeCupy(), "nvmath": SimpleNamespace(), "nvmath.bindings.cublas": FakeCublas()}
    required = compat.require
    monkeypatch.setattr(compat, "require", lambda name: modules[name] if name in modules else required(name))
    monkeypatch.setattr(GpuBackend, "_of_device", {})
    gc.collect()  # where a net of an earlier test goes, memory that was made for it goes, and captures end
    with backend.use(GpuBackend.on_device(0)) as where:
        yield where


@pytest.fixture
def launches(monkeypatch):
    """The graphs that are launched, one after the other."""
    found, launch = [], strict_cupy.Graph.launch
    monkeypatch.setattr(strict_cupy.Graph, "launch", lambda self, *rest: (found.append(self), launch(self, *rest)))
    return found


def trained(task, iterations=6, kind="SGD", **options):
    """Losses and weights after some iterations on inputs that change."""
    made = training.make(task, 2, kind)
    for name, value in options.items():
        setattr(made.param, name, value)
    losses = training.train(made, iterations)
    return losses, training.weights(made)


def with_and_without(run):
    with fast_paths.without("replay"):
        expected = run()
    return expected, run()


def same_bits(expected, found):
    assert expected[0] == found[0] and len(set(found[0])) == len(found[0])
    for a, b in zip(expected[1], found[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", training.NETS)
def test_nets_train_to_the_same_bits(name, gpu, launches):
    def run():
        launches.clear()
        return trained(training.NETS[name])

    expected, found = with_and_without(run)
    same_bits(expected, found)
    # two iterations run kernel by kernel, since the first makes memory; in the third, graphs are made and launched
    assert len(launches) == 2 * 4 and len({id(graph) for graph in launches}) == 2


@pytest.mark.parametrize("kind", training.SOLVERS)
def test_solvers_take_the_same_steps(kind, gpu, launches):
    """Under a rate that changes at every iteration; Adam corrects it by the iteration's number, too."""
    same_bits(*with_and_without(lambda: trained(training.LENET, kind=kind, lr_policy="inv", gamma=0.1, power=0.75)))
    assert launches


def test_a_number_that_is_baked_into_a_graph_shows(gpu, monkeypatch):
    monkeypatch.setattr(GpuBackend, "numbers", lambda self, owner, values: self.xp.asarray(values))
    expected, found = with_and_without(lambda: trained(training.LENET, lr_policy="inv", gamma=0.1, power=0.75))
    assert expected[0][:4] == found[0][:4] and expected[0][4:] != found[0][4:]


def test_what_a_step_goes_by_may_change(gpu, launches):
    def run():
        made, losses = training.make(training.LENET, 2), []
        for change in ({}, {"momentum": 0.5}, {"weight_decay": 0.1}, {"clip_gradients": 0.05}, {"base_lr": 0.02}, {}):
            for name, value in change.items():
                setattr(made.param, name, value)
            losses += training.train(made, 3)
        return losses, training.weights(made)

    same_bits(*with_and_without(run))
    # one of the step for each change but that of the rate; two of the net, for the first norm takes new memory
    assert len({id(graph) for graph in launches}) == 4 + 2


@pytest.mark.parametrize(("clip", "kernels"), [(-1.0, 1), (0.05, 3)])
def test_one_kernel_steps_all_params(clip, kernels, gpu, launches):
    """Weights and biases have other rates; to clip takes their norm before, in two kernels."""
    trained(training.LENET, clip_gradients=clip)
    assert len(launches[-1]) == kernels


def test_own_rates_of_params_come_from_memory(gpu, launches):
    options = dict(larc=True, larc_eta=0.02, larc_policy="clip", clip_gradients=0.5, iter_size=2)
    expected, found = with_and_without(lambda: trained(training.LENET, **options))
    same_bits(expected, found)
    assert len(launches[-1]) == 3
    with backend.use(backend.host_backend()):
        losses, _ = trained(training.LENET, **options)
    np.testing.assert_allclose(found[0], losses, rtol=1e-5)


def test_gradients_of_several_passes_add_up(gpu, launches):
    same_bits(*with_and_without(lambda: trained(training.LENET, iterations=5, iter_size=3)))
    assert launches


def test_a_step_that_somebody_put_in_the_place_of_the_solvers_own_is_called_each_time(gpu):
    made, calls = training.make(training.LENET, 2), []
    own = made.update
    made.update = lambda *args: (calls.append(args[4]), own(*args))
    training.train(made, 5)
    assert len(calls) == 2 * 5 and all(isinstance(rate, float) for rate in calls)


def test_masks_are_drawn_anew_and_follow_the_seed(gpu, launches):
    def run():
        made, losses = training.make(training.DROPOUT, 2), []
        for seed in (None, 1, 2, 1):
            if seed is not None:
                backend.random.seed(seed)
            losses += training.train(made, 4)
        return losses, training.weights(made)

    same_bits(*with_and_without(run))
    assert len({id(graph) for graph in launches}) == 2


def test_blobs_may_be_read_and_written_between_iterations(gpu, launches):
    def run():
        made, seen = training.make(training.LENET, 2), []
        for i in range(8):
            seen += training.train(made, 1)
            net = made.net
            if i % 2:
                seen.append(float(net.blobs["ip1"].data.sum()))
                seen.append(float(np.abs(net.params["ip1"][0].diff).sum()))
            if i == 5:
                net.params["conv1"][0].data[...] *= 0.5
                made.history[0].host()[...] *= 0.25
        return seen, training.weights(made)

    same_bits(*with_and_without(run))
    assert len({id(graph) for graph in launches}) == 2


def test_inputs_that_are_copied_ahead_reach_the_graphs(gpu, launches, monkeypatch):
    monkeypatch.setattr(staging, "_LEAST", 0)
    with fast_paths.without("copy_ahead"):
        expected = with_and_without(lambda: trained(training.SIAMESE))[0]
        assert not gpu._staging.spare_bytes
    same_bits(expected, trained(training.SIAMESE))
    assert gpu._staging.spare_bytes


def test_forward_alone_is_a_graph(gpu, launches):
    made = training.make(training.LENET, 2)
    outputs = []
    for _ in range(2):
        launches.clear()
        for i in range(5):
            made.iter = i
            training.feed(made)
            made.net.run_forward()
            outputs.append(made.net.blobs["ip2"].data.copy())
    assert len(launches) == 5 and len({id(graph) for graph in launches}) == 1
    np.testing.assert_array_equal(outputs[:5], outputs[5:])
    assert not np.array_equal(outputs[0], outputs[1])


def test_a_bad_label_is_told_from_a_graph(gpu, launches):
    made = training.make(training.LENET, 2)
    training.train(made, 5)
    assert launches
    made._callbacks = Callbacks()
    for _ in range(2):
        made.net.blobs["label"].data[1] = 17
        made.step(1)
        made.net.blobs["label"].data[1] = 7
        made.step(3)
        with pytest.raises(LayerError, match="value number 1 of the batch is not an integer in 0 .. 9"):
            made.net.loss  # noqa: B018
        assert made.net.loss > 0


def test_what_cannot_be_captured_is_named_once_and_runs(gpu, launches, caplog, monkeypatch):
    def forward(self, bottom, top):
        top[0].xdata[...] = bottom[0].xdata * 2 - bottom[0].xdata  # makes two arrays

    monkeypatch.setattr(interface, "is_patched", lambda cls: False)  # as if the class had been written so
    monkeypatch.setattr(ReLU, "forward", forward)
    caplog.set_level("INFO")
    expected, found = with_and_without(lambda: trained(training.LENET))
    same_bits(expected, found)
    assert [record.getMessage() for record in caplog.records if "CUDA graph" in record.getMessage()] == [
        "GPU 0: layers run one by one, not as a CUDA graph: 4000 bytes of memory are allocated"
    ]
    assert len({id(graph) for graph in launches}) == 1  # that of the step


@pytest.mark.parametrize("case", [case for case in CASES if "parity" not in case.why_not], ids=lambda case: case.name)
def test_each_layer_gives_the_same_numbers_from_a_graph(case, gpu, launches, tmp_path):
    def run():
        backend.random.seed(5)
        rig = testing.Rig(case.type, case.draw(), seed=1, **case.how(tmp_path))
        rig.fill_zero_params(np.random.default_rng(3))
        asked = rig.net.steps[-1].propagate_down
        backward = "gradient" not in case.why_not and all(w for w, down in zip(rig.wanted, asked, strict=True) if down)
        found = []
        for _ in range(5):
            for blob in rig.bottom:
                blob.data[...] = rolled(case, blob.data)
            rig.forward()
            found += [blob.data.copy() for blob in rig.top]
            if backward:
                rig.net.run_backward()
                found += [blob.diff.copy() for blob in (*rig.bottom, *rig.layer.blobs)]
        rig.net.close()
        return rig.layer.can_be_captured(on_host=False), found

    (_, expected), (captured, found) = with_and_without(run)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not captured or launches
    assert not gpu.not_captured


def test_another_thread_that_reads_a_blob_waits_for_a_capture(gpu, launches, monkeypatch):
    made, read, threads = training.make(training.LENET, 2), [], []
    training.train(made, 2)
    softmax = gpu.ops.softmax

    def beside_a_reader(x, y):
        threads.append(threading.Thread(target=lambda: read.append(made.net.blobs["label"].peek_data().copy())))
        threads[-1].start()
        threads[-1].join(0.05)
        softmax(x, y)

    monkeypatch.setattr(gpu.ops, "softmax", beside_a_reader, raising=False)
    training.train(made, 1)
    for thread in threads:
        thread.join(30)
    assert len(launches) == 2 and len(threads) == len(read) == 1
    assert not gpu.not_captured


def test_tf32_is_asked_of_cublas_and_has_graphs_of_its_own(gpu, launches, monkeypatch):
    modes, math = [], FakeCublas.Math
    monkeypatch.setattr(FakeCublas, "set_math_mode", lambda self, handle, mode: modes.append(mode))
    made = training.make(training.LENET, 2)
    training.train(made, 4)
    assert not modes and len({id(graph) for graph in launches}) == 2
    before = minicaffe.allow_tf32()
    try:
        training.train(made, 4)
    finally:
        assert minicaffe.allow_tf32(before)
    training.train(made, 2)
    # back in the first graph, cuBLAS is asked for nothing; the solver's steps have no products, but may as well
    assert not before and modes == [math.TF32_TENSOR_OP_MATH]
    gpu.ops.gemm(*(strict_cupy.zeros((2, 2), np.float32) for _ in range(3)))
    assert modes == [math.TF32_TENSOR_OP_MATH, math.DEFAULT_MATH]


def test_memory_that_runs_out_is_accounted_for(gpu):
    made = training.make(training.DROPOUT, 2)
    training.train(made, 1)
    with pytest.raises(DeviceError, match="no memory left for an array of shape") as error:
        gpu.zeros((10**7, 10**7), np.float32)
    rows = dict(re.findall(r"^  (\S.*?)  +(\d.*)$", str(error.value), re.MULTILINE))
    net = "TRAIN net 'LeNet': "
    assert list(rows) == [
        f"{net}params and their gradients", f"{net}blobs", f"{net}scratch of its layers", "history of the SGD solver",
        "workspace that all layers share", "free, of 1 GiB",
    ]  # fmt: skip
    assert rows["free, of 1 GiB"] == "3 MiB"
    count = sum(blob.count for blobs in made.net.params.values() for blob in blobs)
    for name, copies in ((f"{net}params and their gradients", 2), ("history of the SGD solver", 1)):
        assert float(rows[name].removesuffix(" MiB")) == pytest.approx(copies * count * 4 / 2**20, rel=0.01)


def test_memory_that_runs_out_inside_a_layer_is_accounted_for_and_so_are_test_nets(gpu, monkeypatch):
    made = training.make(training.LENET, 2)
    param = training.LENET.net(2)
    param.state.phase = proto.TEST
    test_net = minicaffe.Net.from_param(param, Origin())
    test_net.run_forward()
    training.train(made, 1)

    def forward(self, bottom, top):
        raise OutOfMemoryError("Out of memory allocating 80 bytes")

    monkeypatch.setattr(interface, "is_patched", lambda cls: False)
    monkeypatch.setattr(ReLU, "forward", forward)
    with fast_paths.without("replay", "fusion"), pytest.raises(MinicaffeError) as error:
        training.train(made, 1)
    text = str(error.value)
    assert text.startswith(
        "not enough memory: layer 'relu1' (ReLU): Out of memory allocating 80 bytes; check the shapes"
    )
    assert "history of the SGD solver" in text and all(
        f"{phase} net 'LeNet': blobs" in text for phase in ("TRAIN", "TEST")
    )
    assert "smaller batch_size" in text


def test_layers_that_no_graph_takes_are_named_once(gpu, launches, caplog):
    caplog.set_level("INFO")
    nets = [training.make(training.LENET, 2) for _ in range(2)]
    for made in nets:
        layer = made.net.layer_dict["relu1"]
        layer.forward = layer.forward  # somebody's own
        training.train(made, 4)
    lines = [record.getMessage() for record in caplog.records if "one by one" in record.getMessage()]
    assert len(lines) == 1 and "relu1 (ReLU)" in lines[0] and "conv1" not in lines[0]


def test_an_iteration_issues_nothing_but_its_two_graphs(gpu, launches, monkeypatch):
    made = training.make(training.LENET, 2)
    training.train(made, 4)
    made._callbacks, issued, issue = Callbacks(), [], strict_cupy.issue
    made.step(1)
    launches.clear()
    monkeypatch.setattr(strict_cupy, "issue", lambda run, *arrays: (issued.append(run), issue(run, *arrays)))
    made.step(3)
    assert len(launches) == 2 * 3 and not issued
    assert made.smoothed_loss == made.net.loss


@pytest.mark.parametrize("options", [{}, {"average_loss": 3}, {"iter_size": 2}], ids=str)
def test_the_smoothed_loss_is_that_of_all_iterations(options, gpu, launches):
    def run():
        made = training.make(training.LENET, 2)
        for name, value in options.items():
            setattr(made.param, name, value)
        made._losses = SmoothedLoss(made.param.average_loss, made.net.dtype)
        found = []
        for _ in range(5):
            training.train(made, 1)
            made._restored = True  # so that the next call of step goes on with these losses
            found.append(made.smoothed_loss)
        return found, [np.array(found)]

    same_bits(*with_and_without(run))
    assert launches
