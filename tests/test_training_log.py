"""Logs of trainings as tables and charts: Caffe's own lines, odd lines, and our own logs."""

from __future__ import annotations

import csv
import datetime
import os
from pathlib import Path

import numpy as np
import pytest
from cli_case import run, write_case

from minicaffe import training_log
from minicaffe.errors import DataError

LOG = """\
Log file created at: 2026/11/22 11:00:00
I1122 11:00:00.000000  1 solver.cpp:102] Iteration 5, not yet
I1122 11:00:00.500000  1 solver.cpp:289] Solving tiny
I1122 11:00:01.000000  1 solver.cpp:347] Iteration 0, Testing net (#0)
I1122 11:00:02.000000  1 solver.cpp:414]     Test net output #0: accuracy = 0.1
I1122 11:00:02.000000  1 solver.cpp:414]     Test net output #1: loss = 2.3 (* 1 = 2.3 loss)
I1122 11:00:03.000000  1 solver.cpp:239] Iteration 0 (1 iter/s, 1s/2 iters), loss = 2.25
I1122 11:00:03.000000  1 solver.cpp:258]     Train net output #0: loss = 2.2 (* 1 = 2.2 loss)
I1122 11:00:03.000000  1 sgd_solver.cpp:112] Iteration 0, lr = 0.01
a line without a time: Train net output #0: loss = 99
I1122 11:00:05.000000  1 solver.cpp:239] Iteration 2 (1 iter/s, 1s/2 iters), loss = 1.5
I1122 11:00:05.000000  1 solver.cpp:258]     Train net output #0: loss = 1.4e-05 (* 1 = 1.4e-05 loss)
I1122 11:00:05.000000  1 sgd_solver.cpp:112] Iteration 2, lr = 1e-3
I1122 11:00:06.000000  1 solver.cpp:239] Iteration 4 (1 iter/s, 1s/2 iters), loss = nan
I1122 11:00:06.000000  1 solver.cpp:258]     Train net output #0: loss = nan (* 1 = nan loss)
I1122 11:00:06.000000  1 sgd_solver.cpp:112] Iteration 4, lr = 1e-4
I1122 11:00:07.000000  1 solver.cpp:347] Iteration 6, Testing net (#0)
I1122 11:00:07.000000  1 solver.cpp:414]     Test net output #0: accuracy = 0.5
"""


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def parse(text: str, name: str = "x.log") -> training_log.TrainingLog:
    Path(name).write_text(text)
    return training_log.parse(name)


def test_rows_hold_what_was_shown():
    found = parse(LOG)
    nan = pytest.approx(float("nan"), nan_ok=True)
    assert found.train == [
        {"NumIters": 0, "Seconds": 2.5, "LearningRate": 0.01, "loss": 2.2},  # the second row's rate
        {"NumIters": 2, "Seconds": 4.5, "LearningRate": 0.01, "loss": 1.4e-05},
        {"NumIters": 4, "Seconds": 5.5, "LearningRate": 0.001, "loss": nan},
    ]
    assert found.test == [{"NumIters": 0, "Seconds": 1.5, "LearningRate": 0.01, "accuracy": 0.1, "loss": 2.3}]


def test_losses_and_rates_have_their_own_iterations():
    found = parse(LOG)
    assert found.rates == [(0, 2.5, 0.01), (2, 4.5, 1e-3), (4, 5.5, 1e-4)]
    assert found.losses[:2] == [(0, 2.5, 2.25), (2, 4.5, 1.5)] and np.isnan(found.losses[2].value)


def test_a_year_begins_where_the_month_goes_back():
    text = LOG.replace("I1122", "I1231")
    at = text.index("I1231 11:00:05")
    found = parse(text[:at] + text[at:].replace("I1231", "I0101"))
    assert [row["Seconds"] for row in found.train] == [2.5, 86404.5, 86405.5]


def test_lines_that_tell_the_year():
    found = parse(LOG.replace("I1122", "I20241122"))
    assert [row["NumIters"] for row in found.train] == [0, 2, 4] and found.train[1]["Seconds"] == 4.5


