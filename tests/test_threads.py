"""One knob for the CPU's threads: it holds in every Python thread, and nobody gets more than the process may use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numba
import pytest
from cli_case import run, write_case

import minicaffe
from minicaffe import backend
from minicaffe.backend import threads
from minicaffe.errors import DeviceError
from minicaffe.kernels.cpu.runtime import threads as shares


@pytest.fixture(autouse=True)
def unchanged(monkeypatch):
    """The process computes on as many threads after a test as before."""
    monkeypatch.setattr(threads, "_chosen", threads._chosen)
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


def in_child(code, **environment):
    """What a fresh interpreter prints under this environment."""
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS")
    inherited = {name: value for name, value in os.environ.items() if name not in names}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=inherited | environment, capture_output=True, text=True, check=True
    ).stdout.split()


def threads_in_a_pass():
    with backend.current().running():
        return numba.get_num_threads()


ONE_AND_BACK = """
import minicaffe, numba, threading
from minicaffe import backend
def seen():
    with backend.current().running():
        print(numba.get_num_threads())
seen()
minicaffe.set_num_threads(1); seen()
other = threading.Thread(target=seen); other.start(); other.join()
minicaffe.set_num_threads(3); seen()
print(minicaffe.get_num_threads())
"""


def test_the_number_holds_in_every_python_thread():
    assert in_child(ONE_AND_BACK, NUMBA_NUM_THREADS="3") == ["3", "1", "1", "3", "3"]


def test_a_pass_uses_the_chosen_number_whatever_numba_was_told():
    minicaffe.set_num_threads(1)
    found = []
    worker = threading.Thread(target=lambda: found.append(threads_in_a_pass()))
    worker.start()
    worker.join()
    assert (threads_in_a_pass(), found) == (1, [1])


def test_kernels_share_their_work_over_the_number_of_the_pass():
    minicaffe.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    with backend.current().running():
        first = shares.thread_count()
        minicaffe.set_num_threads(1)
        with backend.current().running():
            inner = shares.thread_count()
        assert (first, inner, shares.thread_count()) == (numba.config.NUMBA_NUM_THREADS, 1, first)
    with backend.current().running():
        assert shares.thread_count() == 1
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    assert shares.thread_count() == numba.config.NUMBA_NUM_THREADS


def test_the_first_op_of_a_process_may_be_a_small_one_outside_a_pass():
    code = "import numpy as np; from minicaffe.kernels import cpu; y = np.zeros((1, 2)); cpu.bias_add(y, np.ones(2)); print(y.sum())"
    assert in_child(code) == ["2.0"]


def test_without_a_choice_it_is_every_core_of_the_process():
    cores = len(os.sched_getaffinity(0))
    assert in_child("import minicaffe; print(minicaffe.get_num_threads())") == [str(cores)]


@pytest.mark.parametrize(("numba_threads", "openmp", "expected"), [
    ("3", "2", "2"), ("2", "3", "2"), ("3", "2,1", "2"), ("3", "", "3"), ("3", "many", "3"),
])  # fmt: skip
def test_the_environment_is_an_upper_bound(numba_threads, openmp, expected):
    code = (
        "import minicaffe, numba; from minicaffe import backend; print(minicaffe.get_num_threads())\n"
        "with backend.current().running(): print(numba.get_num_threads())"
    )
    assert in_child(code, NUMBA_NUM_THREADS=numba_threads, OMP_NUM_THREADS=openmp) == [expected, expected]


@pytest.mark.parametrize(("environment", "reason"), [
    ({"NUMBA_NUM_THREADS": "2"}, "NUMBA_NUM_THREADS"),
    ({"NUMBA_NUM_THREADS": "4", "OMP_NUM_THREADS": "2"}, "OMP_NUM_THREADS"),
])  # fmt: skip
def test_more_than_the_bound_is_refused_with_the_reason(environment, reason):
    code = "import minicaffe\ntry: minicaffe.set_num_threads(3)\nexcept minicaffe.MinicaffeError as error: print(error)"
    message = " ".join(in_child(code, **environment))
    assert message == f"3 threads were asked for; expected 1 to 2, limited by {reason}"


@pytest.mark.parametrize("n", [0, -1, 10_000])
def test_a_number_out_of_range_changes_nothing(n):
    before = minicaffe.get_num_threads()
    with pytest.raises(DeviceError, match=f"{n} threads were asked for; expected 1 to"):
        minicaffe.set_num_threads(n)
    assert minicaffe.get_num_threads() == before


@pytest.mark.parametrize("command", ["train", "time", "test"])
def test_the_flag_of_the_commands(capsys, tmp_path, in_folder, command):
    in_folder(tmp_path)
    solver = write_case(tmp_path)
    if command == "test":
        assert run(capsys, "train", "-solver", solver).status == 0
    arguments = {
        "train": ("-solver", solver), "time": ("-model", "net.prototxt", "-iterations", 1),
        "test": ("-model", "net.prototxt", "-weights", "tiny_iter_6.caffemodel", "-iterations", 1),
    }[command]  # fmt: skip
    assert run(capsys, command, *arguments, "-threads", 1).status == 0
    assert minicaffe.get_num_threads() == 1
    refused = run(capsys, command, *arguments, "-threads", 10_000)
    assert (refused.status, len(refused.errors)) == (1, 1)
    assert "10000 threads were asked for" in refused.err
    assert run(capsys, command, *arguments, "-threads", 0).status == 2


BLAS = """
import numpy as np, minicaffe
from threadpoolctl import threadpool_info
from minicaffe import proto
from minicaffe.layers import Layer
from minicaffe.net import Net
from minicaffe.proto import text
class Look(Layer):
    type = "Look"
    def reshape(self, bottom, top):
        top[0].reshape(1)
    def forward(self, bottom, top):
        top[0].data[0] = max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
net = Net(text.parse('layer { name: "x" type: "Input" top: "x" } layer { name: "y" type: "Look" bottom: "x" top: "y" }', proto.NetParameter()), 1)
print(int(net.forward()["y"][0]), max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"))
"""


def test_a_layer_of_a_user_finds_blas_at_one_thread():
    assert in_child(BLAS, OPENBLAS_NUM_THREADS="3")[0] == "1"
