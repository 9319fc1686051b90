"""Learning-rate policies that Caffe's forks added: cosine, plateau, warm-up; and what is wrong with a solver's numbers."""

from __future__ import annotations

import ctypes
import ctypes.util
import logging
import math

import numpy as np
import pytest
from google.protobuf import text_format

from minicaffe import proto
from minicaffe.errors import PrototxtError, SnapshotError
from minicaffe.proto.files import read_binary, write_binary
from minicaffe.solvers import create

NET = """
net_param {
  layer { name: "data" type: "DummyData" top: "x" top: "t"
          dummy_data_param { shape { dim: 8 dim: 3 } shape { dim: 8 dim: 1 }
                             data_filler { type: "gaussian" std: 1 } data_filler { type: "gaussian" std: 1 } } }
  layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
          inner_product_param { num_output: 1 weight_filler { type: "gaussian" std: 1 } } }
  layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
}
random_seed: 3 base_lr: 0.1
"""
PLATEAU = 'lr_policy: "plateau" gamma: 0.5 max_iter: 60 average_loss: 3 '


@pytest.fixture(autouse=True)
def in_tmp_path(tmp_path, in_folder):
    in_folder(tmp_path)


def solver_of(text):
    return create(text_format.Merge(NET + text, proto.SolverParameter()))


def rates(text, iterations):
    """The rates of updates at these iterations."""
    solver, found = solver_of(text), []
    for i in iterations:
        solver.iter = i
        found.append(solver.lr)
        solver.schedule.advance(i)
    return found


def descend(solver, losses):
    """The rates of a solver whose smoothed loss follows ``losses``, one an iteration."""
    found = []
    for i, loss in enumerate(losses):
        solver.iter = i
        solver._note_loss(np.float32(loss))
        found.append(solver.lr)
        solver.schedule.advance(i)
    return found


def trained(text, iterations, resume=None):
    """Rates and losses of every iteration, and the weights after the last."""
    solver, seen = solver_of(text), []
    if resume:
        solver.restore(resume)
    solver.add_callback(lambda: None, lambda: seen.append((solver.lr, solver.smoothed_loss)))
    solver.step(iterations - solver.iter)
    return seen, [blob.data.copy() for blobs in solver.net.params.values() for blob in blobs]


def c_pow(x, y):
    """pow of C's library."""
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    libm.pow.restype, libm.pow.argtypes = ctypes.c_double, [ctypes.c_double] * 2
    return libm.pow(x, y)


def f(x):
    return float(np.float32(x))