def test_a_leap_day_in_a_file_of_another_year():
    Path("x.log").write_text(LOG.replace("I1122", "I0229"))
    year = datetime.datetime.fromtimestamp(os.path.getctime("x.log")).year
    if year % 4:
        with pytest.raises(DataError, match="Start time not found"):
            training_log.parse("x.log")


def test_a_log_whose_beginning_is_missing():
    found = parse(LOG[LOG.index("I1122 11:00:01") :])
    assert [row["Seconds"] for row in found.train] == [2, 4, 5]


@pytest.mark.parametrize("text", ["", "nothing\n", "Solving in vain\n"])
def test_a_file_that_is_no_log(text):
    with pytest.raises(DataError, match="Start time not found: expected the log of a training"):
        parse(text)


def test_the_tables_that_are_written(capsys):
    Path("my.log").write_text(LOG)
    outcome = run(capsys, "parse_log", "my.log", "out", "--delimiter", ";", "--quiet")
    assert outcome.out.splitlines() == ["Wrote out/my.log.train: 3 rows", "Wrote out/my.log.test: 1 rows"]
    with open("out/my.log.train", newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    assert list(rows[0]) == ["NumIters", "Seconds", "LearningRate", "loss"] and float(rows[1]["loss"]) == 1.4e-05


def test_no_table_of_nothing(capsys):
    Path("my.log").write_text("\n".join(line for line in LOG.splitlines() if "Test net" not in line))
    assert "Not writing ./my.log.test; no lines to write" in run(capsys, "parse_log", "my.log", ".").out
    assert not Path("my.log.test").exists()


def test_the_seconds_of_iterations(capsys):
    Path("my.log").write_text(LOG)
    run(capsys, "extract_seconds", "my.log", "out.txt")
    assert Path("out.txt").read_text().split() == [f"{s:f}" for s in (0.5, 2.5, 2.5, 4.5, 4.5, 5.5, 5.5, 6.5)]


@pytest.mark.parametrize("chart, expected", [
    (0, [(0, 0.1)]), (1, [(1.5, 0.1)]), (2, [(0, 2.3)]), (3, [(1.5, 2.3)]),
    (4, [(0, 0.01), (2, 1e-3), (4, 1e-4)]), (5, [(2.5, 0.01), (4.5, 1e-3), (5.5, 1e-4)]),
    (6, [(0, 2.25), (2, 1.5)]), (7, [(2.5, 2.25), (4.5, 1.5)]),
])  # fmt: skip
def test_the_points_of_each_chart(capsys, chart, expected):
    found = parse(LOG)
    assert training_log.points(found, chart)[: len(expected)] == expected
    pytest.importorskip("matplotlib")
    outcome = run(capsys, "plot_log", chart, "out.png", "x.log")
    assert outcome.status == 0 and outcome.out == f"out.png: {training_log.CHARTS[chart]}, 1 of 1 logs\n"
    assert Path("out.png").read_bytes().startswith(b"\x89PNG")


def test_help_names_the_charts(capsys):
    shown = run(capsys, "help", "plot_log").out
    for number, title in enumerate(training_log.CHARTS):
        assert f"  {number}: {title}\n" in shown


def test_a_log_without_what_is_asked_for(capsys):
    pytest.importorskip("matplotlib")
    Path("a.log").write_text(LOG)
    Path("b.log").write_text("\n".join(line for line in LOG.splitlines() if "Test net" not in line))
    outcome = run(capsys, "plot_log", 0, "out.png", "a.log", "b.log")
    assert outcome.out == "out.png: Test accuracy  vs. Iters, 1 of 2 logs\n"
    assert any("b holds nothing to draw" in message for message in outcome.messages)
    assert "no log holds anything to draw" in run(capsys, "plot_log", 0, "out.png", "b.log").errors[0]


def test_our_own_log(capsys):
    outcome = run(capsys, "train", "-solver", write_case(Path.cwd()))
    found = parse(outcome.err)
    assert [row["NumIters"] for row in found.train] == [0, 2, 4]
    assert [row["NumIters"] for row in found.test] == [0, 3, 6]
    assert list(found.test[0])[3:] == ["accuracy", "loss"] and found.rates[0].value == 0.01
