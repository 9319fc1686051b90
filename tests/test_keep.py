"""Which snapshots stay, which weights were best, and when a training stops early."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from test_solver import tiny, weights_of  # noqa: F401  (tiny is a fixture)

from minicaffe import proto
from minicaffe.errors import NetError
from minicaffe.net import Net
from minicaffe.solvers import EarlyStop, Keep, Monitor, Scalar, create, get_solver
from minicaffe.solvers.best import Best

pytestmark = pytest.mark.usefixtures("tiny")


def solver_of(*monitors, **changes):
    param = proto.SolverParameter()
    param.CopyFrom(get_solver("solver.prototxt").param)
    for name, value in changes.items():
        setattr(param, name, value)
    solver = create(param, "solver.prototxt")
    solver.monitors += monitors
    return solver


def snapshots():
    """The iterations of whole snapshots; every file has its counterpart."""
    kinds = [{int(path.name.split("_")[2].split(".")[0]) for path in Path().glob(f"tiny_iter_*.{kind}*")}
             for kind in ("solverstate", "caffemodel")]  # fmt: skip
    assert kinds[0] == kinds[1]
    return sorted(kinds[0])


class Told(Monitor):
    """Tells other monitors test results of our choice instead of the real ones."""

    def __init__(self, values, *others):
        self.values, self.others = values, others

    def test(self, iteration, net, outputs, loss):
        for other in self.others:
            other.test(iteration, net, [Scalar("accuracy", self.values[iteration])], None)

    def request(self):
        return next(filter(None, [other.request() for other in self.others]), None)

    def begin(self, solver):
        for other in self.others:
            other.begin(solver)

    def snapshot(self, model, state):
        for other in self.others:
            other.snapshot(model, state)


@pytest.mark.parametrize("format_", [proto.SolverParameter.HDF5, proto.SolverParameter.BINARYPROTO])
def test_the_newest_stay(format_):
    solver = solver_of(Keep(2), snapshot=5, snapshot_format=format_)
    solver.step(12)
    assert snapshots() == [5, 10]
    solver.step(9)
    assert snapshots() == [15, 20]


def test_what_other_trainings_wrote_stays():
    solver_of(snapshot=4).step(8)
    solver_of(Keep(1), snapshot=5).step(10)
    assert snapshots() == [4, 8, 10]


def test_a_resumed_training_goes_on_removing():
    solver_of(Keep(2), snapshot=5).step(10)
    solver = solver_of(Keep(2), snapshot=5)
    solver.restore("tiny_iter_10.solverstate")
    solver.step(5)
    assert snapshots() == [10, 15]


def test_resuming_from_an_earlier_snapshot_keeps_it_until_newer_ones_are_there():
    solver_of(Keep(3), snapshot=5).step(15)
    solver = solver_of(Keep(1), snapshot=5)
    solver.restore("tiny_iter_5.solverstate")
    solver.step(2)
    assert snapshots() == [5, 10, 15]
    solver.step(3)
    assert snapshots() == [10, 15]


def test_a_training_with_another_prefix_removes_nothing_of_the_first():
    solver_of(Keep(2), snapshot=5).step(10)
    solver = solver_of(Keep(1), snapshot=5, snapshot_prefix="other")
    solver.restore("tiny_iter_10.solverstate")
    solver.step(10)
    assert snapshots() == [5, 10]
    assert [path.name for path in Path().glob("other_iter_*.solverstate")] == ["other_iter_20.solverstate"]


ACCURACY = {0: 0.1, 10: 0.5, 20: 0.4, 30: 0.7, 40: 0.6}


def test_the_best_stays_and_links_lead_to_it():
    keep = Keep(1, "accuracy")
    solver = solver_of(Told(ACCURACY, keep), snapshot=7, test_interval=10)
    weights = {}
    for iteration in range(0, 45, 5):
        weights[iteration] = weights_of(solver)
        solver.step(5)
        if iteration == 25:
            assert snapshots() == [10, 28]
    assert snapshots() == [30, 42]
    assert (keep.best.value, keep.best.iteration) == (0.7, 30)
    assert keep.best_weights == "tiny_iter_30.caffemodel"
    assert os.readlink("tiny_best.caffemodel") == "tiny_iter_30.caffemodel"
    best = Net("net.prototxt", 1, weights="tiny_best.caffemodel")
    loaded = [blob.data for blobs in best.params.values() for blob in blobs]
    np.testing.assert_equal(loaded, weights[30])
    again = solver_of()
    again.restore("tiny_best.solverstate")
    assert again.iter == 30


def test_without_a_number_of_newest_only_superseded_best_ones_go():
    solver = solver_of(Told(ACCURACY, Keep(best="accuracy")), snapshot=15, test_interval=10)
    solver.step(32)
    assert snapshots() == [15, 30]
    solver.step(13)
    assert snapshots() == [15, 30, 45]


def test_no_regular_snapshots_and_yet_the_best():
    solver = solver_of(Told(ACCURACY, Keep(best="accuracy")), snapshot=0, test_interval=10)
    solver.step(25)
    assert snapshots() == [10]


def test_the_test_behind_the_last_iteration_counts():
    keep = Keep(1, "accuracy")
    solver = solver_of(Told({**ACCURACY, 30: 0.9}, keep), snapshot=0, max_iter=30)
    solver.solve()
    assert snapshots() == [30] and keep.best.value == 0.9


def test_real_outputs_and_the_best_so_far_survive_a_resumption():
    one = Keep(1, "loss")
    solver_of(one, snapshot=5).step(21)
    other = Keep(1, "loss")
    solver = solver_of(other, snapshot=5)
    solver.restore("tiny_iter_20.solverstate")
    assert one.best.iteration > 0
    solver.step(1)  # tests iteration 20 once more
    assert other.best.state() == one.best.state()
    assert snapshots() == sorted({one.best.iteration, 20})


def test_a_monitor_that_is_appended_after_the_restore_gets_its_state_too():
    one = EarlyStop(50, "loss")
    solver_of(one, snapshot=5).step(15)
    solver = solver_of()
    solver.restore("tiny_iter_15.solverstate")
    late = EarlyStop(50, "loss")
    solver.monitors.append(late)
    solver.step(1)
    assert late.state() == one.state()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("call", ["unlink", "symlink", "replace"])
def test_at_every_moment_there_is_a_snapshot_to_resume_from(monkeypatch, call):
    """The process ends in each call that changes the folder, in turn; what the folder then holds can be resumed."""
    real, calls = getattr(os, call), []

    def ending_at(last):
        def counted(*args, **kwargs):
            if str(args[0]).endswith(".lock"):
                return real(*args, **kwargs)
            if len(calls) == last:
                raise Killed
            calls.append(args)
            return real(*args, **kwargs)

        calls.clear()
        monkeypatch.setattr(os, call, counted)
        return solver_of(Told(ACCURACY, Keep(1, "accuracy")), snapshot=7, test_interval=10)

    ending_at(None).step(31)
    total = len(calls)
    assert total >= 3
    for last in range(total):
        monkeypatch.setattr(os, call, real)
        for path in Path().glob("tiny_*"):
            path.unlink()
        solver = ending_at(last)
        with pytest.raises(Killed):
            solver.step(31)
        monkeypatch.setattr(os, call, real)
        states = sorted(Path().glob("tiny_iter_*.solverstate"), key=lambda path: int(path.stem.split("_")[2]))
        again = solver_of()
        if states:
            again.restore(states[-1])
        assert again.iter >= solver.iter - 7
        for link in Path().glob("tiny_best.solverstate"):
            solver_of().restore(link)


@pytest.mark.parametrize("values, mode, stops_at", [
    ({0: 1, 10: 2, 20: 2, 30: 1.5, 40: 9}, "max", 30),
    ({0: 1, 10: 2, 20: 0.5, 30: 1, 40: 0.6}, "min", 40),
    ({0: float("nan"), 10: float("nan"), 20: 0.5, 30: 1, 40: 0.6}, "", 10),
])  # fmt: skip
def test_stopping_after_two_tests_without_improvement(values, mode, stops_at):
    stop = EarlyStop(2, "accuracy", mode)
    solver = solver_of(Told(values, stop), snapshot=0, test_interval=10, max_iter=50)
    solver.solve()
    assert solver.stopped and solver.iter == stops_at and stop.reached
    assert snapshots() == [stops_at]


def test_the_count_goes_on_in_a_resumed_training():
    class Worse(EarlyStop):
        def test(self, iteration, net, outputs, loss):
            super().test(iteration, net, [Scalar("loss", iteration, 1)], loss)

    solver = solver_of(Worse(3), snapshot=5, max_iter=100)
    solver.step(16)
    assert solver.monitors[0].without_improvement == 1
    resumed = solver_of(Worse(3), snapshot=5, max_iter=100)
    resumed.restore("tiny_iter_15.solverstate")
    resumed.solve()
    assert resumed.iter == 30 and resumed.stopped


def test_a_training_that_stopped_early_can_go_on():
    stop = EarlyStop(1, "accuracy")
    solver = solver_of(Told({0: 5, 10: 1, 20: 1, 30: 9, 40: 10}, stop), snapshot=0, test_interval=10)
    solver.step(50)
    assert solver.iter == 10
    solver.step(10)
    solver.step(21)
    assert solver.iter == 20
    solver.step(21)
    assert solver.iter == 41 and not stop.reached


@pytest.mark.parametrize("best, error", [
    ("acuracy", r"test net #0 has no output 'acuracy'; it has: accuracy, loss"),
    ("loss", None),
])  # fmt: skip
def test_an_output_that_is_not_there(best, error):
    for monitor in (Keep(1, best), EarlyStop(3, best)):
        solver = solver_of(monitor)
        if error is None:
            solver.step(1)
        else:
            with pytest.raises(NetError, match=error):
                solver.step(1)


def test_without_tests_there_is_no_best():
    param = get_solver("solver.prototxt").param
    param.ClearField("test_iter")
    solver = create(param, "solver.prototxt")
    solver.monitors.append(EarlyStop(3))
    with pytest.raises(NetError, match="found 0 test nets"):
        solver.step(1)


def test_the_usual_sense_of_an_output():
    def better(name, weight=0.0, mode=""):
        best = Best(name, mode)
        best.take(0, 0, [Scalar(name, 2, weight)])
        return best.take(1, 0, [Scalar(name, 1, weight)])

    assert [better("accuracy"), better("l", 1), better("my_loss"), better("error_rate")] == [False, True, True, True]
    assert [better("accuracy", mode="min"), better("loss", mode="max")] == [True, False]
    with pytest.raises(ValueError, match="'max' or 'min'"):
        Best("loss", "less")


def test_the_loss_of_a_net_is_the_sum_of_its_weighted_outputs():
    best = Best("loss")
    best.take(0, 0, [Scalar("a", 2, 0.5), Scalar("b", 3, 2), Scalar("accuracy", 100)])
    assert best.value == 7
