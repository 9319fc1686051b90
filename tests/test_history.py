"""What a training leaves of its numbers: a table that later trainings add to, and curves drawn from it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from test_solver import tiny, train  # noqa: F401  (tiny is a fixture)

from minicaffe import proto
from minicaffe.errors import SnapshotError
from minicaffe.plot import history_records
from minicaffe.proto.files import read_binary
from minicaffe.solvers import History, create, get_solver
from minicaffe.solvers.history import Row, read, runs, superseded_log

LOG = "tiny_log.csv"
pytestmark = pytest.mark.usefixtures("tiny")


def run(iterations, resume=None, log=None, **changes):
    """Train with a history up to an iteration; returns the solver."""
    param = proto.SolverParameter()
    param.CopyFrom(get_solver("solver.prototxt").param)
    for name, value in changes.items():
        setattr(param, name, value)
    with create(param, "solver.prototxt") as solver:
        solver.monitors.append(History(log))
        if resume:
            solver.restore(resume)
        solver.step(iterations - solver.iter)
    return solver


def told(rows):
    """Rows without the times, which differ from run to run."""
    return [row[:-1] for row in rows]


def test_a_row_for_each_number():
    run(11)
    with open(LOG, newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["iteration", "phase", "net", "output", "value", "lr", "seconds"]
    rows = read(LOG)
    assert len(rows) == len(lines) - 1
    assert [row[:4] for row in rows] == [
        (0, "test", 0, "accuracy"), (0, "test", 0, "loss"),
        (0, "train", 0, "smoothed_loss"), (0, "train", 0, "loss"),
        (5, "train", 0, "smoothed_loss"), (5, "train", 0, "loss"),
        (10, "test", 0, "accuracy"), (10, "test", 0, "loss"),
        (10, "train", 0, "smoothed_loss"), (10, "train", 0, "loss"),
    ]  # fmt: skip
    assert rows[0].lr == 0.1
    assert rows[4].lr == pytest.approx(0.1 * (1 + 0.01 * 5) ** -0.75)
    assert [row.seconds for row in rows] == sorted(row.seconds for row in rows)


def test_the_values_are_those_of_the_log(caplog):
    caplog.set_level("INFO", logger="minicaffe")
    run(6)
    (row,) = [row for row in read(LOG) if row[:4] == (5, "train", 0, "smoothed_loss")]
    assert f"loss = {row.value:g}\n" in caplog.text


def test_a_resumed_training_tells_each_iteration_once():
    run(25)
    straight = read(LOG)
    run(30, "tiny_iter_10.solverstate")
    rows = read(LOG)
    assert told(rows[: len(straight)]) == told(straight)
    assert len({row[:4] for row in rows}) == len(rows)
    assert {row.iteration for row in rows} == {0, 5, 10, 15, 20, 25}
    assert not Path(superseded_log(LOG)).exists()
    assert [row.seconds for row in rows] == sorted(row.seconds for row in rows)


def test_resuming_with_other_settings_keeps_both_curves():
    run(25)
    straight = read(LOG)
    run(11, "tiny_iter_10.solverstate", base_lr=0.01)
    assert max(row.iteration for row in read(LOG)) == 10
    assert [row.iteration for row in read(superseded_log(LOG))] == [10, 10, 10, 10, 15, 15, 20, 20, 20, 20]
    first, resumed = history_records(LOG)
    assert [r for r in first if r.series == "train loss"] == [
        (row.iteration, "train loss", row.value, True)
        for row in straight if row.output == "smoothed_loss" and row.iteration >= 10
    ]  # fmt: skip
    assert {r.iteration for r in resumed} == {0, 5, 10}


def test_another_training_adds_its_rows():
    run(21)
    before = read(LOG)
    run(1)
    rows = read(LOG)
    assert rows[: len(before)] == before
    assert [len(one) for one in runs(rows)] == [len(before), 4]
    assert not Path(superseded_log(LOG)).exists()


def test_the_training_that_goes_on_need_not_be_the_last_of_the_table():
    """A short training ran with the prefix between a training's end and its resumption."""
    run(20)
    first = read(LOG)
    run(1, random_seed=8)
    run(26, "tiny_iter_20.solverstate")
    rows = read(LOG)
    assert rows[: len(first)] == first
    assert [row.iteration for row in rows[len(first) :]] == [20, 20, 20, 20, 25, 25]
    assert [row.iteration for row in read(superseded_log(LOG))] == [0, 0, 0, 0]


