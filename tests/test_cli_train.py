"""``minicaffe train``: the log, snapshots, resuming, fine-tuning, signals, plots."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest
from cli_case import NET, contents, run, write_case

from minicaffe import backend, proto
from minicaffe.errors import DeviceError
from minicaffe.proto.files import read_binary, read_net_binary
from minicaffe.tools.signals import SignalActions

PNG = b"\x89PNG\r\n"


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def skeleton(messages):
    """Log messages from the start of the optimisation on, all numbers but those of iterations and outputs left out."""
    text = [re.sub(r"= [-+.\de]+", "= _", message) for message in messages]
    text = [re.sub(r"\([-+.\de]+ iter/s, [-+.\de]+s/", "(_ iter/s, _s/", message) for message in text]
    return text[text.index("Starting Optimization") :]


def test_the_log_has_caffes_lines_in_caffes_order(capsys, tmp_path):
    """The order of caffe train's own logs: test, snapshot of the iteration before, loss, outputs, rate."""
    outcome = run(capsys, "train", "-solver", write_case(tmp_path))
    assert outcome.status == 0

    def test(i):
        return [
            f"Iteration {i}, Testing net (#0)",
            "    Test net output #0: accuracy = _",
            "    Test net output #1: loss = _ (* 1 = _ loss)",
        ]

    def show(i):
        return [
            f"Iteration {i} (_ iter/s, _s/2 iters), loss = _",
            "    Train net output #0: loss = _ (* 1 = _ loss)",
            f"Iteration {i}, lr = _",
        ]

    def snapshot(i):
        return [
            f"Snapshotting to binary proto file tiny_iter_{i}.caffemodel",
            f"Snapshotting solver state to binary proto file tiny_iter_{i}.solverstate",
        ]

    assert skeleton(outcome.messages) == [
        "Starting Optimization", "Solving tiny", "Learning Rate Policy: fixed",
        *test(0), *show(0), *show(2), *test(3), *snapshot(4), *show(4), *snapshot(6),
        "Iteration 6, loss = _", *test(6), "Optimization Done.", "Optimization Done.", "Loss curve: tiny_loss.png",
    ]  # fmt: skip
    start = outcome.messages.index("Creating Layer ip")
    assert outcome.messages[0] == "Use CPU."
    assert outcome.messages[start : start + 5] == [
        "Creating Layer ip",
        "ip <- data",
        "ip -> ip",
        "Setting up ip",
        "Top shape: 4 2 (8)",
    ]


def test_caffes_log_parsers_read_the_log(capsys, tmp_path):
    """The regular expressions and the timestamp rule of Caffe's parse_log and extract_seconds."""
    lines = run(capsys, "train", "-solver", write_case(tmp_path)).err.splitlines()
    rows = {"Train": [], "Test": []}
    rates, iteration = [], None
    for line in lines[next(i for i, line in enumerate(lines) if "Solving" in line) :]:
        assert re.match(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.py:\d+\] ", line)
        if match := re.search(r"Iteration (\d+)", line):
            iteration = int(match[1])
        if match := re.search(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)", line):
            rates.append((iteration, float(match[1])))
        for phase, found in rows.items():
            if match := re.search(phase + r" net output #(\d+): (\S+) = ([\.\deE+-]+)", line):
                found.append((iteration, int(match[1]), match[2]))
                float(match[3])
    assert rows["Train"] == [(0, 0, "loss"), (2, 0, "loss"), (4, 0, "loss")]
    assert rows["Test"] == [(i, k, name) for i in (0, 3, 6) for k, name in enumerate(("accuracy", "loss"))]
    assert rates == [(0, 0.01), (2, 0.01), (4, 0.01)]


def test_quiet_leaves_warnings_only(capsys, tmp_path):
    outcome = run(capsys, "train", "-solver", write_case(tmp_path), "-quiet")
    assert (outcome.status, outcome.err) == (0, "")


def test_max_iter_replaces_the_solvers(capsys, tmp_path):
    assert run(capsys, "train", "-solver", write_case(tmp_path), "-max_iter", 2).status == 0
    assert (tmp_path / "tiny_iter_2.caffemodel").exists()
    assert not (tmp_path / "tiny_iter_4.caffemodel").exists()


def test_level_and_stage_reach_the_train_net(capsys, tmp_path):
    rule = 'include { min_level: 2 stage: "a" stage: "b" phase: TRAIN }'
    extra = f'layer {{ name: "extra" type: "Silence" bottom: "data" {rule} }}\n'
    solver = write_case(tmp_path, NET + extra, max_iter=0)
    assert "Creating Layer extra" in run(capsys, "train", "-solver", solver, "-level", 2, "-stage", "b,a").messages
    assert "Creating Layer extra" not in run(capsys, "train", "-solver", solver, "-level", 2, "-stage", "b").messages
    assert "Creating Layer extra" not in run(capsys, "train", "-solver", solver, "-stage", "a,b").messages