@pytest.mark.parametrize("gamma", [0, 1e-30, 0.5, 1, 3, 1e30, math.inf])
@pytest.mark.parametrize("i", [0, 1, 2, 7, 99, 100000, 2**31 - 1])
def test_powers_of_gamma_are_those_of_c(gamma, i):
    def expected(x, y):
        with np.errstate(over="ignore", invalid="ignore"):
            return float(np.float32(f(0.1) * c_pow(x, y)))

    given = f"gamma: {gamma} max_iter: 100"
    assert rates(f'lr_policy: "exp" {given}', [i]) == pytest.approx([expected(f(gamma), i)], rel=1e-6, nan_ok=True)
    step = rates(f'lr_policy: "step" stepsize: 3 {given}', [i])
    assert step == pytest.approx([expected(f(gamma), i // 3)], rel=1e-6, nan_ok=True)
    multistep = rates(f'lr_policy: "multistep" stepvalue: 0 stepvalue: 1 {given}', [i, i])
    steps = [1, 2 if i else 1]
    assert multistep == pytest.approx([expected(f(gamma), n) for n in steps], rel=1e-6, nan_ok=True)
    for power in (-1000, -0.5, 0, 0.75, 1000):
        found = rates(f'lr_policy: "inv" power: {power} {given}', [i])
        assert found == pytest.approx([expected(1 + f(gamma) * i, -power)], rel=1e-5, nan_ok=True)


@pytest.mark.parametrize(
    ("gamma", "stepsize", "i", "share"),
    [
        (0.01, 100000, 0, 0), (0.01, 10, 2**31 - 1, 1), (0, 5, 9, 0.5), (1e30, 5, 4, 0), (1e30, 5, 5, 0.5), (1e30, 5, 6, 1),
        (0.01, 100000, 100000, 0.5), (math.inf, 5, 4, 0), (math.inf, 5, 6, 1), (math.inf, 5, 5, math.nan),
    ],
)  # fmt: skip
def test_sigmoid_at_its_ends(gamma, stepsize, i, share):
    found = rates(f'lr_policy: "sigmoid" gamma: {gamma} stepsize: {stepsize}', [i])
    assert found == pytest.approx([0.1 * share], rel=1e-6, nan_ok=True)


@pytest.mark.parametrize(
    ("power", "shares"),
    [(0, [1, 1, 1, 1]), (1, [1, 0.5, 0, 0]), (0.5, [1, math.sqrt(0.5), 0, 0]), (-2, [1, 4, math.inf, math.inf])],
)
def test_poly_stays_as_it_is_at_max_iter(power, shares):
    found = rates(f'lr_policy: "poly" power: {power} max_iter: 10', [0, 5, 10, 100])
    assert found == pytest.approx([0.1 * share for share in shares], rel=1e-6)


def test_an_overflowing_rate_is_infinite_as_a_float_is():
    assert rates('lr_policy: "exp" gamma: 1e30', [2]) == [math.inf]
    assert rates('lr_policy: "plateau" gamma: 1e30 plateau_winsize: 1', [0]) == pytest.approx([0.1])
    assert descend(solver_of('lr_policy: "plateau" gamma: 1e30 plateau_winsize: 1 plateau_winsize: 1'), [1.0] * 3)[
        2
    ] == (math.inf)
    assert rates('lr_policy: "fixed" warmup_iter: 4 warmup_start_lr: 3e38', [0, 2]) == pytest.approx([3e38, 1.5e38])


def test_cosine_falls_from_base_lr_to_zero_at_max_iter():
    found = rates('lr_policy: "cosine" max_iter: 40', (0, 10, 20, 30, 40, 50))
    expected = [0.1, 0.05 * (1 + math.sqrt(0.5)), 0.05, 0.05 * (1 - math.sqrt(0.5)), 0, 0]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_plateau_steps_down_when_a_window_brings_no_new_minimum():
    solver = solver_of('lr_policy: "plateau" gamma: 0.5 plateau_winsize: 3 plateau_winsize: 2')
    #        minima at 0, 1, 2      3 iterations none   new minimum  2 none           no window is left
    losses = [5.0, 4.0, 3.0,        3.0, 3.5, 3.0,      2.5,         2.6, 2.7,        9.0, 9.0, 9.0, 9.0]  # fmt: skip
    expected = [0.1] * 5 + [0.05] * 3 + [0.025] * 5
    assert descend(solver, losses) == pytest.approx(expected, rel=1e-6)


def test_a_window_begins_at_the_step_down_before():
    solver = solver_of('lr_policy: "plateau" gamma: 0.1 plateau_winsize: 2 plateau_winsize: 3')
    assert descend(solver, [1.0] * 8) == pytest.approx([0.1] * 2 + [0.01] * 3 + [0.001] * 3, rel=1e-6)


def test_plateau_reads_the_smoothed_loss():
    """The mean of the last 2 losses falls at every iteration, though every other loss is above those before."""
    solver = solver_of('lr_policy: "plateau" gamma: 0.5 plateau_winsize: 2 average_loss: 2')
    assert descend(solver, [8, 4, 7, 3, 6, 2, 5, 1]) == pytest.approx([0.1] * 8, rel=1e-6)


@pytest.mark.parametrize(("policy", "after"), [
    ('lr_policy: "fixed"', 0.1),
    ('lr_policy: "step" gamma: 0.5 stepsize: 10', 0.05),
    ('lr_policy: "poly" power: 1 max_iter: 40', 0.075),
    ('lr_policy: "cosine" max_iter: 20', 0.05),
    ('lr_policy: "plateau" gamma: 0.5 plateau_winsize: 10', 0.05),
])  # fmt: skip
def test_warm_up_is_a_line_to_base_lr_and_then_the_policy(policy, after):
    found = rates(f"{policy} warmup_iter: 8 warmup_start_lr: 0.02", (0, 2, 4, 7, 10))
    assert found == pytest.approx([0.02, 0.04, 0.06, 0.09, after], rel=1e-6)


def test_warm_up_starts_from_zero_unless_told():
    assert rates('lr_policy: "fixed" warmup_iter: 4', range(6)) == pytest.approx([0, 0.025, 0.05, 0.075, 0.1, 0.1])


@pytest.mark.parametrize("snapshot_format", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize(("policy", "at"), [
    ('lr_policy: "inv" gamma: 0.01 power: 0.75 max_iter: 60 average_loss: 3 warmup_iter: 35 warmup_start_lr: 0.001', 20),
    (PLATEAU + "plateau_winsize: 9 plateau_winsize: 7 plateau_winsize: 5", 20),
    (PLATEAU + "plateau_winsize: 9 plateau_winsize: 7 plateau_winsize: 5 warmup_iter: 25", 20),
])  # fmt: skip
def test_resuming_inside_a_warm_up_or_a_plateau_is_the_same_as_never_stopping(policy, at, snapshot_format):
    text = f'{policy} snapshot: {at} snapshot_prefix: "s" snapshot_format: {snapshot_format}'
    seen, weights = trained(text, 60)
    assert len({rate for rate, _ in seen[at:]}) > 1  # the rate does change after the snapshot
    state = f"s_iter_{at}.solverstate" + (".h5" if snapshot_format == "HDF5" else "")
    resumed, again = trained(text, 60, state)
    assert resumed == seen[at:]
    assert all(np.array_equal(a, b) for a, b in zip(weights, again, strict=True))


@pytest.mark.parametrize("policy", [
    'lr_policy: "fixed"',
    'lr_policy: "step" gamma: 0.5 stepsize: 7',
    'lr_policy: "multistep" gamma: 0.5 stepvalue: 5 stepvalue: 6 stepvalue: 6 stepvalue: 7 stepvalue: 20',
    'lr_policy: "inv" gamma: 0.1 power: 0.75',
    PLATEAU + "plateau_winsize: 2 plateau_winsize: 1 plateau_winsize: 1 plateau_winsize: 5",
])  # fmt: skip
def test_reading_the_rate_changes_nothing(policy):
    runs = []
    for reads in (0, 3):
        solver, seen = solver_of(policy), []

        def read(solver=solver, reads=reads):
            assert len({solver.lr for _ in range(reads)}) <= 1

        solver.add_callback(read, read)
        for _ in range(25):
            read()
            solver.step(1)
            seen.append((solver.current_step, solver.state()))
        runs.append((seen, [solver.lr], [blob.data.tolist() for blob in solver.net.params["ip"]]))
    assert runs[0] == runs[1]


def test_one_update_passes_one_mark():
    text = 'lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 2 stepvalue: 3'
    assert rates(text, range(6)) == pytest.approx([0.1, 0.1, 0.05, 0.025, 0.0125, 0.0125])


def test_a_new_average_loss_starts_the_mean_anew_after_resuming():
    text = PLATEAU + 'plateau_winsize: 9 snapshot: 20 snapshot_prefix: "s"'
    trained(text, 20)
    seen, _ = trained(text.replace("average_loss: 3", "average_loss: 2"), 22, "s_iter_20.solverstate")
    assert len(seen) == 2


@pytest.mark.parametrize("damage", [b"{", b"[]", b'{"random": 1}', b'{"random": "", "device": {}}'])
def test_a_damaged_resume_state_changes_nothing(damage):
    text = 'lr_policy: "fixed" snapshot: 5 snapshot_prefix: "s"'
    trained(text, 5)
    state = read_binary("s_iter_5.solverstate", proto.SolverState, "solver state", SnapshotError)
    state.minicaffe_state = damage
    write_binary("s_iter_5.solverstate", state)
    solver = solver_of(text)
    before = [blob.data.copy() for blob in solver.net.params["ip"]]
    with pytest.raises(SnapshotError, match="minicaffe_state is damaged"):
        solver.restore("s_iter_5.solverstate")
    assert solver.iter == 0
    assert all(np.array_equal(a, b.data) for a, b in zip(before, solver.net.params["ip"], strict=True))


@pytest.mark.parametrize(("text", "message"), [
    ('lr_policy: "cosin" max_iter: 9', "lr_policy: Unknown learning rate policy: 'cosin'; did you mean 'cosine'"),
    ('lr_policy: "cosine"', "max_iter: must be given for lr_policy 'cosine'"),
    ('lr_policy: "poly"', "max_iter: must be given for lr_policy 'poly'"),
    ('lr_policy: "poly" max_iter: 0 power: -0.5', "max_iter: must be positive for lr_policy 'poly'.*; found 0"),
    ('lr_policy: "cosine" max_iter: 0', "max_iter: must be positive for lr_policy 'cosine'.*; found 0"),
    ('lr_policy: "sigmoid" gamma: 0.1 stepsize: 0', "stepsize: must be positive for lr_policy 'sigmoid'; found 0"),
    ('lr_policy: "inv" gamma: nan', "gamma: must be 0 or more; found nan"),
    ('lr_policy: "step" gamma: 0.1', "stepsize: must be positive for lr_policy 'step'; found 0"),
    ('lr_policy: "exp" gamma: -1', "gamma: must be 0 or more; found -1"),
    ('lr_policy: "plateau" gamma: 0.1', "plateau_winsize: must be given for lr_policy 'plateau'"),
    ('lr_policy: "plateau" gamma: 0.1 plateau_winsize: 5 plateau_winsize: 0', r"plateau_winsize: .*found \[5, 0\]"),
    ('lr_policy: "plateau" plateau_winsize: 5', "gamma: must be given for lr_policy 'plateau'"),
    ('lr_policy: "fixed" warmup_iter: -3', "warmup_iter: must be 0 or more; found -3"),
    ('lr_policy: "fixed" warmup_iter: 3 warmup_start_lr: -0.1', "warmup_start_lr: must be 0 or more; found -0.1"),
    ('lr_policy: "fixed" warmup_start_lr: 0.1', "warmup_start_lr: needs warmup_iter"),
    ('lr_policy: "fixed" warmup_iter: 30 max_iter: 20', "the warm-up must end within max_iter, 20 iterations; found 30"),
])  # fmt: skip
def test_numbers_that_make_no_sense(text, message):
    with pytest.raises(PrototxtError, match=message):
        solver_of(text)


@pytest.mark.parametrize("field", ["max_iter", "display", "snapshot", "test_interval", "test_iter"])
def test_counts_are_not_negative(field):
    with pytest.raises(PrototxtError, match=f"{field}: must be 0 or more; found .*-2"):
        solver_of(f'lr_policy: "fixed" {field}: -2')


def test_solving_needs_an_end():
    with pytest.raises(PrototxtError, match="max_iter: must be given"):
        solver_of('lr_policy: "fixed"').solve()


@pytest.mark.parametrize(("text", "field"), [
    (NET.replace("base_lr: 0.1", "") + 'lr_policy: "fixed"', "base_lr"),
    (NET + 'lr_policy: "step" stepsize: 5', "gamma"),
])  # fmt: skip
def test_a_rate_that_is_zero_for_want_of_a_field_is_warned_of(text, field, caplog):
    create(text_format.Merge(text, proto.SolverParameter()))
    assert f"solver field {field} is not given" in caplog.text


def test_no_batches_make_no_test(caplog):
    caplog.set_level(logging.INFO, "minicaffe")
    solver_of('lr_policy: "fixed" test_iter: 0 test_interval: 1 max_iter: 2').solve()
    messages = [record.getMessage() for record in caplog.records]
    assert "Iteration 2, Testing net (#0)" in messages
    assert not [message for message in messages if "Test net output" in message]