def test_a_training_without_rows_does_not_take_those_of_the_one_before():
    run(20)
    first = read(LOG)
    run(10, display=0, test_interval=100, test_initialization=False)
    assert read(LOG) == first
    run(12, "tiny_iter_10.solverstate", display=1, test_interval=100)
    assert read(LOG)[: len(first)] == first
    assert len(runs(read(LOG))) == 2


def test_two_resumptions_from_one_snapshot():
    run(25)
    for _ in range(2):
        run(25, "tiny_iter_10.solverstate")
        rows = read(LOG)
        assert len({row[:4] for row in rows}) == len(rows) == 16


def test_a_state_that_knows_no_history_goes_on_where_it_was_taken():
    train(20)
    run(25)
    message = read_binary("tiny_iter_10.solverstate", proto.SolverState)
    message.ClearField("minicaffe_state")
    Path("of_caffe.solverstate").write_bytes(message.SerializeToString())
    run(16, "of_caffe.solverstate")
    assert [row.iteration for row in read(LOG) if row.output == "smoothed_loss"] == [0, 5, 10, 15]


def test_a_moved_training_begins_a_table_of_its_own(tmp_path):
    run(20)
    (tmp_path / "elsewhere").mkdir()
    for path in tmp_path.glob("tiny_iter_*"):
        shutil.move(path, tmp_path / "elsewhere")
    run(25, "elsewhere/tiny_iter_10.solverstate", snapshot_prefix="elsewhere/tiny")
    assert {row.iteration for row in read("elsewhere/tiny_log.csv")} == {10, 15, 20}
    assert {row.iteration for row in read(LOG)} == {0, 5, 10, 15}


def test_a_line_that_was_cut_short_is_dropped():
    run(11)
    whole = Path(LOG).read_bytes()
    Path(LOG).write_bytes(whole + b"15,train,0,smoo")
    run(16, "tiny_iter_10.solverstate")
    assert {row.iteration for row in read(LOG)} == {0, 5, 10, 15}
    Path(LOG).write_bytes(b"iteration,pha")
    run(1)
    assert len(read(LOG)) == 4


@pytest.mark.parametrize("text", [
    "step,loss\n1,2\n", "iteration,phase,net,output,value,lr,seconds\n1,2\n",
    "iteration,phase,net,output,value,lr,seconds\none,train,0,loss,1,1,1\n",
])  # fmt: skip
def test_a_file_that_is_no_history_is_refused_untouched(text):
    Path(LOG).write_text(text)
    with pytest.raises(SnapshotError, match=r"tiny_log.csv, line \d: no history of a training"):
        run(5)
    assert Path(LOG).read_text() == text


def test_of_several_solvers_the_first_writes():
    solver = get_solver("solver.prototxt")
    solver.rank = 1
    solver.monitors.append(History())
    solver.step(6)
    assert not Path(LOG).exists()


def test_names_with_commas_and_several_numbers(tmp_path):
    from minicaffe.solvers import Scalar

    solver = get_solver("solver.prototxt")
    log = History(tmp_path / "odd.csv")
    log.begin(solver)
    log.test(3, 1, [Scalar('a,"b"', 1.5), Scalar("per_class", 0.25), Scalar("per_class", float("nan"))], None)
    rows = read(tmp_path / "odd.csv")
    assert [row.output for row in rows] == ['a,"b"', "per_class[0]", "per_class[1]"]
    assert rows[1].value == 0.25 and np.isnan(rows[2].value)
    assert (rows[0].net, rows[0].phase) == (1, "test")


def test_a_table_that_cannot_be_written_is_a_warning(caplog):
    solver = get_solver("solver.prototxt")
    solver.monitors.append(History("gone/log.csv"))
    Path("gone").mkdir()
    solver.step(1)
    Path("gone/log.csv").unlink()
    Path("gone").rmdir()
    solver.step(5)
    assert "cannot write gone/log.csv" in caplog.text


def test_runs_are_told_apart_where_iterations_begin_again():
    def row(iteration, output="loss"):
        return Row(iteration, "train", 0, output, 1.0, 0.1, 0.0)

    rows = [row(0), row(0, "other"), row(5), row(0), row(0), row(7), row(3)]
    assert [[r.iteration for r in one] for one in runs(rows)] == [[0, 0, 5], [0], [0, 7], [3]]
    assert runs([]) == []
