"""Two trainings do not share a snapshot prefix."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_case import run, write_case

from minicaffe.errors import SnapshotError
from minicaffe.solvers import get_solver
from minicaffe.solvers.lock import lock_prefix

TRAIN = "import sys; from minicaffe.tools.cli import main; sys.exit(main())"


@pytest.fixture(autouse=True)
def folder(tmp_path, in_folder):
    in_folder(tmp_path)
    return tmp_path


def started(tmp_path):
    """A training in another process that goes on until it is ended."""
    solver = write_case(tmp_path, max_iter=10**8, test_interval=10**8, snapshot=10**8)
    command = [sys.executable, "-c", TRAIN, "train", "-solver", solver]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert any("Iteration 4, lr" in line for line in iter(process.stderr.readline, ""))
    return process


def test_a_second_training_is_refused_and_told_of_the_first(tmp_path, capsys):
    first = started(tmp_path)
    try:
        before = sorted(os.listdir(tmp_path))
        refused = run(capsys, "train", "-solver", write_case(tmp_path))
        assert refused.status == 1
        assert f"process {first.pid} on " in refused.errors[0] and "'tiny'" in refused.errors[0]
        solver = get_solver("solver.prototxt")
        for write in (solver.solve, lambda: solver.step(1), solver.snapshot):
            with pytest.raises(SnapshotError, match=f"process {first.pid} on .*training with the prefix 'tiny'"):
                write()
        assert solver.iter == 0
        assert sorted(os.listdir(tmp_path)) == before
        assert run(capsys, "train", "-solver", write_case(tmp_path, snapshot_prefix='"other"')).status == 0
        (tmp_path / "link").symlink_to(tmp_path)
        assert run(capsys, "train", "-solver", write_case(tmp_path, snapshot_prefix='"link/tiny"')).status == 1
        silent = write_case(tmp_path, snapshot=0, snapshot_after_train="false")
        assert run(capsys, "train", "-solver", silent).status == 0
    finally:
        first.kill()
        first.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_has_ended_locks_nothing(tmp_path, capsys, number):
    first = started(tmp_path)
    first.send_signal(number)
    first.communicate()
    assert run(capsys, "train", "-solver", write_case(tmp_path)).status == 0
    assert not (tmp_path / "tiny.lock").exists()


def test_what_a_killed_training_left_is_removed_by_the_next(tmp_path, capsys):
    code = (
        "import os; from minicaffe.proto.atomic import name_beside\n"
        "open(name_beside(os.path.abspath('tiny_iter_3.caffemodel')), 'w').close()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert len(os.listdir(tmp_path)) == 1
    run(capsys, "train", "-solver", write_case(tmp_path, max_iter=0))
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_solvers_of_one_process_share_the_lock(tmp_path):
    write_case(tmp_path)
    first, second = get_solver("solver.prototxt"), get_solver("solver.prototxt")
    first.step(1)
    second.step(1)
    assert Path("tiny.lock").exists()
    first.close()
    assert Path("tiny.lock").exists()
    del second
    assert not Path("tiny.lock").exists()


def test_it_is_free_after_solve_and_when_the_solver_goes(tmp_path):
    write_case(tmp_path)
    solver = get_solver("solver.prototxt")
    solver.solve()
    assert not Path("tiny.lock").exists()
    solver.step(1)
    assert Path("tiny.lock").exists()
    del solver
    assert not Path("tiny.lock").exists()


def test_a_forked_process_does_not_prolong_it(tmp_path):
    lock = lock_prefix("tiny")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(writer)
            lock_prefix("tiny")
        except SnapshotError:
            os.read(reader, 1)
        finally:
            os._exit(0)
    lock.release()
    code = "from minicaffe.solvers.lock import lock_prefix; lock_prefix('tiny')"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    os.close(writer)
    os.waitpid(child, 0)
    assert other.returncode == 0, other.stderr


def test_the_folder_must_be_there(tmp_path):
    with pytest.raises(SnapshotError, match="the folder .*/no does not exist; create it"):
        lock_prefix("no/tiny")
    Path("there").mkdir()
    with lock_prefix("there/"):
        assert os.listdir("there") == [".lock"]
    shutil.rmtree("there")