def test_resuming_ends_where_an_uninterrupted_run_does(capsys, tmp_path):
    solver = write_case(tmp_path)
    run(capsys, "train", "-solver", solver)
    straight = (tmp_path / "tiny_iter_6.caffemodel").read_bytes()
    (tmp_path / "tiny_iter_6.caffemodel").unlink()
    outcome = run(capsys, "train", "-solver", solver, "-snapshot", "tiny_iter_4.solverstate")
    assert "Resuming from tiny_iter_4.solverstate" in outcome.messages
    assert (tmp_path / "tiny_iter_6.caffemodel").read_bytes() == straight


def test_weights_replace_the_solvers_and_a_snapshot_clears_them(capsys, tmp_path):
    run(capsys, "train", "-solver", write_case(tmp_path))
    solver = write_case(tmp_path, weights='"absent.caffemodel"', max_iter=4)
    refused = run(capsys, "train", "-solver", solver)
    assert refused.status == 1
    assert "absent.caffemodel" in refused.errors[0]
    finetuned = run(
        capsys, "train", "-solver", solver, "-weights", "tiny_iter_4.caffemodel,tiny_iter_6.caffemodel", "-max_iter", 0
    )
    assert finetuned.status == 0
    assert [m for m in finetuned.messages if m.startswith("Finetuning")] == [
        f"Finetuning from tiny_iter_{i}.caffemodel" for _ in ("train net", "test net") for i in (4, 6)
    ]
    assert run(capsys, "train", "-solver", solver, "-snapshot", "tiny_iter_4.solverstate").status == 0


def test_finetuning_starts_from_the_given_weights(capsys, tmp_path):
    solver = write_case(tmp_path)
    run(capsys, "train", "-solver", solver)
    learned = read_net_binary("tiny_iter_6.caffemodel")
    run(
        capsys,
        "train",
        "-solver",
        write_case(tmp_path, base_lr=0, random_seed=2, snapshot_prefix='"tuned"'),
        "-weights",
        "tiny_iter_6.caffemodel",
    )
    tuned = read_net_binary("tuned_iter_6.caffemodel")
    assert [layer.blobs for layer in tuned.layer] == [layer.blobs for layer in learned.layer]


def test_a_gpu_that_only_the_file_asks_for_gives_a_warning_and_the_cpu(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "set_mode_gpu", lambda: (_ for _ in ()).throw(DeviceError("no GPU here")))
    outcome = run(capsys, "train", "-solver", write_case(tmp_path, solver_mode="GPU"), "-quiet")
    assert outcome.status == 0
    (warning,) = outcome.err.splitlines()
    assert warning.startswith("W")
    assert "solver_mode: GPU" in warning
    assert "no GPU here" in warning
    assert warning.endswith("Use CPU.")


def test_a_gpu_that_the_flag_asks_for_is_an_error(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "set_mode_gpu", lambda: (_ for _ in ()).throw(DeviceError("no GPU here")))
    outcome = run(capsys, "train", "-solver", write_case(tmp_path), "-gpu", 0)
    assert (outcome.status, outcome.errors) == (1, ["error: --gpu 0: no GPU here"])


def test_solver_mode_counts_only_if_the_file_gives_it(capsys, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(backend, "set_device", asked.append)
    monkeypatch.setattr(backend, "set_mode_gpu", lambda: None)
    run(capsys, "train", "-solver", write_case(tmp_path, max_iter=0))
    run(capsys, "train", "-solver", write_case(tmp_path, max_iter=0, solver_mode="CPU", device_id=2))
    assert asked == []
    run(capsys, "train", "-solver", write_case(tmp_path, max_iter=0, solver_mode="GPU", device_id=2))
    run(capsys, "train", "-solver", write_case(tmp_path, max_iter=0, solver_mode="GPU", device_id=2), "-gpu", 1)
    assert asked == [2, 1]


@pytest.mark.parametrize("flag, message", [("x", "found 'x'"), ("0,x", "found '0,x'"), ("-1", "found '-1'")])
def test_gpu_takes_numbers(capsys, tmp_path, flag, message):
    outcome = run(capsys, "train", "-solver", write_case(tmp_path), "-gpu", flag)
    assert outcome.status == 1
    assert message in outcome.errors[0]


def test_signals_become_actions_once_sighup_first():
    before = signal.getsignal(signal.SIGINT)
    with SignalActions({signal.SIGHUP: "snapshot", signal.SIGINT: "stop"}) as actions:
        assert actions() is None
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGHUP)
        assert [actions(), actions(), actions()] == ["snapshot", "stop", None]
    assert signal.getsignal(signal.SIGINT) is before


