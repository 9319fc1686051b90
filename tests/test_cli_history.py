"""``minicaffe train``: the history, the snapshots that stay, early stops, fine-tuning, how to go on."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_case import NET, run, write_case

from minicaffe.net import Net
from minicaffe.plot import history_records
from minicaffe.solvers.history import read

COMMAND = "import sys; from minicaffe.tools.cli import main; sys.exit(main())"


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_history_and_log_lie_beside_the_snapshots(capsys, tmp_path):
    outcome = run(capsys, "train", "-solver", write_case(tmp_path))
    rows = read("tiny_log.csv")
    assert [row.iteration for row in rows if row.output == "smoothed_loss"] == [0, 2, 4, 6]
    assert [row.iteration for row in rows if row.phase == "test" and row.output == "accuracy"] == [0, 3, 6]
    lines = Path("tiny_log.txt").read_text().splitlines()
    assert all(re.match(r"[IW]\d{4} \d\d:\d\d:\d\d\.\d{6} ", line) for line in lines if "Iteration" in line)
    assert [line for line in lines if "Iteration 4" in line] == [
        line for line in outcome.err.splitlines() if "Iteration 4" in line
    ]


@pytest.mark.parametrize("again", [("-max_iter", 1), ("-snapshot", "tiny_iter_4.solverstate", "-max_iter", 5)])
def test_a_short_training_destroys_no_curve(capsys, tmp_path, again):
    solver = write_case(tmp_path)
    run(capsys, "train", "-solver", solver)
    before = {record for training in history_records("tiny_log.csv") for record in training}
    assert run(capsys, "train", "-solver", solver, *again).status == 0
    assert before <= {record for training in history_records("tiny_log.csv") for record in training}
    text = Path("tiny_log.txt").read_text()
    assert text.count("Starting Optimization") == 2


def test_a_quiet_training_is_logged_all_the_same(capsys, tmp_path):
    outcome = run(capsys, "train", "-solver", write_case(tmp_path), "-quiet")
    assert (outcome.status, outcome.err) == (0, "")
    assert "Iteration 4, lr = 0.01" in Path("tiny_log.txt").read_text()


def test_a_training_that_writes_no_snapshots_needs_no_folder(capsys, tmp_path):
    solver = write_case(tmp_path, snapshot=0, snapshot_after_train="false", snapshot_prefix='"absent/tiny"')
    outcome = run(capsys, "train", "-solver", solver)
    assert any("No history of this training is kept" in message for message in outcome.messages)
    assert not Path("absent").exists()


def test_the_newest_and_the_best_stay(capsys, tmp_path):
    solver = write_case(tmp_path, snapshot=1, max_iter=8, base_lr=0.5)
    outcome = run(capsys, "train", "-solver", solver, "-keep", 2, "-keep_best", "loss:max")
    assert outcome.status == 0
    found = re.search(r"Best weights: loss \S+ at iteration (\d+), (\S+)", outcome.err)
    kept = {int(path.stem.split("_")[2]) for path in tmp_path.glob("tiny_iter_*.solverstate")}
    assert kept == {7, 8, int(found[1])}
    losses = [(row.value, -row.iteration) for row in read("tiny_log.csv") if row[1:4] == ("test", 0, "loss")]
    assert int(found[1]) == -max(losses)[1]
    assert Path("tiny_best.caffemodel").resolve() == tmp_path / found[2]


def test_an_early_stop(capsys, tmp_path):
    solver = write_case(tmp_path, base_lr=0, max_iter=100, test_interval=2)
    fixed = NET.replace('type: "gaussian" std: 1', 'type: "constant" value: 1')
    (tmp_path / "net.prototxt").write_text(fixed)
    outcome = run(capsys, "train", "-solver", solver, "-early_stop", 3)
    assert outcome.status == 0
    assert any(
        re.fullmatch(r"Early stop: 3 tests found nothing better than loss \S+ at iteration 0\.", message)
        for message in outcome.messages
    )
    assert sorted(path.name for path in tmp_path.glob("*.solverstate")) == [
        "tiny_iter_4.solverstate", "tiny_iter_6.solverstate",
    ]  # fmt: skip


@pytest.mark.parametrize("flags, message", [
    (("-keep_best", "acuracy"), "test net #0 has no output 'acuracy'; it has: accuracy, loss"),
    (("-keep", "0"), "0 is not in the range"),
    (("-early_stop", "0"), "0 is not in the range"),
    (("-strict",), "--strict, --ignore and --rename say how --weights are loaded"),
    (("-weights", "w", "-rename", "a"), "expected OLD=NEW, two layers' names; found 'a'"),
    (("-weights", "tiny.caffemodel", "-ignore", "none*"), r"is called none*"),
])  # fmt: skip
def test_wrong_flags(capsys, tmp_path, flags, message):
    solver = write_case(tmp_path)
    Net("net.prototxt", 0).save("tiny.caffemodel")
    outcome = run(capsys, "train", "-solver", solver, *flags)
    assert outcome.status in (1, 2)
    assert message in outcome.errors[0]
    assert not list(tmp_path.glob("*.solverstate"))


def test_fine_tuning_ends_in_a_table(capsys, tmp_path):
    solver = write_case(tmp_path)
    run(capsys, "train", "-solver", solver)
    (tmp_path / "net.prototxt").write_text(NET.replace('"ip"', '"ip_new"'))
    outcome = run(capsys, "train", "-solver", solver, "-weights", "tiny_iter_6.caffemodel", "-max_iter", 1)
    assert outcome.status == 1 and "belong to another net" in outcome.errors[0]
    rename = ("-weights", "tiny_iter_6.caffemodel", "-rename", "ip=ip_new", "-strict", "-max_iter", 1)
    outcome = run(capsys, "train", "-solver", solver, *rename)
    assert outcome.status == 0
    table = outcome.err[outcome.err.index("Weights of tiny_iter_6.caffemodel in net 'tiny':") :].splitlines()[1:5]
    assert [line.split() for line in table] == [
        ["copied", "1", "ip", "->", "ip_new"], ["ignored", "0"], ["left", "as", "initialised", "0"], ["mismatched", "0"],
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_says_how_to_go_on_and_that_works(tmp_path, number):
    solver = write_case(tmp_path, max_iter=10**8, snapshot=0, test_interval=10**8)
    command = [sys.executable, "-c", COMMAND, "train", "-solver", str(solver), "-keep_best=loss:min", "--threads=1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = iter(process.stderr.readline, "")
    assert any("Iteration 4, lr" in line for line in lines)
    process.send_signal(number)
    rest = list(lines)
    assert process.wait() == 0
    (at,) = (i for i, line in enumerate(rest) if "To go on:" in line)
    words = shlex.split(rest[at + 1])
    iteration = int(re.search(r"Stopped at iteration (\d+)", rest[at])[1])
    assert words == [
        "minicaffe", "train", "--solver", str(solver), "--keep_best", "loss:min", "--threads", "1",
        "--snapshot", f"tiny_iter_{iteration}.solverstate",
    ]  # fmt: skip
    before = len(read("tiny_log.csv"))
    resumed = subprocess.run(
        [sys.executable, "-c", COMMAND, *words[1:], "--max_iter", str(iteration + 10)], capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    rows = read("tiny_log.csv")
    assert len(rows) > before and len({row[:4] for row in rows}) == len(rows)


def test_a_stopped_training_without_snapshots_says_so(tmp_path):
    solver = write_case(tmp_path, max_iter=10**8, snapshot=0, snapshot_after_train="false", test_interval=10**8)
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "train", "-solver", str(solver)], stderr=subprocess.PIPE, text=True
    )
    lines = iter(process.stderr.readline, "")
    assert any("Iteration 4, lr" in line for line in lines)
    process.send_signal(signal.SIGINT)
    assert any("No snapshot was written: this training cannot be resumed" in line for line in lines)
    assert process.wait() == 0
