"""Training by several processes: that it equals training by one, and how it ends."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import ranks as together

import minicaffe
from minicaffe import backend, compat, parallel, proto
from minicaffe.backend import ranks
from minicaffe.parallel import nccl
from minicaffe.parallel.exchange import Stage, stages
from minicaffe.proto.origin import Origin
from minicaffe.proto.text import parse
from minicaffe.tools import launch

pytest.importorskip("mpi4py", reason="mpi4py is not installed (pip install 'minicaffe[mpi]')")
HERE = Path(__file__).parent
SOLVERS = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A folder with the rows that the ranks learn from."""
    folder = tmp_path_factory.mktemp("ranks")
    generator = np.random.RandomState(4)
    with h5py.File(folder / "rows.h5", "w") as file:
        file["x"] = generator.randn(30, 6).astype(np.float32)
        file["y"] = generator.randint(0, 3, 30).astype(np.float32)
    (folder / "rows.txt").write_text("rows.h5\n")
    together.write_pairs(folder)
    return folder


def start(folder, count, what):
    command = [*launch.mpirun(count), sys.executable, str(HERE / "ranks.py"), what]
    environment = {**launch.environment(), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def found(rows):
    """What one process and two found."""
    processes = [start(rows, count, "main") for count in (1, 2)]
    results = []
    for process in processes:
        out, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        results.append(json.loads(out.splitlines()[-1]))
    return results


def test_the_processes_are_a_group(found):
    assert [one["size"] for one in found] == [1, 2]


@pytest.mark.parametrize("what", [*SOLVERS, "clip", "buckets", "whole"])
def test_two_ranks_step_as_one_with_the_double_batch(found, what):
    alone, two = (np.array(one[what]) for one in found)
    assert len(set(np.round(alone[:4], 6))) > 1
    np.testing.assert_allclose(two, alone, rtol=2e-5, atol=2e-6)


def test_two_ranks_train_the_siamese_net_on_digits_as_one_with_the_double_batch(found):
    """``python tests/ranks.py compare 2 3 4`` shows more of them."""
    alone, two = (np.array(one["siamese"]) for one in found)
    assert len(alone) == together.SIAMESE_STEPS and alone[-1] < alone[0] / 2
    np.testing.assert_allclose(two, alone, rtol=1e-11)


def test_one_process_goes_on_from_the_state_of_two(found, rows, monkeypatch, caplog):
    """From the same record: of twice the batch, it steps as they do."""
    monkeypatch.chdir(rows)
    with together.make(prefix="one") as solver, caplog.at_level("WARNING", "minicaffe"):
        solver.restore("by2_iter_3.solverstate")
        solver.step(3)
        np.testing.assert_allclose(together.weights(solver), found[1]["resumed"], rtol=2e-5, atol=2e-6)
    assert "was written by 2 process(es) that trained together, and 1 go on: from the same record" in caplog.text


def test_buckets_change_nothing(found):
    assert found[1]["buckets"] == found[1]["whole"] == found[1]["SGD"]


def test_with_dropout_ranks_step_by_the_mean_of_gradients_with_masks_of_their_own(found):
    dropped, gradients = zip(*found[1]["own dropout"], strict=True)
    assert any(dropped[0]) and any(dropped[1]) and dropped[0] != dropped[1]
    np.testing.assert_allclose(found[1]["dropout"], np.mean(gradients, axis=0), rtol=1e-5, atol=1e-7)


def test_a_test_that_ranks_split_has_the_results_of_one(found):
    np.testing.assert_allclose(found[1]["test"], found[0]["test"], rtol=1e-5)


@pytest.mark.parametrize("what", ["weights agree", "statistics agree", "tests agree", "resumes to the bit"])
def test_on_all_ranks(found, what):
    assert found[1][what]


def test_ranks_that_train_different_things_are_found_at_the_start(rows):
    process = start(rows, 2, "disagree")
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "rank 1 and rank 0 do not train the same: they differ in the solver's definition" in errors


def test_a_rank_that_raises_ends_the_others_with_its_error(rows):
    process = start(rows, 2, "fail")
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "rank 1 has had enough" in errors


def test_gradients_are_complete_once_the_first_layer_that_shares_them_has_run():
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 } } }
    layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } inner_product_param { num_output: 4 } }
    layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 4 } }
    layer { name: "c" type: "InnerProduct" bottom: "b" top: "c" param { name: "w" } inner_product_param { num_output: 4 } }
    layer { name: "l" type: "Reduction" bottom: "c" top: "l" loss_weight: 1 }
    """
    net = minicaffe.Net.from_param(parse(text, proto.NetParameter()), Origin(None))
    net.pack_params()
    found = stages(net, 1)
    assert [(stage.last, stage.first) for stage in found] == [(4, 3), (2, 2), (1, 0)]
    done = [sum(stop - start for start, stop in stage.ranges) for stage in found]
    assert done == [4, 20, 20]  # the bias of c; b; w, and the bias of a
    assert stages(net, 1 << 20) == [Stage(4, 0, [(0, 68)])]  # with what aligns them


def test_a_process_that_nobody_launched_is_alone(monkeypatch):
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"):
        monkeypatch.delenv(name, raising=False)
    with parallel.session() as group:
        assert (group.rank, group.size, ranks.agreed(3, 2)) == (0, 1, 3)


def test_records_are_shared_in_training_and_in_tests_that_are_split(monkeypatch):
    monkeypatch.setattr(ranks, "_rank", 1)
    monkeypatch.setattr(ranks, "_count", 3)
    assert (ranks.share(training=True), ranks.share(training=False)) == ((1, 3), (0, 1))
    with ranks.tests_split(True):
        assert ranks.share(training=False) == (1, 3)


def test_the_newest_state_is_the_one_of_the_highest_iteration_since(tmp_path):
    prefix = str(tmp_path / "a[1]")
    for name in ("_iter_5.solverstate", "_iter_20.solverstate", "_iter_100.solverstate.h5", "_iter_x.solverstate"):
        Path(prefix + name).write_text("")
    os.utime(prefix + "_iter_100.solverstate.h5", (1, 1))
    assert launch.newest_state(prefix, 10) == prefix + "_iter_20.solverstate"
    assert launch.newest_state(prefix, time.time() + 10) is None


@pytest.fixture
def training(rows):
    """``minicaffe train --ranks 2`` of the small net for long, to be disturbed; waits for its first snapshot."""
    (rows / "net.prototxt").write_text(together.NET.format(batch=6, middle=""))
    (rows / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" max_iter: 100000000 snapshot: 200 snapshot_prefix: "t" '
        "test_iter: 1 test_interval: 100000000 test_initialization: false random_seed: 1"
    )
    for old in rows.glob("t_*"):
        old.unlink()

    def begin(*more):
        command = [sys.executable, "-m", "minicaffe", "train", "--solver", "solver.prototxt", "--ranks", "2", *more]
        process = subprocess.Popen(
            [*command, "--keep", "2"], cwd=rows, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    started: list[subprocess.Popen] = []
    yield begin
    for process in started:
        process.kill()


def wait_for(condition, process, seconds=120):
    deadline = time.time() + seconds
    while not (result := condition()):
        assert process.poll() is None and time.time() < deadline, process.communicate()[1]
        time.sleep(0.05)
    return result


def snapshots(folder):
    return sorted(int(path.name[7:].partition(".")[0]) for path in folder.glob("t_iter_*.solverstate"))


def children(process):
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def ranks_of(process):
    """The processes that a launcher's mpirun started."""
    return [rank for mpirun in children(process.pid) for rank in children(mpirun)]


