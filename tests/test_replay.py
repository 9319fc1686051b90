"""Layers that run from a record of their kernels: the numbers are those of layers that run as usual, to the bit, and no
record outlives what it holds.
"""

from __future__ import annotations

import contextlib
import shutil
import threading

import numpy as np
import pytest
from layer_cases import CASES
from test_gpu_path import feed, solver

import minicaffe
from minicaffe import backend, proto, replay, testing
from minicaffe.backend import Recording, moves
from minicaffe.blob import Blob
from minicaffe.errors import LayerError, NetError
from minicaffe.kernels import cpu, fast_paths
from minicaffe.kernels.cpu.runtime import launch
from minicaffe.layers import Layer
from minicaffe.layers.neuron import ReLU
from minicaffe.layers.normalisation import BatchNorm
from minicaffe.net import Net
from minicaffe.proto import text

TOWER = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 2 dim: 9 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "x" top: "conv"
  convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "xavier" } bias_filler { type: "gaussian" } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "pool" top: "pool" }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
LOSS = 'layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "goal" top: "loss" }'
GOAL = 'layer { name: "goal" type: "Input" top: "goal" input_param { shape { dim: 3 dim: 5 } } }'


def net(layers: str = TOWER, phase: int = proto.TRAIN, seed: int = 1) -> Net:
    backend.random.seed(seed)
    return Net(
        text.parse(("" if "SoftmaxWithLoss" in layers else "force_backward: true ") + layers, proto.NetParameter()),
        phase,
    )


