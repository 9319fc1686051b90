"""Snapshots: weights and solver state in Caffe's files, with what else an exact resume needs.

A solver state of minicaffe also holds the random stream and the position of every data layer (a field that Caffe
skips), so that training resumes bit for bit.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import backend, compat, proto, weights
from minicaffe.backend import random
from minicaffe.data import hdf5
from minicaffe.errors import DataError, SnapshotError
from minicaffe.proto.files import array_to_blob, blob_to_array, read_binary, write_binary

if TYPE_CHECKING:
    import h5py

    from minicaffe.solvers.base import Solver
else:
    h5py = compat.lazy("h5py")

_log = logging.getLogger(__name__)


def check_prefix(prefix: str) -> None:
    """SnapshotError unless files can be made at the prefix; nothing is left there."""
    folder = os.path.dirname(os.path.abspath(prefix))
    problem = (
        "it has a null byte"
        if "\0" in prefix
        else f"the folder {folder} does not exist; create it"
        if not os.path.isdir(folder)
        else f"the folder {folder} is not writable"
        if not os.access(folder, os.W_OK | os.X_OK)
        else None
    )
    if problem:
        raise SnapshotError(f"solver field snapshot_prefix: Cannot write to snapshot prefix '{prefix}': {problem}")


def write(solver: Solver) -> tuple[str, str]:
    """Write weights, then state; returns both paths.  The files of earlier snapshots stay as they are."""
    p = solver.param
    stem = f"{p.snapshot_prefix}_iter_{solver.iter}"
    if p.snapshot_format == proto.SolverParameter.HDF5:
        model, state = stem + ".caffemodel.h5", stem + ".solverstate.h5"
        _log.info("Snapshotting to HDF5 file %s", model)
        weights.save_hdf5(solver.net, model, p.snapshot_diff)
        _log.info("Snapshotting solver state to HDF5 file %s", state)
        with weights.new_hdf5(state) as file:
            file["iter"] = np.array([solver.iter], np.int32)
            file["current_step"] = np.array([solver.current_step], np.int32)
            file["learned_net"] = np.bytes_(model)
            file["minicaffe_state"] = np.frombuffer(_resume_state(solver), np.uint8)
            group = file.create_group("history")
            for k, values in enumerate(solver.history_blobs()):
                group.create_dataset(str(k), data=values)
    else:
        model, state = stem + ".caffemodel", stem + ".solverstate"
        _log.info("Snapshotting to binary proto file %s", model)
        weights.save(solver.net, model, p.snapshot_diff)
        _log.info("Snapshotting solver state to binary proto file %s", state)
        message = proto.SolverState(
            iter=solver.iter, learned_net=model, current_step=solver.current_step, minicaffe_state=_resume_state(solver)
        )
        for values in solver.history_blobs():
            message.history.append(array_to_blob(values))
        write_binary(state, message)
    return model, state


def _resume_state(solver: Solver) -> bytes:
    where = backend.current()
    return json.dumps(
        {
            "random": base64.b64encode(random.stream().get_state()).decode(),
            "device": {where.name: base64.b64encode(where.random.get_state()).decode()},
            "solver": solver.state(),
            "train": solver.net.state(),
            "test": [net.state() for net in solver.test_nets],
        }
    ).encode()


def read(solver: Solver, path: str) -> None:
    """Put a solver where a solver state says; SnapshotError or WeightsError leave it as it was."""
    values = _read_hdf5(path) if path.endswith(".h5") else _read_binary(path)
    iteration, learned_net, current_step, history, resume = values
    for field, value in (("iter", iteration), ("current_step", current_step)):
        if value < 0:
            raise SnapshotError(
                f"solver state {path}: its {field} is {value}; it is damaged: resume from another snapshot"
            )
    state = None if resume is None else _resume_values(path, resume)
    targets = solver.history_blobs()
    if len(history) != len(targets):
        raise SnapshotError(
            f"solver state {path}: Incorrect length of history blobs: found {len(history)}, expected {len(targets)} for a "
            f"{solver.type} solver of net '{solver.net.name}'; resume with the solver and net that wrote it"
        )
    for k, (source, target) in enumerate(zip(history, targets, strict=True)):
        if source.size != target.size:
            raise SnapshotError(
                f"solver state {path}: history blob {k} has shape {source.shape}, expected {target.shape}; resume with the net that wrote it"
            )
    if learned_net:
        solver.net.copy_from(_find_model(learned_net, path))
    for source, target in zip(history, targets, strict=True):
        target[...] = source.reshape(target.shape)
    solver.iter, solver.current_step = iteration, current_step
    if state is None:
        _log.warning(
            "%s was not written by minicaffe: data layers start from the first record, random numbers anew", path
        )
        return
    random.stream().set_state(state["random"])
    where = backend.current()
    if solver.rank:  # the state is that of rank 0, and each process draws numbers of its own
        random.seed(random.stream().draw() + solver.rank)
    elif where.name in state["device"]:
        where.random.set_state(state["device"][where.name])
    try:
        solver.restore_state(state["solver"])
        for net, positions in ((solver.net, state["train"]), *zip(solver.test_nets, state["test"], strict=False)):
            net.restore(positions)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def _resume_values(path: str, resume: bytes) -> dict[str, Any]:
    """What ``_resume_state`` kept, random states as bytes; SnapshotError if it cannot be read."""
    try:
        state = json.loads(resume)
        state["random"] = base64.b64decode(state["random"])
        state["device"] = {name: base64.b64decode(text) for name, text in state["device"].items()}
        solver = state["solver"]
        sound = (
            all(isinstance(value, (int, float)) for value in solver["losses"])
            and isinstance(solver["stored"], int) and solver["stored"] >= 0
            and isinstance(solver["minimum_loss"], (int, float)) and isinstance(solver["last_event"], int)
            and all(isinstance(positions, dict) for positions in (state["train"], *state["test"]))
        )  # fmt: skip
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(path, str(error)) from error
    if not sound:
        raise _damaged(path, "a value is not of its kind")
    return state


def _damaged(path: str, problem: str) -> SnapshotError:
    return SnapshotError(
        f"solver state {path}: its minicaffe_state is damaged ({problem}); resume from another snapshot"
    )


State = tuple[int, str, int, list[NDArray], "bytes | None"]


def _read_binary(path: str) -> State:
    message = read_binary(path, proto.SolverState, "solver state", SnapshotError)
    resume = message.minicaffe_state if message.HasField("minicaffe_state") else None
    return message.iter, message.learned_net, message.current_step, [blob_to_array(b) for b in message.history], resume


def _read_hdf5(path: str) -> State:
    try:
        entries = hdf5.entries(path)
        missing = [name for name in ("iter", "current_step", "history") if name not in entries]
        if missing:
            raise DataError(f"HDF5 file {path}: no solver state: it has no {', '.join(missing)}")
        count = sum(name.startswith("history/") for name in entries)
        names = ["iter", "current_step", *(f"history/{k}" for k in range(count))]
        optional = [name for name in ("learned_net", "minicaffe_state") if name in entries]
        iteration, step, *rest = hdf5.read(path, [*names, *optional])
        history, others = rest[:count], dict(zip(optional, rest[count:], strict=True))
        return (
            _number(iteration, "iter"), _text(others.get("learned_net", b"")), _number(step, "current_step"),
            [_numbers(values) for values in history], _content(others.get("minicaffe_state")),
        )  # fmt: skip
    except DataError as error:
        raise SnapshotError(f"solver state: {error}") from None


def _number(values: Any, name: str) -> int:
    if not isinstance(values, np.ndarray) or values.size != 1 or values.dtype.kind not in "iu":
        raise DataError(f"its {name} must be one whole number")
    return int(values.reshape(-1)[0])


def _numbers(values: Any) -> NDArray:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise DataError("its history must hold numbers")
    return values


def _content(values: Any) -> bytes | None:
    return values.tobytes() if isinstance(values, np.ndarray) else values


def _text(values: Any) -> str:
    return os.fsdecode((_content(values) or b"").rstrip(b"\0"))


def _find_model(learned_net: str, state_path: str) -> str:
    """The weights a state names: as written, or else beside the state, where a moved run has them; SnapshotError if
    neither.
    """
    beside = os.path.join(os.path.dirname(state_path), os.path.basename(learned_net))
    for path in (learned_net, beside):
        if os.path.exists(path):
            return path
    raise SnapshotError(
        f"solver state {state_path}: the weights that it goes with, {learned_net}, are not there (seen from {os.getcwd()}), "
        "nor beside it; copy them beside it"
    )
