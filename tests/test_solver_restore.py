"""A solver state is taken up wholly or not at all, and only with the weights that it was written with."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from test_solver import tiny, train, weights_of  # noqa: F401  (tiny is a fixture)

from minicaffe import MinicaffeError, proto
from minicaffe.backend import random
from minicaffe.errors import SnapshotError, WeightsError
from minicaffe.proto.files import array_to_blob, read_binary
from minicaffe.solvers import EarlyStop, History, get_solver

STATE = "tiny_iter_10.solverstate"
pytestmark = pytest.mark.usefixtures("tiny")


def change(**values):
    """Rewrite the state's minicaffe_state; a callable gets the value there and returns the new one, None removes it."""
    message = read_binary(STATE, proto.SolverState)
    state = json.loads(message.minicaffe_state)
    for name, value in values.items():
        state[name] = value(state[name]) if callable(value) else value
        if state[name] is None:
            del state[name]
    message.minicaffe_state = json.dumps(state).encode()
    Path(STATE).write_bytes(message.SerializeToString())


def change_history(index, values):
    message = read_binary(STATE, proto.SolverState)
    message.history[index].CopyFrom(values)
    Path(STATE).write_bytes(message.SerializeToString())


def short(text):
    return base64.b64encode(base64.b64decode(text)[:-4]).decode()


def wrong_count():
    blob = array_to_blob(np.zeros(24, np.float32))
    blob.shape.dim[0] = 25
    return blob


DAMAGE = {
    "random numbers that are no base64": lambda: change(random="?"),
    "random numbers cut short": lambda: change(random=short),
    "no random numbers": lambda: change(random=None),
    "a device's random numbers cut short": lambda: change(device=lambda d: {name: short(d[name]) for name in d}),
    "a position without its key": lambda: change(train={"data": {"offset": 3, "random": None}}),
    "a position that is no record": lambda: change(train=lambda t: {"data": t["data"] | {"key": "bm9uZQ=="}}),
    "a position of another kind": lambda: change(train={"data": 7}),
    "the second net's position": lambda: change(test=lambda t: [{"data": t[0]["data"] | {"random": "AAAA"}}]),
    "no losses": lambda: change(solver=lambda s: s | {"losses": None}),
    "losses that are no numbers": lambda: change(solver=lambda s: s | {"losses": ["a", "b", "c"]}),
    "a count that is no number": lambda: change(solver=lambda s: s | {"stored": "3"}),
    "a negative count": lambda: change(solver=lambda s: s | {"stored": -1}),
    "no solver": lambda: change(solver=None),
    "monitors that are no table": lambda: change(monitors=[]),
    "a monitor's state that is none": lambda: change(monitors={"early_stop": 3}),
    "not JSON": lambda: Path(STATE).write_bytes(Path(STATE).read_bytes().replace(b'"solver": {', b'"solver": [')),
    "the last of the history": lambda: change_history(3, array_to_blob(np.zeros(4, np.float32))),
    "a history that is not what its shape says": lambda: change_history(3, wrong_count()),
    "the weights": lambda: Path("tiny_iter_10.caffemodel").write_bytes(b"\x0a\x04tiny"),
    "no weights": lambda: Path("tiny_iter_10.caffemodel").unlink(),
}


def everything(solver):
    """All that a resumed training depends on."""
    return (
        *weights_of(solver), *[values.copy() for values in solver.history_blobs()], solver.iter, solver.current_step,
        solver.state(), random.stream().get_state(), *[net.state() for net in (solver.net, *solver.test_nets)],
    )  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_state_changes_nothing(damage):
    train(10)
    DAMAGE[damage]()
    solver = train(3, snapshot=0)
    before = everything(solver)
    with pytest.raises(MinicaffeError, match="tiny_iter_10|lmdb"):
        solver.restore(STATE)
    for one, other in zip(before, everything(solver), strict=True):
        np.testing.assert_equal(other, one)
    solver.step(4)
    np.testing.assert_equal(weights_of(solver), weights_of(train(7, snapshot=0)))


