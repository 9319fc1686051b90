"""Memory that blobs take turns in: the plan as such, and nets that follow it give the same outputs."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from test_models_structure import definition, image_net

from minicaffe import backend, proto
from minicaffe.engine.memory_plan import Span, offsets, spans
from minicaffe.errors import NetError
from minicaffe.net import Net
from minicaffe.proto import text
from minicaffe.summary import summarize

CHAIN = """
name: "chain"
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "a" type: "Sigmoid" bottom: "x" top: "a" }
layer { name: "b" type: "TanH" bottom: "a" top: "b" }
layer { name: "relu" type: "ReLU" bottom: "b" top: "b" }
layer { name: "flat" type: "Flatten" bottom: "b" top: "flat" }
layer { name: "c" type: "Power" bottom: "flat" top: "c" power_param { shift: 1 } }
layer { name: "d" type: "Eltwise" bottom: "c" bottom: "flat" top: "d" }
layer { name: "e" type: "AbsVal" bottom: "d" top: "e" }
layer { name: "y" type: "Power" bottom: "e" top: "y" power_param { power: 2 } }
"""


def chain() -> Net:
    return Net(text.parse(CHAIN, proto.NetParameter()), proto.TEST)


def storages(net: Net) -> dict[int, int]:
    """Bytes of each storage that holds values, all of them in use."""
    found = {id(blob.data_storage): blob.data_storage for blob in net._blobs}
    assert len(found) > 1
    assert all(storage.touched for storage in found.values())
    return {key: storage.nbytes for key, storage in found.items()}


# --- the plan -----------------------------------------------------------------------------------------------------


def test_a_memory_is_needed_from_its_first_writer_to_its_last_reader():
    steps = [((), (0,)), ((0,), (1,)), ((1,), (1,)), ((0, 1), (2,))]
    assert spans(steps, [5, 6, 7]) == {0: Span(0, 3, 5), 1: Span(1, 3, 6), 2: Span(3, 3, 7)}


def test_memories_overlap_if_they_are_never_needed_together():
    # a chain 0 -> 1 -> 2 -> 3: what a step reads is not where it writes
    needed = {0: Span(0, 1, 10), 1: Span(1, 2, 30), 2: Span(2, 3, 20), 3: Span(3, 4, 40)}
    assert offsets(needed) == {3: 0, 1: 0, 2: 40, 0: 30}


def test_memories_needed_at_once_lie_side_by_side():
    assert offsets({k: Span(0, 9, k) for k in (1, 2, 3, 4)}) == {4: 0, 3: 4, 2: 7, 1: 9}


def test_a_gap_between_others_is_used():
    needed = {0: Span(0, 1, 9), 1: Span(0, 0, 8), 2: Span(0, 3, 7), 3: Span(1, 3, 6)}
    assert offsets(needed) == {0: 0, 1: 9, 2: 17, 3: 9}


@pytest.mark.parametrize("seed", range(20))
def test_no_two_memories_meet(seed):
    rng = np.random.default_rng(seed)
    needed = {}
    for memory in range(30):
        first = int(rng.integers(40))
        needed[memory] = Span(first, first + int(rng.integers(6)), int(rng.integers(1, 100)))
    start = offsets(needed)
    assert start.keys() == needed.keys()
    for step in range(46):
        live = sorted((start[m], start[m] + span.size) for m, span in needed.items() if span.first <= step <= span.last)
        assert all(before[1] <= after[0] for before, after in zip(live, live[1:]))


# --- nets ---------------------------------------------------------------------------------------------------------


def test_blobs_of_a_chain_take_turns():
    net = chain()
    net.reuse_memory()
    assert list(net.blobs) == ["x", "y"]
    where = {name: blob.data.__array_interface__["data"][0] for name, blob in net._blob_list}
    assert where["b"] == where["flat"] == where["flat_flat_0_split_0"] == where["flat_flat_0_split_1"]
    assert len(set(where.values())) == 5  # x, y; two operands of a layer, and Eltwise's result
    summary = summarize(net)
    assert summary.memory.blobs == 5 * net.blobs["x"].count * 4


def test_a_blob_that_is_reused_cannot_be_read():
    net = chain()
    net.reuse_memory(keep=["c"])
    assert list(net.blobs) == ["x", "c", "y"]
    with pytest.raises(
        NetError,
        match=r"blob 'flat' gave its memory to later ones; to read it, name it in reuse_memory\(keep=\['flat'\]\)",
    ):
        net.blobs["flat"]
    with pytest.raises(NetError, match="blob 'd' gave its memory"):
        net.forward(blobs=["d"])
    with pytest.raises(KeyError):
        net.blobs["absent"]


def test_what_a_net_with_reused_memory_refuses():
    net = chain()
    with pytest.raises(NetError, match="net 'chain' has no blob z; it has: x, a, b"):
        net.reuse_memory(keep=["z"])
    net.reuse_memory()
    with pytest.raises(NetError, match="it cannot run backward"):
        net.backward()
    with pytest.raises(NetError, match="it runs from its first layer on"):
        net.forward(start="d")


def test_kept_blobs_hold_their_values():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    net, other = chain(), chain()
    other.reuse_memory(keep=["b", "d"])
    for each in (net, other):
        each.forward(x=x)
    for name in ("x", "b", "d", "y"):
        np.testing.assert_array_equal(net.blobs[name].data, other.blobs[name].data)


def test_larger_inputs_are_right_too():
    rng = np.random.default_rng(0)
    net, other = chain(), chain()
    other.reuse_memory()
    for shape in ((2, 3, 8, 8), (5, 3, 9, 7), (1, 3, 4, 4), (6, 3, 8, 9)):
        x = rng.standard_normal(shape).astype(np.float32)
        found = []
        for each in (net, other):
            each.blobs["x"].reshape(*shape)
            found.append(each.forward(x=x)["y"].copy())
        np.testing.assert_array_equal(*found)


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ builds the CUDA kernels for the CPU")
def test_a_net_moves_to_a_device_and_back():
    from strict_gpu import StrictBackend

    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    expected = chain().forward(x=x)["y"]
    net = chain()
    net.reuse_memory(keep=["c"])
    for where in (backend.current(), StrictBackend(), backend.current()):
        with backend.use(where):
            np.testing.assert_allclose(net.forward(x=x)["y"], expected, rtol=1e-5)


def test_the_peak_is_what_is_allocated():
    net = chain()
    planned = summarize(net).memory
    net.run_forward()
    assert sum(storages(net).values()) == planned.blobs
    net.reuse_memory()
    net.run_forward()
    assert sum(storages(net).values()) == planned.planned_blobs == summarize(net).memory.blobs


SMALL = {
    "lenet": ("lenet/lenet.prototxt", {"data": (1, 1, 28, 28)}),
    "lenet_test": ("lenet/lenet_train_test.prototxt", {"data": (1, 1, 28, 28), "label": (1,)}),
    "siamese": ("siamese/mnist_siamese_train_test.prototxt", {"pair_data": (1, 2, 28, 28), "sim": (1,)}),
    "cifar10_quick": ("cifar10/cifar10_quick.prototxt", {"data": (1, 3, 32, 32)}),
    "cifar10_full": ("cifar10/cifar10_full_train_test.prototxt", {"data": (1, 3, 32, 32), "label": (1,)}),
    "cifar10_bn": ("cifar10/cifar10_full_sigmoid_train_test_bn.prototxt", {"data": (1, 3, 32, 32), "label": (1,)}),
    "autoencoder": ("mnist_autoencoder/mnist_autoencoder.prototxt", {"data": (1, 1, 28, 28)}),
    "squeezenet": ("squeezenet/deploy.prototxt", {"data": (1, 3, 227, 227)}),
    "mobilenet": ("mobilenet/deploy.prototxt", {"data": (1, 3, 224, 224)}),
}
"""Nets that run in a moment, and the shapes of their inputs."""


@pytest.mark.parametrize("name", SMALL)
def test_models_give_the_same_outputs_in_less_memory(name):
    path, shapes = SMALL[name]
    rng = np.random.default_rng(1)
    inputs = {
        blob: rng.standard_normal(shape).astype(np.float32) if len(shape) > 1 else np.ones(shape, np.float32)
        for blob, shape in shapes.items()
    }
    found = []
    for reuse in (False, True):
        backend.random.seed(3)
        net = Net(definition(path, shapes, fillers=True), proto.TEST)
        planned = summarize(net).memory
        if reuse:
            net.reuse_memory()
        found.append({blob: values.copy() for blob, values in net.forward(**inputs).items()})
        found[-1]["weighted loss"] = np.array(net.loss)
        assert sum(storages(net).values()) == (planned.planned_blobs if reuse else planned.blobs)
    assert found[0].keys() == found[1].keys()
    for blob in found[0]:
        np.testing.assert_array_equal(found[0][blob], found[1][blob])


@pytest.mark.parametrize("name, share", [("caffenet", 0.6), ("alexnet", 0.6), ("googlenet", 0.2), ("resnet50", 0.2)])
def test_large_models_need_a_part_of_the_memory(name, share):
    net = image_net(name, "deploy", proto.TEST)
    before = summarize(net).memory
    assert before.planned_blobs < share * before.blobs
    net.reuse_memory()
    assert (
        sum({id(blob.data_storage): blob.data_storage.nbytes for blob in net._blobs}.values()) == before.planned_blobs
    )
