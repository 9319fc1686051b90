from __future__ import annotations

import logging
import threading
from pathlib import Path

import numpy as np
import pytest

import minicaffe
from minicaffe import MinicaffeError, proto
from minicaffe.backend import random
from minicaffe.errors import PrototxtError, SnapshotError, WeightsError
from minicaffe.net import Net
from minicaffe.solvers import STOP, Monitor, create, get_solver

NET = """
name: "tiny"
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "train_lmdb" backend: LMDB batch_size: 5 }
        transform_param { scale: 0.00390625 crop_size: 6 mirror: true } include { phase: TRAIN } }
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "test_lmdb" backend: LMDB batch_size: 4 }
        transform_param { scale: 0.00390625 crop_size: 6 } include { phase: TEST } }
layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" param { lr_mult: 1 } param { lr_mult: 2 }
        inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "drop1" type: "Dropout" bottom: "ip1" top: "ip1" dropout_param { dropout_ratio: 0.3 } }
layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 3 weight_filler { type: "gaussian" std: 0.1 } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" test_iter: 2 test_interval: 10 base_lr: 0.1 lr_policy: "inv" gamma: 0.01 power: 0.75 momentum: 0.9
weight_decay: 0.001 display: 5 max_iter: 30 snapshot: 10 snapshot_prefix: "tiny" random_seed: 7 average_loss: 3
"""


@pytest.fixture
def tiny(tmp_path, in_folder):
    """A folder with a small net, its databases and a solver; the test works in it."""
    from minicaffe.data.write import write_images

    in_folder(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (23, 8, 8), np.uint8)
    labels = np.arange(23) % 3
    images[labels == 1, :4] //= 4
    images[labels == 2, 4:] //= 4
    write_images(Path("train_lmdb"), images[:15], labels[:15], "lmdb")
    write_images(Path("test_lmdb"), images[15:], labels[15:], "lmdb")
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)
    return tmp_path


def weights_of(solver):
    return [blob.data.copy() for blobs in solver.net.params.values() for blob in blobs]


def train(iterations, resume=None, **changes):
    param = proto.SolverParameter()
    param.CopyFrom(get_solver("solver.prototxt").param)
    for name, value in changes.items():
        setattr(param, name, value)
    solver = create(param, "solver.prototxt")
    if resume:
        solver.restore(resume)
    solver.step(iterations - solver.iter)
    return solver


def test_training_lowers_the_loss(tiny):
    losses = []

    class Record(Monitor):
        def display(self, iteration, loss, outputs, rate):
            losses.append(loss)

    solver = get_solver("solver.prototxt")
    solver.monitors.append(Record())
    solver.solve()
    assert len(losses) == 7 and losses[-2] < 0.5 * losses[0]


@pytest.mark.parametrize("iter_size", [1, 2])
def test_monitors_see_the_loss_after_the_last_iteration(tiny, iter_size, caplog):
    shown = []

    class Record(Monitor):
        def display(self, iteration, loss, outputs, rate):
            shown.append((iteration, loss, outputs, rate))

    Path("solver.prototxt").write_text(SOLVER.replace("average_loss: 3", f"iter_size: {iter_size}"))
    caplog.set_level(logging.INFO, "minicaffe")
    solver = get_solver("solver.prototxt")
    solver.monitors.append(Record())
    solver.solve()
    iteration, loss, outputs, rate = shown[-1]
    assert [entry[0] for entry in shown] == [0, 5, 10, 15, 20, 25, 30]
    assert loss == pytest.approx(outputs[0].value, rel=1e-6) and rate == solver.lr
    assert f"Iteration 30, loss = {loss:g}" in [record.getMessage() for record in caplog.records]


def test_no_loss_is_shown_after_an_iteration_that_display_does_not_divide(tiny):
    shown = []

    class Record(Monitor):
        def display(self, iteration, loss, outputs, rate):
            shown.append(iteration)

    Path("solver.prototxt").write_text(SOLVER.replace("max_iter: 30", "max_iter: 12"))
    solver = get_solver("solver.prototxt")
    solver.monitors.append(Record())
    solver.solve()
    assert shown == [0, 5, 10]


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def test_a_closed_solver_reads_no_data(tiny):
    before = len(reading_threads())
    with get_solver("solver.prototxt") as solver:
        solver.step(11)
        assert len(reading_threads()) == before + 2
    assert len(reading_threads()) == before
    solver.close()
    assert solver.iter == 11 and np.isfinite(weights_of(solver)[0]).all()