@pytest.mark.parametrize("state", [{}, {"rows": "many", "checksum": 0}, {"rows": 9}])
def test_a_damaged_state_of_a_monitor_changes_nothing(state):
    train(10)
    change(monitors={"early_stop loss::0": {"value": 0, "iteration": 5, "tested": 5, "without_improvement": 1},
                     "history": state})  # fmt: skip
    solver = train(3, snapshot=0)
    stop = EarlyStop(5)
    solver.monitors += [stop, History()]
    before = everything(solver)
    with pytest.raises(SnapshotError, match="tiny_iter_10.solverstate: its minicaffe_state is damaged"):
        solver.restore(STATE)
    assert stop.without_improvement == 0 and stop.best.iteration == -1
    for one, other in zip(before, everything(solver), strict=True):
        np.testing.assert_equal(other, one)


HDF5_DAMAGE = {
    "no history": lambda file: file.__delitem__("history"),
    "no iteration": lambda file: file.__delitem__("iter"),
    "an iteration that is text": lambda file: (file.__delitem__("iter"), file.create_dataset("iter", data=b"3")),
    "a history that is no group": lambda file: (file.__delitem__("history"), file.create_dataset("history", data=3)),
    "a history of text": lambda file: (
        file.__delitem__("history/3"), file.create_dataset("history/3", data=[b"a", b"b", b"c"])),
}  # fmt: skip


@pytest.mark.parametrize("damage", HDF5_DAMAGE)
def test_a_damaged_hdf5_state_changes_nothing(damage):
    train(10, snapshot_format=proto.SolverParameter.HDF5)
    with h5py.File(STATE + ".h5", "r+") as file:
        HDF5_DAMAGE[damage](file)
    solver = train(3, snapshot=0)
    before = everything(solver)
    with pytest.raises(SnapshotError, match="tiny_iter_10.solverstate.h5"):
        solver.restore(STATE + ".h5")
    for one, other in zip(before, everything(solver), strict=True):
        np.testing.assert_equal(other, one)


@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_weights_of_another_training_under_the_same_name_are_refused(suffix):
    format_ = proto.SolverParameter.HDF5 if suffix else proto.SolverParameter.BINARYPROTO
    train(10, snapshot_format=format_)
    shutil.move(STATE + suffix, "kept")
    train(10, snapshot_format=format_, random_seed=8)
    shutil.move("kept", STATE + suffix)
    solver = get_solver("solver.prototxt")
    with pytest.raises(SnapshotError, match="tiny_iter_10.caffemodel.* changed since .*or belongs to another training"):
        solver.restore(STATE + suffix)
    assert solver.iter == 0


@pytest.mark.parametrize("name", ["/dev/zero", "pipe"])
def test_weights_that_never_end_are_refused(name):
    """A state may name anything: a device, or a pipe that nobody writes to."""
    train(10)
    os.mkfifo("pipe")
    message = read_binary(STATE, proto.SolverState)
    message.learned_net = name
    Path(STATE).write_bytes(message.SerializeToString())
    solver = get_solver("solver.prototxt")
    with pytest.raises(WeightsError, match=f"cannot read the weights file {name}: no regular file"):
        solver.restore(STATE)


def test_the_right_weights_beside_the_state_are_preferred_to_others_where_it_was_written():
    moved = train(10)
    expected = weights_of(moved)
    Path("moved").mkdir()
    for path in Path().glob("tiny_iter_10.*"):
        path.rename(Path("moved") / path.name)
    train(10, random_seed=8)
    solver = get_solver("solver.prototxt")
    solver.restore("moved/" + STATE)
    np.testing.assert_equal(weights_of(solver), expected)


def test_a_state_without_a_checksum_still_loads():
    expected = weights_of(train(10))
    change(weights=None)
    solver = get_solver("solver.prototxt")
    solver.restore(STATE)
    np.testing.assert_equal(weights_of(solver), expected)


def test_weights_are_read_whole_before_any_is_copied():
    solver = train(10)
    before = weights_of(solver)
    message = solver.net.to_proto(write_diff=True)
    (ip2,) = (layer for layer in message.layer if layer.name == "ip2")
    ip2.blobs[1].diff.append(0)  # one gradient too many for its shape
    Path("odd.caffemodel").write_bytes(message.SerializeToString())
    solver.net.params["ip1"][0].data[...] += 1
    with pytest.raises(MinicaffeError, match="ip2.* param 1.*stored as its diff"):
        solver.net.copy_from("odd.caffemodel")
    np.testing.assert_array_equal(solver.net.params["ip1"][0].data, before[0] + 1)