def draw(made: Net, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for name in made.inputs or made.blobs:
        made.blobs[name].data[...] = rng.standard_normal(made.blobs[name].shape)


def records(made: Net) -> int:
    """How many records a net has, over all of its stretches and both directions."""
    found = [stretch for stretches in made._stretches.values() for stretch in stretches.values()]
    if made._turn is not None:
        found.append(made._turn[2])
    return sum(record is not None for stretch in found for record in stretch._records.values())


def recorded(made: Net, index: int) -> bool:
    """Whether a layer is in a record."""
    found = [stretch for stretch in made._stretches["forward"].values() if stretch.first <= index <= stretch.last]
    return any(record is not None for stretch in found for record in stretch._records.values())


@contextlib.contextmanager
def counted(monkeypatch):
    """How often records are run, as a list that grows."""
    runs: list[Recording] = []
    run = Recording.run
    with monkeypatch.context() as patch:
        patch.setattr(Recording, "run", lambda self: (runs.append(self), run(self)))
        yield runs


def numbers(made: Net) -> list[np.ndarray]:
    return [
        array.copy()
        for blob in (*made.blobs.values(), *(b for bs in made.params.values() for b in bs))
        for array in (blob.data, blob.diff)
    ]


def passes(made: Net, count: int, first: int = 0) -> list[list[np.ndarray]]:
    """What blobs and params hold after each of some forward and backward passes on other inputs."""
    found = []
    for i in range(first, first + count):
        draw(made, i)
        made.blobs[made.outputs[0]].diff[...] = i + 1
        made.run_forward()
        made.run_backward()
        found.append(numbers(made))
    return found


def equal(a, b) -> None:
    for x, y in zip(a, b, strict=True):
        for left, right in zip(x, y, strict=True):
            np.testing.assert_array_equal(left, right)


# --- the numbers


IN_NUMPY = {"BatchNorm-2-D", "Scale-all axes"}
"""Cases of layers that repeat, but for which some op is left to NumPy."""


@pytest.mark.parametrize("case", [case for case in CASES if case.bottoms], ids=lambda case: case.name)
def test_each_layer_gives_the_same_numbers_from_a_record(case, tmp_path):
    found = []
    for left_out in ((), ("replay",)):
        with fast_paths.without(*left_out):
            backend.random.seed(5)
            rig = testing.Rig(case.type, case.draw(), seed=1, **case.how(tmp_path))
            rig.fill_zero_params(np.random.default_rng(3))
            asked = rig.net.steps[-1].propagate_down
            backward = "gradient" not in case.why_not and all(
                w for w, down in zip(rig.wanted, asked, strict=True) if down
            )
            rows = []
            for _ in range(5):
                for blob in rig.bottom:
                    blob.data[...] = np.roll(blob.data, 1)
                for blob in rig.layer.blobs:
                    blob.data[...] *= 1.25
                rig.forward()
                row = [blob.data.copy() for blob in rig.top]
                if backward:
                    rig.net.run_backward()
                    row += [blob.diff.copy() for blob in (*rig.bottom, *rig.layer.blobs)]
                rows.append(row)
            found.append(rows)
            assert recorded(rig.net, rig.net.layers.index(rig.layer)) == (
                rig.layer.repeats and not left_out and case.name not in IN_NUMPY
            )
            rig.net.close()
    equal(*found)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", [{}, {"iter_size": 3}], ids=["", "iter_size"])
def test_training_is_the_same_to_the_bit(threads, options, monkeypatch):
    if threads > minicaffe.get_num_threads():
        pytest.skip("needs two cores")
    found = []
    for left_out in ((), ("replay",)):
        with fast_paths.without(*left_out), counted(monkeypatch) as runs:
            before = minicaffe.get_num_threads()
            minicaffe.set_num_threads(threads)
            trained, rows = solver(**options), []
            trained.add_callback(
                lambda trained=trained: feed(trained.net, trained.iter),
                lambda rows=rows, trained=trained: rows.append(numbers(trained.net)),
            )
            trained.step(6)
            minicaffe.set_num_threads(before)
            found.append(rows)
            assert bool(runs) != bool(left_out)
    equal(*found)


LABEL = 'layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 3 } } }'
CLASSES = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" }'
DATA = """layer { name: "data" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { dim: 3 dim: 2 dim: 9 dim: 8 } shape { dim: 3 }
  data_filler { type: "gaussian" } data_filler { type: "constant" value: 3 } } }"""
TURNS = {  # layers, where the turn begins, records run by a forward and a backward pass, and by both as one
    "inputs": (TOWER + LABEL + CLASSES, 0, 2, 1),
    "data": (DATA + TOWER[TOWER.index("layer { name: \"conv") :] + CLASSES, 1, 2, 1),
    "another layer in between": (
        TOWER.replace('layer { name: "relu" type: "ReLU"', 'layer { name: "relu" type: "Dropout"') + LABEL + CLASSES, 4, 4, 3,
    ),
    "a loss that does not repeat": (TOWER + GOAL + LOSS, None, 2, 2),
}  # fmt: skip


def train(made: Net, both: bool, count: int = 5) -> list[list[np.ndarray]]:
    """What blobs and params hold after each of some passes there and back, as one or one after the other."""
    found = []
    for i in range(count):
        for name in made.inputs:
            blob = made.blobs[name]
            blob.data[...] = i % 5 if name == "y" else np.random.default_rng(i).standard_normal(blob.shape)
        if both:
            made.forward_backward()
        else:
            made.run_forward()
            made.run_backward()
        found.append(numbers(made))
    return found


@pytest.mark.parametrize("name", TURNS)
def test_there_and_back_is_a_forward_and_a_backward_pass(name, monkeypatch):
    layers, first, apart, as_one = TURNS[name]
    found = []
    for both in (False, True):
        made = net(layers)
        assert (made._turn and made._turn[:2]) == (None if first is None else (first, first))
        with counted(monkeypatch) as runs:
            found.append(train(made, both))
        assert len(runs) == 3 * (as_one if both else apart)
    equal(*found)


def test_there_and_back_layer_by_layer_where_somebody_looks_on(monkeypatch, caplog):
    layers = TURNS["inputs"][0]
    usual = train(net(layers), True)
    made, seen = net(layers), []
    made.after_backward(seen.append)
    with counted(monkeypatch) as runs:
        equal(train(made, True), usual)
    assert len(runs) == 3 and len(seen) == 5 * len(made.layers)  # forward nobody looks
    made = net(layers)
    made.debug_info = True
    with counted(monkeypatch) as runs, caplog.at_level("INFO"):
        equal(train(made, True), usual)
    assert not runs and "[Backward] Layer conv" in caplog.text


def test_a_net_that_reuses_its_memory_does_not_go_there_and_back():
    made = net(TURNS["inputs"][0])
    made.reuse_memory()
    with pytest.raises(NetError, match="cannot run backward"):
        made.forward_backward()


def test_gradients_add_up_from_a_record():
    made, usual = net(), net()
    for i in range(4):
        passes(made, 1, i)
        with fast_paths.without("replay"):
            passes(usual, 1, i)
    assert records(made) == 2
    equal([numbers(made)], [numbers(usual)])
    made.clear_param_diffs()
    assert not made.params["conv"][0].diff.any()


# --- what ends a record


def changed_shape(made: Net) -> None:
    made.blobs["x"].reshape(2, 2, 9, 8)
    made.reshape()


def shared(made: Net) -> None:
    other = net(seed=7)
    made.params["conv"][0].share_data(other.params["conv"][0])
    made.copies = other


def packed(made: Net) -> None:
    made.pack_params()


def other_threads(made: Net) -> None:
    if minicaffe.get_num_threads() == 1:
        pytest.skip("needs two cores")
    minicaffe.set_num_threads(1)


def larger_workspace(made: Net) -> None:
    where = backend.current()
    where.reserve(where.workspace("f4").size + 1000, "f4")


def larger_blob(made: Net) -> None:
    made.blobs["pool"].reshape(100)
    made.blobs["pool"].reshape(3, 4, 4, 3)


def another_slope(made: Net) -> None:
    made.layer_dict["relu"].negative_slope = 0.5


def frozen(made: Net) -> None:
    made.layer_dict["conv"].param_propagate_down[0] = False


@pytest.mark.parametrize(
    "change", [another_slope, frozen, changed_shape, shared, packed, other_threads, larger_workspace, larger_blob]
)
def test_after_a_change_layers_run_as_usual_and_are_recorded_anew(change, monkeypatch):
    made, usual, before = net(), net(), minicaffe.get_num_threads()
    try:
        passes(made, 3)
        assert records(made) == 2
        change(made)
        with counted(monkeypatch) as runs:
            first = passes(made, 2, 5)
            assert not runs
            first += passes(made, 1, 7)
            assert len(runs) == 2
        with fast_paths.without("replay"):
            minicaffe.set_num_threads(before)
            passes(usual, 3)
            change(usual)
            equal(first, passes(usual, 3, 5))
    finally:
        minicaffe.set_num_threads(before)


def test_a_net_that_ran_on_a_device_in_between(monkeypatch):
    if shutil.which("g++") is None:
        pytest.skip("g++ builds the CUDA kernels for the CPU")
    from strict_gpu import StrictBackend

    made = net()
    passes(made, 3)
    strict = StrictBackend()
    with backend.use(strict):
        made.params["conv"][0].xdata[...] *= 2
    with fast_paths.without("replay"):
        usual = net()
        passes(usual, 3)
        usual.params["conv"][0].data[...] *= 2
        expected = passes(usual, 1, 9)
    equal(passes(made, 1, 9), expected)
    with backend.use(strict), counted(monkeypatch) as runs:
        passes(made, 3)
        assert not runs


def test_nothing_is_recorded_where_somebody_looks_on(monkeypatch):
    made, seen = net(), []
    made.after_forward(seen.append)
    made.before_backward(seen.append)
    with counted(monkeypatch) as runs:
        passes(made, 4)
    assert not runs and not records(made)
    assert len(seen) == 4 * 2 * len(made.layers)


def test_a_range_that_cuts_a_stretch_runs_as_usual(monkeypatch):
    made = net()
    passes(made, 3)
    with counted(monkeypatch) as runs:
        made.forward(start="pool")
        made.backward(end="pool")
        assert not runs
        made.forward()
        assert len(runs) == 1


def test_records_do_not_pile_up():
    made = net()
    made.pack_params()
    for i in range(40):
        made.clear_param_diffs(lazily=i % 2 == 0)
        passes(made, 1, i)
    stretches = [stretch for kind in made._stretches.values() for stretch in kind.values()]
    assert all(len(stretch._records) <= replay._MOST + 1 for stretch in stretches)
    for rows in range(1, 30):
        made.blobs["x"].reshape(rows, 2, 9, 8)
        for _ in range(3):
            made.run_forward()
    assert all(len(stretch._records) <= 1 for stretch in made._stretches["forward"].values())


# --- which layers


def test_only_a_class_that_says_so_itself_repeats():
    class Annealed(ReLU):
        """Its slope changes from pass to pass."""

        type = "AnnealedReLU"

    assert ReLU.repeats and not Annealed.repeats and not Layer.repeats
    layer = Annealed(proto.LayerParameter(name="a", type="AnnealedReLU"))
    assert not layer.repeats


def test_a_function_put_in_the_place_of_forward_is_called_each_time():
    made, calls = net(), []
    passes(made, 3)
    usual = made.layer_dict["pool"].forward
    made.layer_dict["pool"].forward = lambda bottom, top: (calls.append(1), usual(bottom, top))
    passes(made, 5)
    assert len(calls) == 5


def test_stretches_end_at_other_layers():
    made = net(TOWER + GOAL + LOSS)
    assert {d: [(s.first, s.last) for s in found.values()] for d, found in made._stretches.items()} == {
        "forward": [(0, 5)], "backward": [(0, 5)],
    }  # fmt: skip
    assert made.layers[6].type == "EuclideanLoss"


def test_losses_of_weighted_tops_add_up_in_a_record():
    losses = []
    for left_out in ((), ("replay",)):
        with fast_paths.without(*left_out):
            made = net(TOWER.replace('top: "ip" ', 'top: "ip" loss_weight: 0.5 '))
            for i in range(4):
                draw(made, i)
                made.run_forward()
                losses.append(made.loss)
            assert records(made) == (not left_out)
    assert losses[:4] == losses[4:] and len(set(losses[:4])) == 4


def test_a_bad_label_is_told_from_a_record():
    told = []
    for both in (False, True):
        made = net(TOWER + LABEL + CLASSES)
        for first in (True, False):
            for _ in range(4 - first):
                made.blobs["y"].data[...] = [0, 4, 2]
                made.forward_backward() if both else made.run_forward()
            assert records(made) == 1
            made.blobs["y"].data[1] = 5
            with pytest.raises(LayerError, match="value number 1 of the batch is not an integer in 0 .. 4") as error:
                made.forward_backward() if both else made.run_forward()
            told.append(str(error.value))
    assert len(set(told)) == 1


def test_stretches_cut_no_layers_in_two_that_run_as_one(monkeypatch):
    monkeypatch.setattr(BatchNorm, "repeats", False)
    block = """
    layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
    layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
    layer { name: "relu1" type: "ReLU" bottom: "conv" top: "conv" }
    layer { name: "pool" """
    made = net(TOWER.replace('layer { name: "pool" ', block))
    assert [layer.name for layer in made.layers][2:5] == ["norm", "scale", "relu1"]
    assert [(s.first, s.last) for s in made._stretches["forward"].values()] == [(0, 1), (5, 7)]


# --- recordings


def maximum(a):
    return max(a, 0.0)


def arrays(size=50_000):
    x = np.random.default_rng(2).standard_normal(size).astype("f4")
    return x, np.zeros_like(x)


def test_an_op_that_is_not_all_kernels_spoils_a_recording():
    where, x = backend.current(), np.ones((4, 3), "f4")
    for op, arguments in {
        "clip_by_norm": (x[0], 1.0, np.zeros((), "f4")),
        "gemm": (np.zeros((4, 0), "f4"), np.zeros((0, 3), "f4"), x),
    }.items():
        with where.running(), where.recorded(1 << 16) as recording:
            getattr(where.ops, op)(*arguments)
        assert not recording.complete, op
    assert where.ops is cpu


def test_a_recording_that_is_too_small_says_how_much_it_takes():
    (x, y), where = arrays(), backend.current()
    with where.running():
        small = Recording(100)
        with small.made():
            for _ in range(3):
                cpu.elementwise(maximum, (x,), (), y)
        assert not small.complete and small.room > 100
        enough = Recording(small.room)
        with enough.made():
            for _ in range(3):
                cpu.elementwise(maximum, (x,), (), y)
        assert enough.complete and enough.room == small.room
        y[...] = 0
        enough.run()
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_kernels_of_other_threads_are_not_recorded():
    (x, y), (other, out) = arrays(100), arrays(100)
    cpu.elementwise(maximum, (x,), (), y)
    recording = Recording(1 << 16)
    with recording.made():
        thread = threading.Thread(
            target=lambda: (cpu.elementwise(maximum, (other,), (), out), cpu.gemm(*np.ones((3, 2, 2))))
        )
        thread.start()
        thread.join()
        cpu.elementwise(maximum, (x,), (), y)
    out[...] = y[...] = 0
    recording.run()
    assert not out.any() and y.any() and recording.complete


def test_a_recording_runs_on_fewer_threads_than_it_was_made_on():
    """As many workers as when it was made, one after the other: none waits for another."""
    x, y = arrays()
    threads = backend.current().setting()[0]
    with backend.current().running():
        recording = Recording(1 << 16)
        with recording.made():
            for _ in range(20):
                cpu.elementwise(maximum, (x,), (), y)
    y[...] = 0
    launch.run_record(recording._start, recording._end, threads + 5)
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_moves_are_counted_when_memory_in_use_is_replaced():
    blob = Blob((2, 3))
    before = moves.count()
    blob.reshape(3, 2)
    assert moves.count() == before  # nobody has used it
    blob.data[...] = 1
    blob.reshape(3, 2)
    assert moves.count() == before
    blob.reshape(4, 4)
    assert moves.count() > before
