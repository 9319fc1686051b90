"""What a net took is given back when the last reference to it goes, without the collector of cycles."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest
from cli_case import write_case

from minicaffe import backend, memory, models, proto, summary
from minicaffe.layers import TRAIN
from minicaffe.net import Net
from minicaffe.proto.text import parse
from minicaffe.solvers import get_solver

SHAPES = {
    "lenet/lenet_train_test.prototxt": {"data": (4, 1, 28, 28), "label": (4,)},
    "cifar10/cifar10_full_train_test.prototxt": {"data": (4, 3, 32, 32), "label": (4,)},
    "resnet50/train_val.prototxt": {"data": (1, 3, 224, 224), "label": (1,)},
}


def all_goes(scenario):
    """Whether all that ``scenario`` returns weak references to is gone as soon as it has returned."""
    scenario()  # kernels that are compiled leave cycles, which hold the frames that they were called from
    gc.collect()
    gc.disable()
    try:
        return [item for item in (reference() for reference in scenario()) if item is not None] == []
    finally:
        gc.enable()


def load(model) -> Net:
    return summary.load(models.find(model), TRAIN, shapes=SHAPES[model])


def parts(net):
    """Weak references to a net and to all that it is made of."""
    blobs = [*net._blobs, *(blob for layer in net.layers for blob in layer.blobs)]
    arrays = [part.storage.host() for blob in blobs for part in (blob._data, blob._diff)]
    return [weakref.ref(item) for item in (net, net._executor, *net.layers, *blobs, *arrays) if item is not None]


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("passes", [0, 3])
def test_a_net_goes_with_the_last_reference(model, passes):
    def scenario():
        net = load(model)
        for _ in range(passes):  # eager, captured, replayed
            net.clear_param_diffs()
            net.forward_backward()
        assert len(parts(net)) > 20
        return parts(net)

    assert all_goes(scenario)


def test_a_net_goes_after_all_that_can_be_done_with_it():
    def scenario():
        net = load("lenet/lenet_train_test.prototxt")
        net.before_forward([].append)
        net.forward_backward()
        other = load("lenet/lenet_train_test.prototxt")
        other.share_with(net)
        other.forward()
        net.blobs["data"].reshape(2, 1, 28, 28)
        net.blobs["label"].reshape(2)
        net.forward()
        net.reshape()
        other.reuse_memory()
        other.forward()
        return parts(net) + parts(other)

    assert all_goes(scenario)


def test_a_solver_goes_with_the_last_reference(tmp_path, in_folder):
    in_folder(tmp_path)

    def scenario():
        solver = get_solver(write_case(tmp_path))
        solver.solve()
        return [
            weakref.ref(solver),
            *(reference for net in (solver.net, *solver.test_nets) for reference in parts(net)),
        ]

    assert all_goes(scenario)


def test_the_shared_workspace_goes_with_the_last_layer_that_needs_it():
    gc.collect()
    where = backend.current()
    large, small = load("resnet50/train_val.prototxt"), load("lenet/lenet_train_test.prototxt")
    before = where.workspace("f4").size
    assert before >= max(layer.workspace_size(backward=False) for layer in large.layers)
    expected = small.forward()["loss"].copy()
    del large
    gc.collect()
    for _ in range(3):
        np.testing.assert_array_equal(small.forward()["loss"], expected)
    assert max(layer.workspace_size(backward=False) for layer in small.layers) <= where.workspace("f4").size < before
    del small
    gc.collect()
    assert where._needed(np.dtype("f4")) == max(where._needs[np.dtype("f4")].values(), default=0) < before


@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_room_for_backward_is_reserved_when_it_first_runs(kind):
    """Four images at once are worth a workspace of another size in each direction."""
    shape = "input_param { shape { dim: 4 dim: 16 dim: 20 dim: 20 } }"
    options = 'num_output: 24 kernel_size: 5 pad: 2 weight_filler { type: "xavier" }'
    definition = f"""force_backward: true
        layer {{ name: "x" type: "Input" top: "x" {shape} }}
        layer {{ name: "y" type: "{kind}" bottom: "x" top: "y" convolution_param {{ {options} }} }}"""
    net = Net(parse(definition, proto.NetParameter()), TRAIN)
    layer, needs = net.layer_dict["y"], backend.current()._needs[np.dtype("f4")]
    forward, backward = layer.workspace_size(backward=False), layer.workspace_size(backward=True)
    assert forward != backward
    net.forward()
    assert needs[layer] == forward
    net.blobs["y"].diff[...] = 1
    net.backward()
    assert needs[layer] == max(forward, backward) <= backend.current().workspace("f4").size


def test_threads_that_reserve_at_once_get_enough():
    """The larger of two wishes that come at the same time holds."""
    where, wrong = backend.current(), []

    class Owner:
        pass

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(300):
            owner, count = Owner(), int(rng.integers(1, 1 << 16))
            where.reserve(count, "f8", owner)
            if where.workspace("f8").size < count:
                wrong.append(count)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


@pytest.mark.parametrize("shape", [(), (3,), (1 << 18,), (1024, 1024), (3, 1 << 20)])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_arrays_are_as_numpys(shape, dtype):
    array = memory.zeros(shape, dtype)
    assert (array.shape, array.dtype, array.flags.c_contiguous, array.flags.writeable) == (shape, dtype, True, True)
    assert array.ctypes.data % 64 == 0  # a cache line
    assert not array.any()
    array[...] = 1
    assert array.sum() == array.size


@pytest.mark.parametrize("shape", [(1 << 50,), (1 << 61,), (1 << 80,)])
def test_too_large_an_array_is_a_memory_error(shape):
    with pytest.raises((MemoryError, ValueError)) as error:
        memory.zeros(shape, "f4")
    with pytest.raises(type(error.value)):
        np.zeros(shape, "f4")


RESIDENT = """
import gc, sys
sys.path.insert(0, {tests!r})
from test_memory_released import load, resident
for _ in range(2):  # what is loaded and compiled once stays
    net = load("resnet50/train_val.prototxt")
    net.forward_backward()
    del net
gc.disable()
before = resident()
net = load("resnet50/train_val.prototxt")
for _ in range(3):
    net.forward_backward()
held = resident() - before
del net
print(held, resident() - before)
"""


def resident() -> float:
    """MiB of memory that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_the_system_has_the_memory_back():
    code = RESIDENT.format(tests=os.path.dirname(__file__))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    held, left = map(float, result.stdout.split())
    assert held > 200  # the blobs; weights that are zeros, as here, are never written
    assert left < 0.15 * held