def test_a_signal_to_one_rank_stops_all_with_one_snapshot(rows, training):
    process = training()
    wait_for(lambda: snapshots(rows), process)
    os.kill(ranks_of(process)[-1], signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert errors.count("To go on:") == 1
    state = proto.SolverState.FromString((rows / f"t_iter_{snapshots(rows)[-1]}.solverstate").read_bytes())
    assert f"Stopped at iteration {state.iter}." in errors


def test_a_rank_that_is_killed_ends_all_and_restarts_go_on(rows, training):
    process = training("--restarts", "1")
    wait_for(lambda: snapshots(rows), process)
    victim = ranks_of(process)[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: not Path(f"/proc/{victim}").exists(), process)
    reached = snapshots(rows)[-1]
    wait_for(lambda: snapshots(rows)[-1] > reached, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "starting them again (0 restart(s) left after this)" in errors
    assert "Resuming from t_iter_" in errors


class Memory:
    """An array of a device, as NCCL is told of it."""

    def __init__(self, values):
        self.values = np.array(values, np.float32)
        self.data, self.size, self.dtype = (
            SimpleNamespace(ptr=self.values.ctypes.data),
            self.values.size,
            np.dtype("f4"),
        )


class FakeNccl:
    """NCCL among threads, by the addresses that it is given."""

    NCCL_SUM, NCCL_FLOAT32, available = 0, 7, True

    def __init__(self, size):
        self.barrier = threading.Barrier(size)
        self.buffers: dict[int, np.ndarray] = {}

    def get_unique_id(self):
        return "name"

    def NcclCommunicator(self, size, name, rank):  # noqa: N802  (as CuPy calls it)
        assert name == "name"
        exchange = SimpleNamespace(allReduce=lambda *a: self._all(rank, *a), broadcast=lambda *a: self._first(rank, *a))
        return exchange

    def _shown(self, rank, pointer, count):
        self.buffers[rank] = np.ctypeslib.as_array((ctypes.c_float * count).from_address(pointer))
        self.barrier.wait()

    def _all(self, rank, send, receive, count, kind, operation, stream):
        assert (send, kind, operation, stream) == (receive, self.NCCL_FLOAT32, self.NCCL_SUM, 5)
        self._shown(rank, send, count)
        total = sum(values.copy() for values in self.buffers.values())
        self.barrier.wait()
        self.buffers[rank][:] = total

    def _first(self, rank, send, receive, count, kind, root, stream):
        assert (send, kind, root, stream) == (receive, self.NCCL_FLOAT32, 0, 5)
        self._shown(rank, send, count)
        self.buffers[rank][:] = self.buffers[0]


class Threads(parallel.Alone):
    """A group of threads that can gather values."""

    def __init__(self, rank, size, values, barrier):
        self.rank, self.size, self._values, self._barrier = rank, size, values, barrier

    def gather(self, value):
        self._values[self.rank] = value
        self._barrier.wait()
        found = list(self._values)
        self._barrier.wait()
        return found


@pytest.mark.parametrize("devices, connected", [((0, 1), True), ((1, 1), False)])
def test_arrays_of_gpus_go_by_nccl_where_each_rank_has_its_own(monkeypatch, devices, connected):
    fake, values, barrier, device = FakeNccl(2), [None, None], threading.Barrier(2), threading.local()
    cuda = SimpleNamespace(
        nccl=fake, Device=lambda: SimpleNamespace(id=device.id), get_current_stream=lambda: SimpleNamespace(ptr=5)
    )
    monkeypatch.setattr(compat, "require", lambda name: SimpleNamespace(cuda=cuda))
    # each rank is a process with a backend of its own
    monkeypatch.setattr(backend, "current", lambda: SimpleNamespace(running=contextlib.nullcontext))
    found = {}

    def work(rank):
        device.id = devices[rank]
        between = nccl.connect(Threads(rank, 2, values, barrier), "here")
        if between is None:
            found[rank] = None
            return
        summed, copied = Memory([rank, 2.5]), Memory([rank + 7])
        between.sum(summed)
        between.broadcast(copied)
        found[rank] = summed.values.tolist(), copied.values.tolist()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(2), ([1.0, 5.0], [7.0]) if connected else None)