def test_an_error_closes_the_solver_too(tiny):
    before = len(reading_threads())
    with pytest.raises(ZeroDivisionError), get_solver("solver.prototxt") as solver:
        solver.step(1)
        raise ZeroDivisionError
    assert len(reading_threads()) == before


@pytest.fixture
def second_of_two():
    """This process is the second of two that train together."""
    minicaffe.set_solver_count(2)
    minicaffe.set_solver_rank(1)
    yield
    minicaffe.set_solver_rank(0)
    minicaffe.set_solver_count(1)


def labels_of(solver, batches):
    found = []
    for _ in range(batches):
        solver.net.forward(end="data")
        found.append(solver.net.blobs["label"].data.astype(int).tolist())
    return found


def test_two_ranks_train_on_records_of_their_own(tiny, second_of_two):
    """Records n of 15 have the label n % 3; the rounds follow on each other."""
    assert labels_of(get_solver("solver.prototxt"), 3) == [
        [n % 15 % 3 for n in range(k, k + 10, 2)] for k in (1, 11, 21)
    ]
    minicaffe.set_solver_rank(0)
    assert labels_of(get_solver("solver.prototxt"), 3) == [
        [n % 15 % 3 for n in range(k, k + 10, 2)] for k in (0, 10, 20)
    ]


def test_a_rank_that_resumes_draws_numbers_of_its_own(tiny, second_of_two):
    """The snapshot is that of rank 0, which goes on where it stood."""
    minicaffe.set_solver_rank(0)
    first = get_solver("solver.prototxt")
    first.step(5)
    first.snapshot()
    state = next(iter(tiny.glob("tiny_iter_5.solverstate")))
    following = random.stream().draws(4).tolist()

    def drawn_by(rank):
        minicaffe.set_solver_rank(rank)
        solver = get_solver("solver.prototxt")
        solver.restore(state)
        return random.stream().draws(4).tolist()

    assert drawn_by(0) == following
    assert drawn_by(1) != following
    assert drawn_by(1) == drawn_by(1)


def test_the_second_rank_seeds_apart_and_neither_tests_nor_writes(tiny, second_of_two, caplog):
    caplog.set_level(logging.INFO, "minicaffe")
    solver = get_solver("solver.prototxt")
    initial = weights_of(solver)
    solver.solve()
    assert solver.iter == 30 and not list(tiny.glob("tiny_iter*"))
    assert not [record for record in caplog.records if "Testing net" in record.getMessage()]
    minicaffe.set_solver_rank(0)
    Path("solver.prototxt").write_text(SOLVER.replace("random_seed: 7", "random_seed: 8"))
    assert all(np.array_equal(a, b) for a, b in zip(initial, weights_of(get_solver("solver.prototxt")), strict=True))


@pytest.mark.parametrize(("name", "value"), [("set_solver_rank", -1), ("set_solver_count", 0)])
def test_places_that_cannot_be(name, value):
    with pytest.raises(MinicaffeError, match=f"{name}: expected .*; found {value}"):
        getattr(minicaffe, name)(value)
    assert (minicaffe.solver_rank(), minicaffe.solver_count()) == (0, 1)


def test_same_seed_gives_identical_weights(tiny):
    first, second = weights_of(train(30)), weights_of(train(30))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("snapshot_format", ["BINARYPROTO", "HDF5"])
def test_resuming_is_the_same_as_never_stopping(tiny, snapshot_format):
    format_ = getattr(proto.SolverParameter, snapshot_format)
    straight = weights_of(train(30, snapshot_format=format_))
    suffix = "solverstate" + (".h5" if snapshot_format == "HDF5" else "")
    resumed = train(30, resume=f"tiny_iter_20.{suffix}", snapshot_format=format_)
    assert resumed.iter == 30
    assert all(np.array_equal(a, b) for a, b in zip(straight, weights_of(resumed), strict=True))


