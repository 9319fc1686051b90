"""Kernels are compiled before they are called: in processes, each once, found by a rehearsal."""

from __future__ import annotations

import ctypes
import fcntl
import os
import resource
import time
from functools import partial
from itertools import product

import fresh_kernels
import numpy as np
import pytest
from cli_case import run, write_case
from numba import types
from numba.core import config, event

from minicaffe import TEST, TRAIN, Net, proto, solvers
from minicaffe.kernels import cpu
from minicaffe.kernels.cpu.conv import implicit_gemm_kernels as gemm
from minicaffe.kernels.cpu.conv import row_dot
from minicaffe.kernels.cpu.runtime import ahead, cache, optimization, threads
from minicaffe.kernels.cpu.runtime.compile import capturing
from minicaffe.layers import Layer
from minicaffe.proto.text import parse
from minicaffe.tools import warm

KERNELS = """
from numba import types
from minicaffe.kernels.cpu.runtime.compile import callback, kernel
@callback(types.intp(types.intp))
def twice(x):
    return 2 * x
@kernel()
def one(x):
    return x + 1
@kernel()
def two(x, *more):
    return x + 2 * len(more)
@kernel()
def wrong(x):
    return x.nothing
"""


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A module of kernels that have never been compiled."""
    return fresh_kernels.load(KERNELS, tmp_path, monkeypatch)


@pytest.fixture
def compiled_here():
    """The kernels of such modules that this process compiles."""
    listener = event.RecordingListener()
    with event.install_listener("numba:compile", listener):
        functions = lambda: {e.data["dispatcher"].py_func for _, e in listener.buffer}  # noqa: E731
        yield lambda: {made.__qualname__ for made in functions() if ".fresh_" in made.__module__}


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(ahead, "cores", lambda: 2)


def test_kernels_are_compiled_in_other_processes_and_loaded_here(fresh, compiled_here, two_cores):
    types = fresh.two.types_of((1.0, 2, 3.0))
    jobs = [(fresh.one, fresh.one.types_of((1.0,))), (fresh.two, types), (fresh.wrong, types[:1])]
    made = ahead.compile_ahead(lambda: jobs)
    assert sorted(item.kernel.rpartition(".")[2] for item in made) == ["one", "two"]
    assert ahead.missing(jobs) == jobs[2:]
    assert (fresh.one(1.0), fresh.two(1.0, 2, 3.0)) == (2.0, 5.0)
    assert not compiled_here()


def test_to_load_a_kernel_numba_imports_nothing_more(fresh, monkeypatch, two_cores):
    jobs = [(fresh.one, fresh.one.types_of((1.0,)))]
    assert ahead.compile_ahead(lambda: jobs)
    monkeypatch.setattr(type(fresh.one.targetctx), "refresh", lambda context: pytest.fail("it imports all it compiles"))
    assert fresh.one(1.0) == 2.0


def test_work_that_is_replayed_may_run_on_one_thread(fresh, monkeypatch):
    monkeypatch.setattr(ahead, "missing", list)
    jobs = [job[0].name.rpartition(".")[2] for job in ahead.needed_by(lambda: fresh.one(1.0))]
    assert jobs == ["one", "run_launches_alone"]


def test_the_first_kernel_that_is_missing_has_those_compiled_that_follow(fresh, compiled_here, two_cores):
    calls = []

    def work():
        calls.append(fresh.one(1.0))
        calls.append(fresh.two(calls[-1], 1))

    with ahead.expecting(work):
        work()
    assert calls == [2.0, 4.0]
    assert not compiled_here()


def test_callbacks_are_compiled_beside_the_kernels_that_are_told_their_address(fresh, compiled_here, two_cores):
    made = ahead.compile_ahead(partial(ahead.rehearse, lambda: fresh.one(fresh.twice.address)))
    assert sorted(item.kernel.rpartition(".")[2] for item in made) == ["one", "twice"]
    assert fresh.one(fresh.twice.address) > 1
    assert fresh.twice._cache_hits == 1
    assert ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(fresh.twice.address)(4) == 8
    assert not compiled_here()


def test_a_rehearsal_that_is_no_process_of_its_own_finds_addresses_that_stay(fresh):
    found = []
    ahead.rehearse(lambda: found.append(fresh.twice.address))
    assert found == [fresh.twice.address] != [0]


def test_convolutions_are_compiled_first_and_those_of_one_module_not_at_once(fresh):
    names = fresh.one, gemm.scatter_grad, gemm.convolve, fresh.two, row_dot._weight_grad, gemm.weight_grad
    ordered = [job[0] for job in ahead._in_order([(kernel, ()) for kernel in names])]
    assert ordered == [gemm.scatter_grad, row_dot._weight_grad, gemm.convolve, gemm.weight_grad, fresh.one, fresh.two]


@pytest.mark.parametrize("once", [True, False])
def test_what_others_compile_is_optimized_as_ever(fresh, once):
    codegen = fresh.one.targetctx.codegen()
    usual = codegen._library_class
    with pytest.raises(ValueError, match="stop"), optimization.optimized(codegen, once):
        assert (codegen._library_class is usual) == (not once or not optimization._KNOWN)
        raise ValueError("stop")
    assert codegen._library_class is usual


def test_what_launches_kernels_is_compiled_while_the_first_net_is_made(fresh, compiled_here, two_cores, monkeypatch):
    jobs = [(fresh.one, (types.intp,)), (fresh.two, (types.intp, types.UniTuple(types.intp, 1)))]
    monkeypatch.setattr(ahead, "_LAUNCHING", jobs)
    monkeypatch.setattr(ahead, "_any_kept", lambda: False)
    ahead.begin.__wrapped__()
    give_up = time.monotonic() + 60
    while ahead.missing(jobs) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert fresh.one(1) == 2
    assert fresh.two(1, 1) == 3
    assert not compiled_here()


def test_kernels_without_loops_are_optimized_once():
    assert cpu.pooling._max_pool._once  # it launches
    assert gemm._convolve_part._once  # its vectors are written out
    assert not cpu.pooling._max_pool_part._once


def test_once_is_enough_and_work_that_was_not_expected_does_not_count(fresh, compiled_here, two_cores):
    rehearsals, told = os.pipe()
    assert fresh.one(1) == 2
    for argument in (1.0, 1j):
        with ahead.expecting(lambda: os.write(told, b"x")):
            fresh.one(argument)
            fresh.two(argument)
    assert compiled_here() == {"one", "two"}
    assert os.read(rehearsals, 9) == b"xx"


def test_a_rehearsal_that_fails_leaves_all_to_the_first_call(fresh, compiled_here, two_cores):
    def rehearsal():
        os._exit(1)

    with ahead.expecting(rehearsal):
        assert fresh.one(1) == 2
    assert compiled_here() == {"one"}


def test_nothing_more_is_compiled_once_nobody_listens(fresh, compiled_here):
    read, write = os.pipe()
    numbers, tell = os.pipe()
    os.write(tell, bytes(2 * ahead._WORD))
    os.close(tell)
    os.close(read)
    with pytest.raises(BrokenPipeError):
        ahead._compile_some([(fresh.one, fresh.one.types_of((1,)))], numbers, write)
    assert len(os.read(numbers, 99)) == ahead._WORD


def test_what_processes_tell_is_read_where_many_files_are_open():
    read, write = os.pipe()
    os.write(write, b"1\n")
    os.close(write)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, limits[1]), limits[1]))
    try:
        high = fcntl.fcntl(read, fcntl.F_DUPFD, 1500)
        assert list(ahead._lines(high)) == ["1"]
        os.close(high)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    os.close(read)


def test_a_rehearsal_runs_no_kernel(monkeypatch):
    monkeypatch.setattr(ahead, "missing", list)
    x, y = np.ones((2, 2), np.float32), np.zeros((2, 2), np.float32)
    jobs = ahead.rehearse(lambda: [cpu.gemm(x, x, y) for _ in range(2)])
    assert [kernel.name for kernel, _ in jobs] == ["matmul.gemm._gemm"]
    assert not y.any()


class Noted:
    """Notes the kernels that run."""

    def __init__(self):
        self.jobs = []

    def passes(self, kernel, arguments):
        self.jobs.append((kernel, kernel.types_of(arguments)))
        return True

    def lacks_something(self):
        pass


def called_by(work):
    """The kernels that some work calls."""
    noted = Noted()
    with threads.pretending():  # it asks Numba by a kernel
        capturing.launches = noted
        try:
            work()
        finally:
            capturing.launches = None
    return set(noted.jobs)


TINY = """\
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 2 } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
layer { name: "p" type: "Pooling" bottom: "a" top: "p" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "b" type: "InnerProduct" bottom: "p" top: "b" inner_product_param { num_output: 5 } }
%s
layer { name: "l" type: "SoftmaxWithLoss" bottom: "b" bottom: "y" top: "l" }
"""


def test_what_a_solver_rehearses_is_what_it_calls(monkeypatch):
    param = parse('base_lr: 0.1 momentum: 0.9 lr_policy: "fixed"', proto.SolverParameter())
    parse(TINY % "", param.net_param)
    solver = solvers.create(param)
    called = called_by(partial(solver.step, 1))
    monkeypatch.setattr(ahead, "missing", list)
    assert called <= set(ahead.rehearse(solver.rehearse))
    assert len(called) > 8


class Counting(Layer):
    type = "Counting"
    calls = 0

    def reshape(self, bottom, top):
        top[0].reshape_like(bottom[0])

    def forward(self, bottom, top):
        type(self).calls += 1

    def backward(self, top, propagate_down, bottom):
        type(self).calls += 1


def test_layers_of_users_are_not_rehearsed():
    users = 'layer { name: "u" type: "Counting" bottom: "b" top: "u" } '
    param = parse("force_backward: true " + TINY % users, proto.NetParameter())
    net = Net(param, TRAIN)
    ahead.rehearse(lambda: net.rehearse(backward=True))
    assert Counting.calls == 0
    net.forward_backward()
    assert Counting.calls >= 1


def test_of_two_processes_one_compiles_and_the_other_waits_for_it(tmp_path, monkeypatch):
    locks = cache._Locks()
    told, tell = os.pipe()
    go, let_go = os.pipe()
    pid = os.fork()
    if pid == 0:
        with locks:
            locks.wait(str(tmp_path), "kernel", "types")
            os.write(tell, b"locked")
            os.read(go, 1)
        os._exit(0)
    os.read(told, 6)
    with locks:
        assert not locks.wait(str(tmp_path), "kernel", "other types")
        pause = time.sleep

        def pause_and_let_go(seconds):
            os.write(let_go, b"x")
            pause(seconds)

        monkeypatch.setattr(time, "sleep", pause_and_let_go)  # it is let go once somebody waits for it
        assert locks.wait(str(tmp_path), "kernel", "types")
    os.waitpid(pid, 0)
    assert not locks._held


def test_where_nothing_can_be_locked_nobody_waits(tmp_path):
    locks = cache._Locks()
    with locks:
        assert not locks.wait(str(tmp_path / "not there"), "kernel", "types")


def test_warm_compiles_for_both_phases(tmp_path, capsys):
    write_case(tmp_path)
    net = tmp_path / "net.prototxt"
    first, second = run(capsys, "warm", net, net), run(capsys, "warm", net)
    assert (first.status, second.status) == (0, 0)
    assert "kernels compiled for 2 nets" in first.out
    assert second.out.startswith("0 kernels compiled for 1 nets")
    for phase in (TRAIN, TEST):
        made = Net(str(net), phase)
        assert ahead.rehearse(partial(made.rehearse, backward=phase == TRAIN)) == []


def test_warm_compiles_for_the_deploy_form_and_other_batches(tmp_path, capsys, monkeypatch):
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 8 dim: 2 dim: 5 dim: 5 } } }'
        'layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 3 kernel_size: 3 } }'
        'layer { name: "i" type: "InnerProduct" bottom: "c" top: "i" inner_product_param { num_output: 2 } }'
    )
    monkeypatch.setattr(ahead, "missing", list)
    jobs = set(warm._needed(str(tmp_path / "net.prototxt"), 0, [], lambda phase: {}))
    for deploy, batch in product((False, True), (8, 1, 2)):
        net = Net(tmp_path / "net.prototxt", TEST, deploy=deploy)
        net.blobs["x"].reshape(batch, 2, 5, 5)
        called = called_by(net.forward)
        assert called <= jobs and called


def test_warm_is_an_error_where_its_folder_cannot_be_written(tmp_path, capsys, monkeypatch):
    write_case(tmp_path)
    (tmp_path / "file").touch()
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "file"))
    outcome = run(capsys, "warm", tmp_path / "net.prototxt")
    assert outcome.status == 1 and outcome.out == ""
    assert str(tmp_path / "file") in outcome.errors[0] and "cannot be written" in outcome.errors[0]


def test_warm_says_what_a_net_without_its_data_needs(tmp_path, capsys):
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "d" type: "Data" top: "x" top: "y" data_param { source: "nowhere" batch_size: 2 } } '
    )
    outcome = run(capsys, "warm", tmp_path / "net.prototxt")
    assert outcome.status == 1
    assert "--shape x=N,C,H,W --shape y=N" in outcome.errors[0]
    assert run(capsys, "warm", tmp_path / "net.prototxt", "--shape", "x=2,1,4,4", "--shape", "y=2").status == 0