def test_the_effect_none_ignores_a_signal():
    with SignalActions({signal.SIGINT: "none"}) as actions:
        os.kill(os.getpid(), signal.SIGINT)
        assert [actions(), actions()] == [None, None]


def test_a_second_ctrl_c_does_not_wait():
    with SignalActions({signal.SIGINT: "stop"}), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_stops_with_a_snapshot(tmp_path):
    solver = write_case(tmp_path, max_iter=10**8, snapshot=0, test_interval=10**8)
    command = [
        sys.executable,
        "-c",
        "import sys; from minicaffe.tools.cli import main; sys.exit(main())",
        "train",
        "-solver",
        solver,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = iter(process.stderr.readline, "")
    assert any("Iteration 4, lr" in line for line in lines)
    process.send_signal(signal.SIGINT)
    rest = list(lines)
    assert process.wait() == 0
    assert any("Optimization stopped early." in line for line in rest)
    (state,) = tmp_path.glob("tiny_iter_*.solverstate")
    message = read_binary(state, proto.SolverState)
    assert state.name == f"tiny_iter_{message.iter}.solverstate"
    assert (tmp_path / message.learned_net).exists()


def test_a_loss_curve_is_left_beside_the_snapshots(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    run(capsys, "train", "-solver", write_case(tmp_path))
    assert (tmp_path / "tiny_loss.png").read_bytes().startswith(PNG)
    assert not (tmp_path / "tiny_embedding.png").exists()


def test_without_matplotlib_a_hint_names_the_extra(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("minicaffe.compat.have", lambda name: name != "matplotlib")
    outcome = run(capsys, "train", "-solver", write_case(tmp_path))
    assert outcome.status == 0
    assert "pip install 'minicaffe[plot]'" in outcome.messages[-1]
    assert not (tmp_path / "tiny_loss.png").exists()


def test_nothing_displayed_leaves_no_curve(capsys, tmp_path):
    solver = write_case(tmp_path, display=0, test_iter=None, test_interval=None)
    outcome = run(capsys, "train", "-solver", solver)
    assert outcome.status == 0
    assert outcome.messages[-1].startswith("No loss curve")


def test_a_terminal_gets_a_progress_bar_and_what_is_meant_for_people(tmp_path):
    """On a terminal there are no glog lines, and a net's construction is told with --verbose only."""
    pty = pytest.importorskip("pty")
    solver = write_case(tmp_path)

    def shown(*flags):
        master, slave = pty.openpty()
        command = [
            sys.executable,
            "-c",
            "import sys; from minicaffe.tools.cli import main; sys.exit(main())",
            "train",
            "-solver",
            str(solver),
            *flags,
        ]
        process = subprocess.Popen(command, stderr=slave, env={**os.environ, "TERM": "xterm", "COLUMNS": "160"})
        os.close(slave)
        output = b""
        while True:
            try:
                chunk = os.read(master, 65536)
            except OSError:  # the other side is closed
                break
            if not chunk:
                break
            output += chunk
        os.close(master)
        assert process.wait() == 0
        return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", output.decode())

    plain = shown()
    assert "6/6" in plain
    assert "iteration 4: loss" in plain
    assert "iteration 3: test net #0: accuracy" in plain
    assert "snapshot: tiny_iter_4.solverstate" in plain
    assert "Creating Layer" not in plain
    assert not re.search(r"[IW]\d{4} \d\d:", plain)
    assert "Creating Layer ip" in shown("-verbose")
    assert shown("-quiet") == ""


def test_training_leaves_the_definition_as_it_was(capsys, tmp_path):
    solver = write_case(tmp_path)
    before = contents(tmp_path)
    run(capsys, "train", "-solver", solver)
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before


def test_a_precision_and_a_loss_scale(capsys, tmp_path):
    """On the CPU, which does not round; a loss scale changes nothing there."""
    solver = write_case(tmp_path)
    run(capsys, "train", "-solver", solver)
    plain = (tmp_path / "tiny_iter_6.caffemodel").read_bytes()
    backend.precision.warn_that_not.cache_clear()
    outcome = run(capsys, "train", "-solver", solver, "-precision", "fp16", "-loss_scale", "1024")
    assert outcome.status == 0 and (tmp_path / "tiny_iter_6.caffemodel").read_bytes() == plain
    assert "precision fp16 is for GPUs: the CPU multiplies in the precision of its arrays" in outcome.messages
    refused = run(capsys, "train", "-solver", solver, "-loss_scale", "1000")
    assert refused.status == 1 and "a power of two, from 1 to" in refused.errors[0] and "'1000'" in refused.errors[0]