def test_state_file_of_a_moved_run_finds_the_weights_beside_it(tiny):
    train(10)
    Path("moved").mkdir()
    for path in tiny.glob("tiny_iter_10.*"):
        path.rename(Path("moved") / path.name)
    assert train(12, resume="moved/tiny_iter_10.solverstate").iter == 12


def test_log_follows_caffes_order(tiny, caplog):
    caplog.set_level(logging.INFO, "minicaffe")
    get_solver("solver.prototxt").solve()
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("minicaffe.solvers")]
    start = next(i for i, line in enumerate(lines) if line.startswith("Iteration 10, Testing net"))
    shapes = [
        "Iteration 10, Testing net (#0)",
        "    Test net output #0: accuracy = ",
        "    Test net output #1: loss = ",
        "Iteration 10 (",
        "    Train net output #0: loss = ",
        "Iteration 10, lr = ",
    ]
    assert all(line.startswith(shape) for line, shape in zip(lines[start:], shapes, strict=False))
    assert lines[-1] == "Optimization Done." and "Solving tiny" in lines and "Learning Rate Policy: inv" in lines


def test_smoothed_loss_is_the_mean_of_the_last_average_loss(tiny):
    solver, losses = get_solver("solver.prototxt"), []
    solver.add_callback(lambda: None, lambda: losses.append(solver.net.loss))
    solver.step(5)
    assert solver.smoothed_loss == pytest.approx(np.mean(losses[-3:]), rel=1e-6)


