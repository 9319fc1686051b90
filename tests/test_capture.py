"""Captured layers: a replay gives the numbers of an eager pass, to the bit, and no capture outlives what it holds."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from layer_cases import CASES
from test_gpu_path import feed, solver

import minicaffe
from minicaffe import backend, proto, testing
from minicaffe.backend import generation
from minicaffe.backend.cpu import CpuCapture
from minicaffe.blob import Blob
from minicaffe.engine import replay
from minicaffe.engine.segment import Segment
from minicaffe.errors import LayerError, NetError, ShapeError
from minicaffe.kernels import cpu, fast_paths
from minicaffe.kernels.cpu.runtime import capture as runtime_capture
from minicaffe.kernels.cpu.runtime import launch
from minicaffe.kernels.cpu.runtime.capture import LaunchList
from minicaffe.kernels.window import Window
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


def segments(made: Net, direction: str) -> list[Segment]:
    return list(getattr(made._executor.plan().sweeps, direction).segments.values())


def captures(made: Net) -> int:
    """How many captures a net has, over all of its segments and both directions."""
    turn = made._executor.plan().sweeps.turn
    found = [*segments(made, "forward"), *segments(made, "backward"), *([turn[2]] if turn else [])]
    return sum(len(item.replay.captures) for item in found)


def captured(made: Net, index: int) -> bool:
    """Whether a layer is in a capture."""
    found = [item for item in segments(made, "forward") if item.first <= index <= item.last]
    return any(item.replay.captures for item in found)


@contextlib.contextmanager
def counted(monkeypatch):
    """The captures that are replayed, as a list that grows."""
    replays: list[CpuCapture] = []
    replay = CpuCapture.replay
    with monkeypatch.context() as patch:
        patch.setattr(CpuCapture, "replay", lambda self: (replays.append(self), replay(self)))
        yield replays


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


IN_NUMPY = {"BatchNorm-2-D", "BN-flat", "Scale-all axes"}
"""Cases of capturable layers, but for which some op is left to NumPy."""


GROUND_TRUTH = {
    *("MultiBoxLoss", "MultiBoxFocalLoss", "DetectionEvaluate", "ROIPooling", "PSROIPooling", "ROIAlign"),
    *("ProposalTarget", "DecodeBBox", "ScaleRoute", "HardMining", "BboxAccuracy", "FrcnnOutput"),
    *("Detection", "DetectionLoss", "DetectionAccuracy", "DetectionGroupLoss", "DetectionGroupAccuracy"),
    *("DetectNetTransformation", "EvalDetection", "RegionLoss", "Yolov3"),
}
"""Types whose bottoms hold rows of items or labels, and boxes."""


def rolled(case, values):
    """Other inputs: the same numbers in other places; where rows must stay whole, other items."""
    return np.roll(values, 1, axis=0 if case.type in GROUND_TRUTH else None)


@pytest.mark.parametrize("case", [case for case in CASES if case.bottoms], ids=lambda case: case.name)
def test_each_layer_gives_the_same_numbers_from_a_replay(case, tmp_path):
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
                    blob.data[...] = rolled(case, blob.data)
                for blob in rig.layer.blobs:
                    blob.data[...] *= 1.25
                rig.forward()
                row = [blob.data.copy() for blob in rig.top]
                if backward:
                    rig.net.run_backward()
                    row += [blob.diff.copy() for blob in (*rig.bottom, *rig.layer.blobs)]
                rows.append(row)
            found.append(rows)
            assert captured(rig.net, [step.layer for step in rig.net.steps].index(rig.layer)) == (
                rig.layer.capturable and not left_out and case.name not in IN_NUMPY
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
TURNS = {  # layers, where the turn begins, replays by a forward and a backward pass, and by both as one
    "inputs": (TOWER + LABEL + CLASSES, 0, 2, 1),
    "data": (DATA + TOWER[TOWER.index("layer { name: \"conv") :] + CLASSES, 1, 2, 1),
    "another layer in between": (
        TOWER.replace('layer { name: "relu" type: "ReLU"', 'layer { name: "relu" type: "PReLU"') + LABEL + CLASSES, 4, 4, 3,
    ),
    "random numbers": (
        TOWER.replace('layer { name: "relu" type: "ReLU"', 'layer { name: "relu" type: "Dropout"') + LABEL + CLASSES, 0, 2, 1,
    ),
    "a loss that is not capturable": (TOWER + GOAL + LOSS, None, 2, 2),
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
        assert ((turn := made._executor.plan().sweeps.turn) and turn[:2]) == (None if first is None else (first, first))
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


def test_gradients_add_up_in_replays():
    made, usual = net(), net()
    for i in range(4):
        passes(made, 1, i)
        with fast_paths.without("replay"):
            passes(usual, 1, i)
    assert captures(made) == 2
    equal([numbers(made)], [numbers(usual)])
    made.clear_param_diffs()
    assert not made.params["conv"][0].diff.any()


# --- what ends a capture


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
def test_after_a_change_layers_run_eagerly_and_are_captured_anew(change, monkeypatch):
    made, usual, before = net(), net(), minicaffe.get_num_threads()
    try:
        passes(made, 3)
        assert captures(made) == 2
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


def test_nothing_is_captured_where_somebody_looks_on(monkeypatch):
    made, seen = net(), []
    made.after_forward(seen.append)
    made.before_backward(seen.append)
    with counted(monkeypatch) as runs:
        passes(made, 4)
    assert not runs and not captures(made)
    assert len(seen) == 4 * 2 * len(made.layers)


def test_a_range_that_cuts_a_segment_runs_eagerly(monkeypatch):
    made = net()
    passes(made, 3)
    with counted(monkeypatch) as runs:
        made.forward(start="pool")
        made.backward(end="pool")
        assert not runs
        made.forward()
        assert len(runs) == 1


def test_captures_do_not_pile_up():
    made = net()
    made.pack_params()
    for i in range(40):
        made.clear_param_diffs(lazily=i % 2 == 0)
        passes(made, 1, i)
    found = [*segments(made, "forward"), *segments(made, "backward")]
    assert all(len(item.replay._seen) <= replay._MOST_CAPTURES + 1 for item in found)
    for rows in range(1, 30):
        made.blobs["x"].reshape(rows, 2, 9, 8)
        for _ in range(3):
            made.run_forward()
    assert all(len(item.replay._seen) <= 1 for item in segments(made, "forward"))


# --- which layers


def test_only_a_class_that_says_so_itself_is_capturable():
    class Annealed(ReLU):
        """Its slope changes from pass to pass."""

        type = "AnnealedReLU"

    assert ReLU.capturable and not Annealed.capturable and not Layer.capturable
    layer = Annealed(proto.LayerParameter(name="a", type="AnnealedReLU"))
    assert not layer.capturable


def test_a_function_put_in_the_place_of_forward_is_called_each_time():
    made, calls = net(), []
    passes(made, 3)
    usual = made.layer_dict["pool"].forward
    made.layer_dict["pool"].forward = lambda bottom, top: (calls.append(1), usual(bottom, top))
    passes(made, 5)
    assert len(calls) == 5


def test_segments_end_at_other_layers():
    made = net(TOWER + GOAL + LOSS)
    for direction in ("forward", "backward"):
        assert [(item.first, item.last) for item in segments(made, direction)] == [(0, 5)]
    assert made.layers[6].type == "EuclideanLoss"


def test_losses_of_weighted_tops_add_up_in_a_replay():
    losses = []
    for left_out in ((), ("replay",)):
        with fast_paths.without(*left_out):
            made = net(TOWER.replace('top: "ip" ', 'top: "ip" loss_weight: 0.5 '))
            for i in range(4):
                draw(made, i)
                made.run_forward()
                losses.append(made.loss)
            assert captures(made) == (not left_out)
    assert losses[:4] == losses[4:] and len(set(losses[:4])) == 4


def test_a_bad_label_is_told_from_a_replay():
    told = []
    for both in (False, True):
        made = net(TOWER + LABEL + CLASSES)
        for first in (True, False):
            for _ in range(4 - first):
                made.blobs["y"].data[...] = [0, 4, 2]
                made.forward_backward() if both else made.run_forward()
            assert captures(made) == 1
            made.blobs["y"].data[1] = 5
            with pytest.raises(LayerError, match="value number 1 of the batch is not an integer in 0 .. 4") as error:
                made.forward_backward() if both else made.run_forward()
            told.append(str(error.value))
    assert len(set(told)) == 1


def test_a_bad_label_in_a_replay_that_is_timed_leaves_the_net_as_it_was():
    made = net(TOWER + LABEL + CLASSES)
    for label in (4, 4, 4, 99, 4, 99, 99, 4, 4):
        made.blobs["y"].data[...] = label
        with pytest.raises(LayerError, match="not an integer in 0") if label == 99 else contextlib.nullcontext():
            made.forward_backward()
    assert captures(made) == 1


def test_segments_cut_no_layers_in_two_that_run_as_one(monkeypatch):
    monkeypatch.setattr(BatchNorm, "capturable", False)
    block = """
    layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
    layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
    layer { name: "relu1" type: "ReLU" bottom: "conv" top: "conv" }
    layer { name: "pool" """
    made = net(TOWER.replace('layer { name: "pool" ', block))
    assert [layer.name for layer in made.layers][2:5] == ["norm", "scale", "relu1"]
    assert [(item.first, item.last) for item in segments(made, "forward")] == [(0, 1), (5, 7)]


# --- lists of launches


def maximum(a):
    return max(a, 0.0)


def arrays(size=50_000):
    x = np.random.default_rng(2).standard_normal(size).astype("f4")
    return x, np.zeros_like(x)


def test_an_op_that_is_not_all_kernels_makes_a_capture_incomplete():
    where, x = backend.current(), np.ones((4, 3), "f4")
    for op, arguments in {
        "gradient_scale": (x[0], 1.0, 1.0, None, np.zeros((), "f4"), np.zeros(())),
        "gemm": (np.zeros((4, 0), "f4"), np.zeros((0, 3), "f4"), x),
    }.items():
        with where.running(), where.capture() as capture:
            getattr(where.ops, op)(*arguments)
        assert not capture.complete, op
    assert where.ops is cpu


def test_launches_that_do_not_fit_are_captured_the_next_time(monkeypatch):
    monkeypatch.setattr(runtime_capture, "_staging", np.zeros(1000, np.uint8))
    monkeypatch.setattr(runtime_capture, "_FIRST_ROOM", 1000)
    (x, y), lists = arrays(), []
    for _ in range(2):
        lists.append(LaunchList())
        with backend.current().running(), lists[-1].capturing():
            for _ in range(9):
                cpu.elementwise(maximum, (x,), (), y)
    assert [made.complete for made in lists] == [False, True]
    y[...] = 0
    lists[-1].replay()
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_kernels_of_other_threads_are_not_captured():
    (x, y), (other, out) = arrays(100), arrays(100)
    cpu.elementwise(maximum, (x,), (), y)
    made = LaunchList()
    with made.capturing():
        thread = threading.Thread(
            target=lambda: (cpu.elementwise(maximum, (other,), (), out), cpu.gemm(*np.ones((3, 2, 2))))
        )
        thread.start()
        thread.join()
        cpu.elementwise(maximum, (x,), (), y)
    out[...] = y[...] = 0
    made.replay()
    assert not out.any() and y.any() and made.complete


def test_launches_run_on_fewer_threads_than_they_were_captured_on():
    """As many workers as when they were captured, one after the other: none waits for another."""
    x, y = arrays()
    threads = backend.current().settings()[0]
    made = LaunchList()
    with backend.current().running(), made.capturing():
        for _ in range(20):
            cpu.elementwise(maximum, (x,), (), y)
    y[...] = 0
    launch.run_launches(made._start, made._end, threads + 5)
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_what_one_worker_makes_in_a_row_is_there_before_others_go_on():
    """From big to big by way of small launches, which nobody waits between: any that read too early finds old numbers."""
    if backend.current().settings()[0] < 2:
        pytest.skip("one core")
    (x, y), (_, z), small = arrays(), arrays(), np.zeros((3, 4), "f4")
    made = LaunchList()
    with backend.current().running(), made.capturing():
        cpu.elementwise(maximum, (x,), (), y)
        for source, target in [(y[-4:], small[0]), (small[0], small[1]), (small[1], small[2]), (small[2], y[:4])]:
            cpu.elementwise(maximum, (source,), (), target)
        cpu.elementwise(maximum, (y,), (), z)
    heads = [*launch._heads(made.words.view(np.uint8))]
    assert [min(parts, workers) > 1 for _, parts, workers in heads] == [True, *[False] * 4, True]
    assert [made.words[at + launch._AWAITED // 8] for at, _, _ in heads] == [1, 0, 0, 0, 1, 1]
    for number in range(1, 200):
        x[-4:] = number
        made._replay(shared=True)
        assert (z[:4] == number).all() and (small == number).all()


def test_few_planes_are_divided_where_no_thread_has_to_be_woken():
    if backend.current().settings()[0] < 2:
        pytest.skip("one core")
    x = np.random.default_rng(1).standard_normal((1, 7, 20, 20)).astype("f4")
    (eager, replayed), window = np.zeros((2, 1, 7, 10, 10), "f4"), Window((2, 2), (2, 2), (0, 0), (1, 1))
    made = LaunchList()
    with backend.current().running():
        cpu.max_pool(x, eager, None, window)
        with made.capturing():
            cpu.max_pool(x, replayed, None, window)
    assert [min(parts, workers) for _, parts, workers in launch._heads(made.words.view(np.uint8))] == [2]
    replayed[...] = 0
    made._replay(shared=True)
    assert replayed.tobytes() == eager.tobytes()


def memory_maps() -> list[tuple[int, int]]:
    """The writable address ranges of this process."""
    with open("/proc/self/maps") as file:
        lines = [line.split() for line in file]
    ranges = (line[0].split("-") for line in lines if line[1].startswith("rw"))
    return [(int(first, 16), int(last, 16)) for first, last in ranges]


def retained_ranges(arguments) -> Iterator[tuple[int, int]]:
    """The memory of all arrays in (nested) arguments."""
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            low, high = np.lib.array_utils.byte_bounds(argument)
            yield low, high
        elif isinstance(argument, tuple):
            yield from retained_ranges(argument)


def retained_halves(arguments) -> Iterator[int]:
    """The bits of all numbers in (nested) arguments as float32: they fill half a word."""
    for argument in arguments:
        if isinstance(argument, (float, np.floating)):
            yield int(np.float32(argument).view(np.uint32))
        elif isinstance(argument, tuple):
            yield from retained_halves(argument)


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="reads the process's memory map")
@pytest.mark.parametrize("case", [case for case in CASES if case.bottoms], ids=lambda case: case.name)
def test_a_capture_owns_all_memory_that_its_launches_point_to(case, tmp_path, monkeypatch):
    """Every word of every launch's arguments that is an address of data lies in an array that the list retains."""
    rig = testing.Rig(case.type, case.draw(), seed=1, **case.how(tmp_path))
    where = backend.current()
    rig.forward()
    monkeypatch.setattr(runtime_capture, "_staging", np.zeros(1 << 20, np.uint8))  # without words of earlier captures
    with where.running(), where.capture() as capture:
        rig.layer.forward(rig.bottom, rig.top)
    rig.net.close()
    if not capture.complete:
        return
    made = capture.launches
    owned, halves = list(retained_ranges(made._retained)), set(retained_halves(made._retained))
    maps, own = memory_maps(), (made._start, made._end)
    words = np.frombuffer(made._memory, np.uint8)[made._start - made._memory.ctypes.data :][: made._end - made._start]
    for word in words.view(np.intp).tolist():
        if word & 0xFF in (0, 1) or word & 0xFFFFFFFF in halves:
            continue  # perhaps a boolean or a float32, beside which lies what the stack held before
        in_data = any(first <= word < last for first, last in maps)
        assert not in_data or own[0] <= word <= own[1] or any(low <= word <= high for low, high in owned)


def test_a_generation_ends_when_memory_in_use_is_replaced():
    blob = Blob((2, 3))
    before = generation.current()
    blob.reshape(3, 2)
    assert generation.current() == before  # nobody has used it
    blob.data[...] = 1
    blob.reshape(3, 2)
    assert generation.current() == before
    blob.reshape(4, 4)
    assert generation.current() > before


# --- layers that are changed


SUM = """
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 4 } } }
layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 4 } } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" eltwise_param { coeff: 1 coeff: 2 } }
"""


def test_what_a_captured_layer_computes_from_cannot_change_in_place():
    made = net(SUM)
    made.blobs["a"].data[...], made.blobs["b"].data[...] = 1, 5
    for _ in range(4):
        assert made.forward()["sum"].tolist() == [11] * 4
    layer = made.layer_dict["sum"]
    with pytest.raises(TypeError):
        layer.coefficients[0] = 5.0
    for values in ([5.0, 2.0], (5.0, 2.0)):
        layer.coefficients = values
        assert layer.coefficients == (5.0, 2.0)
        for _ in range(4):
            assert made.forward()["sum"].tolist() == [15] * 4
    with pytest.raises(LayerError, match="coeff: must be given for each of the 2 bottoms, or not at all; found"):
        layer.coefficients = [5.0]
    assert layer.coefficients == (5.0, 2.0)
    with pytest.raises(LayerError, match="its attribute 'table' follows from its definition and cannot be set"):
        layer.table = {}


def test_an_option_that_does_not_go_with_the_tops_is_refused_where_it_is_set():
    made = net(
        """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 4 dim: 4 } } }
        layer { name: "p" type: "Pooling" bottom: "x" top: "p" top: "m" pooling_param { kernel_size: 2 stride: 2 } }"""
    )
    layer = made.layer_dict["p"]
    with pytest.raises(LayerError, match="only MAX pooling makes a second top"):
        layer.pool = layer.AVE
    made.blobs["x"].data[...] = np.arange(16).reshape(1, 1, 4, 4)
    assert made.forward()["p"].ravel().tolist() == [5, 7, 13, 15]


def test_a_blob_put_in_the_place_of_a_param_takes_over_its_memory():
    made, usual = net(), net()
    made.pack_params()
    replacement = Blob(usual.params["ip"][0].shape)
    replacement.data[...] = np.random.default_rng(0).standard_normal(replacement.shape)
    passes(made, 3)
    made.params["ip"][0] = replacement
    usual.params["ip"][0].data[...] = replacement.data
    for found in (made, usual):
        found.clear_param_diffs()
    equal(passes(made, 4), passes(usual, 4))
    replacement.data[...] *= 2
    usual.params["ip"][0].data[...] *= 2
    equal(passes(made, 4), passes(usual, 4))
    assert any(param.blob.shares_data_with(replacement) for param in made.learnable)
    with pytest.raises(ShapeError, match="can be replaced by a blob of the same shape"):
        made.params["ip"][0] = Blob((2, 2))


def test_a_blob_that_was_given_another_shape_gets_its_own_back():
    made, usual = net(), net()
    passes(made, 3)
    made.blobs["conv"].reshape(1, 2, 3, 3)
    passes(usual, 3)
    equal(passes(made, 1, 3), passes(usual, 1, 3))


class Doubling(Layer):
    """y = 2 x in NumPy, though it says that it only calls ops."""

    type = "Doubling"
    capturable = True

    def reshape(self, bottom, top):
        top[0].reshape_like(bottom[0])

    def forward(self, bottom, top):
        top[0].data[...] = 2 * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        self.xp.multiply(top[0].xdiff, 2, out=bottom[0].xdiff)


def test_a_layer_that_reaches_for_numpy_is_not_captured():
    layers = 'layer { name: "twice" type: "Doubling" bottom: "ip" top: "twice" }'
    made, usual = net(TOWER + layers), net(TOWER + layers)
    found = passes(made, 5)
    with fast_paths.without("replay"):
        equal(found, passes(usual, 5))
    assert captures(made) == 0


def test_params_assigned_as_a_list_take_the_places_of_the_old_ones():
    made, usual = net(), net()
    passes(made, 3)
    passes(usual, 3)
    blobs = [Blob(blob.shape) for blob in made.params["conv"]]
    for blob, old in zip(blobs, usual.params["conv"], strict=True):
        blob.data[...] = old.data[...] = np.random.default_rng(0).standard_normal(blob.shape)
        old.diff[...] = 0
    made.params["conv"] = blobs
    equal(passes(made, 4), passes(usual, 4))
    assert made.params["conv"][0].shares_data_with(blobs[0])
    assert made.params["conv"] is made.layer_dict["conv"].blobs
    with pytest.raises(ShapeError, match=r"can be replaced by blobs of the same shapes; found 2 \(2\)"):
        made.layer_dict["conv"].blobs = [Blob((2,))]
    for value in (None, [1, 2], np.ones((2, 2))):
        with pytest.raises(LayerError, match="learnable blobs are replaced by a list of Blobs"):
            made.layer_dict["conv"].blobs = value
    with pytest.raises(AttributeError):
        del made.params["conv"][0]


@pytest.mark.parametrize("passed", [0, 3])
@pytest.mark.parametrize("index, shape", [(0, (72,)), (0, (1, 2, 3, 3)), (1, (1, 4)), (1, (5,))])
def test_a_param_of_another_shape_is_refused(passed, index, shape):
    made, usual = net(), net()
    passes(made, passed)
    passes(usual, passed)
    blob = made.params["conv"][index]
    before = blob.shape
    blob.reshape(*shape)
    for run in (made.forward, made.backward):
        with pytest.raises(ShapeError, match=rf"layer 'conv' \(Convolution\): param {index} must keep the shape"):
            run()
    blob.reshape(*before)
    blob.data[...], blob.diff[...] = usual.params["conv"][index].data, usual.params["conv"][index].diff
    equal(passes(made, 3, 5), passes(usual, 3, 5))


# --- what a replay depends on beside its arrays


NORM = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 3 dim: 4 dim: 5 } } }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { axis: 2 num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "norm" type: "BatchNorm" bottom: "ip" top: "ip" batch_norm_param { use_global_stats: true } }
layer { name: "scale" type: "Scale" bottom: "ip" top: "ip" scale_param { bias_term: true } }
"""


def watched(made: Net) -> None:
    """A forward pass layer by layer, for somebody looks on; then nobody does any more."""
    calls = made._executor.callbacks["after_forward"]
    calls.append(lambda index: None)
    made.run_forward()
    calls.clear()


def not_fused(made: Net) -> None:
    with fast_paths.without("fusion"):
        made.run_forward()


def not_whole(made: Net) -> None:
    made.run_forward()
    made.forward(start="scale")


@pytest.mark.parametrize("forward", [watched, not_fused, not_whole])
@pytest.mark.parametrize("left_out", [(), ("fusion",)], ids=["", "backward not fused"])
def test_backward_depends_on_how_forward_ran(forward, left_out):
    """Layers that run by themselves keep other values for backward than those that run as one."""
    found = []
    for other in ((), ("replay",)):
        with fast_paths.without(*other):
            made = net(NORM)
            made.params["norm"][0].data[...] = 3
            made.params["norm"][1].data[...] = made.params["norm"][2].data[...] = 2
            rows = []
            for _ in range(2):
                rows += passes(made, 3)
                for _ in range(3):
                    forward(made)
                    with fast_paths.without(*left_out):
                        made.run_backward()
                    rows.append(numbers(made))
            found.append(rows)
    equal(*found)


def test_gradients_in_the_memory_of_another_net_that_only_count_as_zero():
    found = []
    for left_out in ((), ("replay",)):
        with fast_paths.without(*left_out):
            owner, made, rows = net(seed=2), net(), []
            owner.pack_params()
            for name, blobs in owner.params.items():
                for blob, other in zip(made.params[name], blobs, strict=True):
                    blob.share_diff(other)
            for i in range(8):
                if i not in (5, 6):
                    owner.clear_param_diffs(lazily=True)
                rows += passes(made, 1, i)
            found.append(rows)
    equal(*found)


@pytest.mark.parametrize("both", [False, True], ids=["forward", "there and back"])
def test_an_error_of_a_replay_comes_before_what_follows(both):
    """As it does eagerly: with a label that is no class no loss is computed, and no gradient added."""
    found = []
    for left_out in ((), ("replay",)):
        with fast_paths.without(*left_out):
            made = net(TURNS["inputs"][0])
            rows = train(made, both)
            made.blobs["y"].data[1] = 99
            with pytest.raises(LayerError, match="value number 1 of the batch is not an integer in 0 .. 4"):
                made.forward_backward() if both else made.run_forward()
            rows += [[*numbers(made), made.loss_array.copy()], *train(made, both)]
            found.append(rows)
    equal(*found)


PRODUCT = """
layer { name: "in" type: "Input" top: "a" top: "b" input_param { shape { dim: 3 } } }
layer { name: "join" type: "Eltwise" bottom: "a" bottom: "b" top: "y" }
"""


def test_a_sum_that_becomes_a_product_is_replayed_as_one():
    made = Net(text.parse("force_backward: true " + PRODUCT, proto.NetParameter()), minicaffe.TRAIN)
    rng = np.random.default_rng(0)
    for index in range(10):
        if index == 4:
            made.layer_dict["join"].operation = 0
        a, b, dy = rng.standard_normal((3, 3)).astype("f4")
        made.forward(a=a, b=b)
        gradients = made.backward(y=dy)
        expected = (dy * b, dy * a) if index >= 4 else (dy, dy)
        np.testing.assert_array_equal((gradients["a"], gradients["b"]), expected)


@pytest.mark.parametrize(
    "layer, field, value",
    [
        ('type: "ReLU"', "negative_slope", -0.5),
        ('type: "ELU"', "alpha", -0.5),
        ('type: "Power" power_param { power: 1 }', "power", 3.0),
    ],
)
def test_an_attribute_for_which_a_layer_needs_its_input_is_refused_in_place(layer, field, value):
    definition = f"""force_backward: true
        layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 3 }} }} }}
        layer {{ name: "power" type: "Power" bottom: "x" top: "y" }}
        layer {{ name: "neuron" {layer} bottom: "y" top: "y" }}"""
    made = Net(text.parse(definition, proto.NetParameter()), minicaffe.TRAIN)
    for _ in range(4):
        made.forward()
        made.backward()
    setattr(made.layer_dict["neuron"], field, value)
    with pytest.raises(LayerError, match="layer 'neuron'.*cannot work in place while it goes backward"):
        made.forward()


@pytest.mark.parametrize(
    "layer, field, value",
    [
        ('type: "Convolution" convolution_param { num_output: 4 kernel_size: 1 }', "num_output", 6),
        ('type: "Deconvolution" convolution_param { num_output: 4 kernel_size: 1 }', "group", 2),
        ('type: "InnerProduct" inner_product_param { num_output: 4 }', "num_output", 6),
        ('type: "InnerProduct" inner_product_param { num_output: 4 bias_term: false }', "bias_term", True),
        ('type: "Embed" embed_param { num_output: 4 input_dim: 3 }', "input_dim", 9),
    ],
)
def test_an_attribute_that_the_params_do_not_fit_is_refused(layer, field, value):
    definition = f"""layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 2 dim: 3 dim: 3 }} }} }}
        layer {{ name: "learns" {layer} bottom: "x" top: "y" }}"""
    made = Net(text.parse(definition, proto.NetParameter()), minicaffe.TRAIN)
    for _ in range(3):
        made.forward()
    setattr(made.layer_dict["learns"], field, value)
    expected = "bias_term: asks for a bias of shape" if field == "bias_term" else ": the blobs must have shapes"
    with pytest.raises(ShapeError, match=f"layer 'learns'.*{expected}"):
        made.forward()


def test_weights_in_a_definition_must_fit():
    definition = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 4 }
                blobs { shape { dim: 2 dim: 3 } data: 1 data: 2 data: 3 data: 4 data: 5 data: 6 }
                blobs { shape { dim: 4 } data: 1 data: 2 data: 3 data: 4 } }"""
    with pytest.raises(ShapeError, match=r"must have shapes \[\(4, 3\), \(4,\)\]; found \[\(2, 3\), \(4,\)\]"):
        Net(text.parse(definition, proto.NetParameter()), minicaffe.TRAIN)


def test_a_bias_that_scale_does_not_have_is_refused():
    definition = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "scale" type: "Scale" bottom: "x" top: "y" }"""
    made = Net(text.parse(definition, proto.NetParameter()), minicaffe.TRAIN)
    made.forward()
    made.layer_dict["scale"].bias_term = True
    with pytest.raises(LayerError, match="layer 'scale'.*: with a bias it has 2 blobs; found 1"):
        made.forward()
