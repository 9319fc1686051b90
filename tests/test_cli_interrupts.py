"""Signals that end a command: trainings leave a snapshot, nothing shows a traceback, whenever they come."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from cli_case import write_case

from minicaffe import proto
from minicaffe.proto.files import read_binary

COMMAND = (
    "import sys; from minicaffe.tools import cli, interrupts; interrupts.end_at_once();"
    "print(flush=True); sys.exit(cli.main())"
)


def start(*args, **options):
    """The command in a process of its own, as soon as it has begun."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip
    process.stdout.readline()
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_leaves_a_snapshot(tmp_path, in_folder, number):
    in_folder(tmp_path)
    process = start("train", "-solver", write_case(tmp_path, max_iter=10**8, snapshot=0, test_interval=10**8))
    lines = iter(process.stderr.readline, "")
    assert any("Iteration 4, lr" in line for line in lines)
    process.send_signal(number)
    rest = list(lines)
    assert process.wait() == 0
    assert any("Optimization stopped early." in line for line in rest)
    assert any(f"{number.name}: stop" in line for line in rest)
    (state,) = tmp_path.glob("tiny_iter_*.solverstate")
    message = read_binary(state, proto.SolverState)
    assert state.name == f"tiny_iter_{message.iter}.solverstate"
    assert not (tmp_path / "tiny.lock").exists()


def test_the_effect_of_sigterm_is_a_flag(tmp_path, in_folder):
    in_folder(tmp_path)
    solver = write_case(tmp_path, max_iter=10**8, snapshot=0, test_interval=10**8)
    process = start("train", "-solver", solver, "-sigterm_effect", "snapshot")
    lines = iter(process.stderr.readline, "")
    assert any("Iteration 4, lr" in line for line in lines)
    process.send_signal(signal.SIGTERM)
    assert any("Snapshotting solver state" in line for line in lines)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 0


DELAYS = (0, 0.03, 0.1, 0.2, 0.4, 0.8, 1.5, 3)


@pytest.mark.parametrize("delay", DELAYS)
def test_ctrl_c_in_the_first_moments_shows_no_traceback(tmp_path, in_folder, delay):
    """Kernels are compiled anew, too: the folder of their cache is empty."""
    in_folder(tmp_path)
    solver = write_case(tmp_path, max_iter=10**8, snapshot=0, test_interval=10**8)
    process = start("train", "-solver", solver, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache")})
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    stopped = process.returncode == 0 and "Optimization stopped early." in err
    assert stopped or (process.returncode == 130 and err.splitlines()[-1] == "interrupted")
    assert "Traceback" not in err and "KeyboardInterrupt" not in err


def test_other_commands_clean_up(tmp_path, in_folder):
    in_folder(tmp_path)
    process = start("data", "siamese", "digits", "--output", "db", "--count", "2000000")
    while process.poll() is None and not list(tmp_path.glob("db/.*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err.splitlines()[-1]) == (130, "interrupted")
    assert not list(tmp_path.glob("db/.*")) and "Traceback" not in err