def test_iter_size_accumulates_and_averages(tiny):
    """Two passes of 5 with iter_size 2 make the step of one pass of 10 (no dropout, no crop, no decay)."""
    text = NET.replace(
        'layer { name: "drop1" type: "Dropout" bottom: "ip1" top: "ip1" dropout_param { dropout_ratio: 0.3 } }', ""
    )
    text = text.replace("crop_size: 6 mirror: true", "crop_size: 8").replace("crop_size: 6", "crop_size: 8")
    Path("net.prototxt").write_text(text)
    halves = weights_of(train(1, iter_size=2))
    Path("net.prototxt").write_text(text.replace("batch_size: 5", "batch_size: 10"))
    for a, b in zip(halves, weights_of(train(1)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_clipping_bounds_the_norm_of_the_gradient(tiny):
    solver = train(0, clip_gradients=0.001, momentum=0.0, weight_decay=0.0, base_lr=1.0, lr_policy="fixed")
    before = weights_of(solver)
    solver.step(1)
    steps = [(a - b) / rate for a, b, rate in zip(before, weights_of(solver), (1, 2, 1, 1), strict=True)]
    assert np.sqrt(sum((s**2).sum() for s in steps)) == pytest.approx(0.001, rel=1e-3)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_params_of_equal_multipliers_are_updated_as_one_and_as_if_one_by_one(tiny, kind):
    """Multipliers of rate and decay: 1 and 1 for both weights, 2 and 1 for the bias of ip1, 1 and 0 for that of ip2."""
    ip2 = 'bottom: "ip1" top: "ip2"'
    Path("net.prototxt").write_text(NET.replace(ip2, ip2 + " param { } param { decay_mult: 0 }"))
    solver = train(2, type=kind, weight_decay=0.1)
    net, segments, update = solver.net, [], solver.update
    params = [blob for blobs in net.params.values() for blob in blobs]
    places = [(p.offset, p.offset + p.blob.count) for p in net.learnable]
    assert [p.blob for p in net.learnable] == params  # the order of snapshots stays that of the layers
    expected = []

    def one_by_one(ops, w, g, history, rate, scale, decay, l1):
        copies = [
            array.copy()
            for array in (
                *(storage.host() for storage in solver.net.pack_params()),
                *(h.host() for h in solver.history),
            )
        ]
        for (start, stop), lr_mult, decay_mult in zip(places, (1, 2, 1, 1), (1, 1, 1, 0), strict=True):
            own = [array[start:stop] for array in copies]
            update(ops, own[0], own[1], own[2:], solver.corrected(solver.lr * lr_mult), scale, 0.1 * decay_mult, l1)
        expected.append(copies[0])

    def recorded(ops, w, *rest):
        if not segments:
            one_by_one(ops, w, *rest)
        segments.append(w.size)
        update(ops, w, *rest)

    solver.update = recorded
    solver.step(1)
    assert len(segments) == 3
    for param, (start, stop) in zip(params, places, strict=True):
        np.testing.assert_array_equal(param.data.reshape(-1), expected[0][start:stop])


def test_stop_action_ends_training_and_leaves_a_snapshot(tiny):
    solver = get_solver("solver.prototxt")
    solver.requested_action = lambda: STOP if solver.iter == 13 else None
    solver.solve()
    assert solver.stopped and Path("tiny_iter_13.solverstate").exists()


def test_divergence_is_reported_before_any_snapshot_is_harmed(tiny):
    with pytest.raises(MinicaffeError, match=r"training loss is (nan|inf).*Lower base_lr"):
        train(30, base_lr=1e30)
    assert not list(tiny.glob("*.caffemodel"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("lr_policy", "fixd"), "Unknown learning rate policy: 'fixd'; did you mean 'fixed'"),
        (("type", "SDG"), "Unknown solver type: SDG; did you mean 'SGD'"),
        (("net", ""), "File not found|train net"),
        (("regularization_type", "L3"), "regularization_type"),
        (("test_interval", 0), "test_interval"),
        (("snapshot_prefix", "nowhere/tiny"), "Cannot write to snapshot prefix 'nowhere/tiny'"),
    ],
)
def test_contradictory_solver_is_refused(tiny, change, message):
    with pytest.raises(MinicaffeError, match=message):
        train(1, **dict([change]))


def test_test_iter_must_match_the_test_nets(tiny):
    Path("solver.prototxt").write_text(SOLVER.replace("test_iter: 2", "") + 'test_net: "net.prototxt"')
    with pytest.raises(PrototxtError, match="test_iter"):
        get_solver("solver.prototxt")


def test_model_given_as_state_is_named(tiny):
    train(10)
    with pytest.raises(SnapshotError, match="solverstate|weights"):
        train(11, resume="tiny_iter_10.caffemodel")


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_state_is_refused_and_changes_nothing(tiny, keep):
    train(10)
    path = Path("tiny_iter_10.solverstate")
    path.write_bytes(path.read_bytes()[:keep])
    solver = get_solver("solver.prototxt")
    before = weights_of(solver)
    with pytest.raises(SnapshotError, match="tiny_iter_10.solverstate"):
        solver.restore(path)
    assert solver.iter == 0 and all(np.array_equal(a, b) for a, b in zip(before, weights_of(solver), strict=True))


def test_state_of_another_net_is_refused(tiny):
    train(10)
    Path("net.prototxt").write_text(NET.replace("num_output: 8", "num_output: 9"))
    with pytest.raises(SnapshotError, match="history blob 0"):
        train(11, resume="tiny_iter_10.solverstate")


def test_weights_of_another_net_are_refused_and_every_mismatch_listed(tiny):
    train(10)
    Path("net.prototxt").write_text(NET.replace("num_output: 8", "num_output: 9"))
    net = Net("net.prototxt", 0)
    with pytest.raises(
        WeightsError, match=r"(?s)param 0 weights from layer 'ip1'.*param 1 weights from layer 'ip1'.*layer 'ip2'"
    ):
        net.copy_from("tiny_iter_10.caffemodel")
    Path("net.prototxt").write_text(NET.replace('name: "ip', 'name: "fc'))
    with pytest.raises(WeightsError, match="belong to another net"):
        Net("net.prototxt", 0).copy_from("tiny_iter_10.caffemodel")


def test_failed_write_leaves_the_older_snapshot(tiny, monkeypatch):
    solver = train(10)
    good = Path("tiny_iter_10.caffemodel").read_bytes()

    def full_disk(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(SnapshotError, match="tiny_iter_10.caffemodel.*No space left"):
        solver.snapshot()
    assert Path("tiny_iter_10.caffemodel").read_bytes() == good
    assert not [p for p in tiny.iterdir() if p.name.endswith(".tmp")]
