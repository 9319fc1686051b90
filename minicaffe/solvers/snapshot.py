"""Snapshots: weights and solver state in Caffe's files, with what else an exact resume needs.

A solver state of minicaffe also holds the random stream and the position of every data layer (a field that Caffe
skips), so that training resumes bit for bit; and the checksum of the weights that it goes with.
"""

from __future__ import annotations

import base64
import json
import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe import backend, proto, weights
from minicaffe.backend import random, ranks
from minicaffe.data import hdf5
from minicaffe.errors import DataError, MinicaffeError, SnapshotError, WeightsError
from minicaffe.parallel import Communicator
from minicaffe.proto import wire
from minicaffe.proto.files import blob_pieces, open_binary, write_binary
from minicaffe.solvers import monitor

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver

_log = logging.getLogger(__name__)


def write(solver: Solver, group: Communicator) -> tuple[str, str]:
    """Write weights, then state; returns both paths.  The files of earlier snapshots stay as they are.

    Of a ``group``, all of which call it, rank 0 writes for all: the state holds where each stands.
    """
    p = solver.param
    stem = f"{p.snapshot_prefix}_iter_{solver.iter}"
    states = group.gather(_own_state(solver))
    as_hdf5 = p.snapshot_format == proto.SolverParameter.HDF5
    model, state = (f"{stem}.{kind}{'.h5' if as_hdf5 else ''}" for kind in ("caffemodel", "solverstate"))
    if group.rank:
        return model, state
    if as_hdf5:
        _log.info("Snapshotting to HDF5 file %s", model)
        weights.save_hdf5(solver.net, model, p.snapshot_diff)
        _log.info("Snapshotting solver state to HDF5 file %s", state)
        contents: dict[str, Any] = {
            "iter": np.array([solver.iter], np.int32),
            "current_step": np.array([solver.current_step], np.int32),
            "learned_net": np.bytes_(model),
            "minicaffe_state": np.frombuffer(_resume_state(solver, weights.checksum(model), states), np.uint8),
            "history": None,
        }
        hdf5.write(state, contents | {f"history/{k}": values for k, values in enumerate(solver.history_blobs())})
    else:
        _log.info("Snapshotting to binary proto file %s", model)
        weights.save(solver.net, model, p.snapshot_diff)
        _log.info("Snapshotting solver state to binary proto file %s", state)
        resume = _resume_state(solver, weights.checksum(model), states)
        message = proto.SolverState(
            iter=solver.iter, learned_net=model, current_step=solver.current_step, minicaffe_state=resume
        )
        history = [blob_pieces(values) for values in solver.history_blobs()]
        write_binary(state, wire.with_messages(message, "history", history))
    return model, state


def _own_state(solver: Solver) -> dict[str, Any]:
    """Where random numbers and data layers of this process stand, as values that JSON can hold."""
    where = backend.current()
    return {
        "random": base64.b64encode(random.stream().get_state()).decode(),
        "device": {where.name: base64.b64encode(where.random.get_state()).decode()},
        "train": solver.net.state(),
        "test": [net.state() for net in solver.test_nets],
    }


def _resume_state(solver: Solver, checksum: str, states: list[dict[str, Any]]) -> bytes:
    """What an exact resume needs beside Caffe's fields, as JSON; ``checksum`` is that of the weights file, ``states``
    are those of the processes that train together.
    """
    others = {"others": states[1:]} if len(states) > 1 else {}
    common = {"weights": checksum, "solver": solver.state(), "monitors": monitor.states(solver.monitors)}
    return json.dumps(common | states[0] | others).encode()


class _State(NamedTuple):
    """What a solver state file holds; ``resume`` only if minicaffe wrote it."""

    iter: int
    learned_net: str
    current_step: int
    history: list[NDArray]
    resume: bytes | None


def read(solver: Solver, path: str) -> dict[str, dict[str, Any]]:
    """Put a solver where a solver state says; SnapshotError, WeightsError and DataError leave it as it was.

    Returns what the state holds for monitors that the solver has not.

    All that the file holds is checked before anything changes.  What only a data layer can tell, whether it can go on
    from its position, is tried first and taken back where it cannot.
    """
    found = _read_hdf5(path) if path.endswith(".h5") else _read_binary(path)
    for field, value in (("iter", found.iter), ("current_step", found.current_step)):
        if value < 0:
            raise SnapshotError(
                f"solver state {path}: its {field} is {value}; it is damaged: resume from another snapshot"
            )
    resume = None if found.resume is None else _resume_values(path, found.resume)
    targets = solver.history_blobs()
    history = _fitting_history(solver, path, found.history, targets)
    load = None
    if found.learned_net:
        load = weights.prepare(
            solver.net, _find_model(found.learned_net, path, resume.get("weights") if resume else None)
        )
    if resume is not None:
        _go_on(solver, path, resume)
    else:
        _log.warning(
            "%s was not written by minicaffe: data layers start from the first record, random numbers anew", path
        )
    if load is not None:
        load()
    for values, target in zip(history, targets, strict=True):
        target[...] = values
    solver.iter, solver.schedule.current_step = found.iter, found.current_step
    return resume["monitors"] if resume else {}


def _fitting_history(solver: Solver, path: str, found: list[NDArray], targets: list[NDArray]) -> list[NDArray]:
    """The history in the solver's own shapes and dtype; SnapshotError if it is that of another solver or net."""
    if len(found) != len(targets):
        raise SnapshotError(
            f"solver state {path}: Incorrect length of history blobs: found {len(found)}, expected {len(targets)} for "
            "a "
            f"{solver.type} solver of net '{solver.net.name}'; resume with the solver and net that wrote it"
        )
    fitting = []
    for k, (values, target) in enumerate(zip(found, targets, strict=True)):
        if values.size != target.size or values.dtype.kind not in "fiu":
            raise SnapshotError(
                f"solver state {path}: history blob {k} has shape {values.shape} ({values.dtype}), expected "
                f"{target.shape} ({target.dtype}); resume with the net that wrote it"
            )
        fitting.append(values.astype(target.dtype, copy=False).reshape(target.shape))
    return fitting


def _go_on(solver: Solver, path: str, resume: dict[str, Any]) -> None:
    """Set random numbers, data layers and losses to where the state was taken, or leave all of them as they are."""
    where, nets = backend.current(), [solver.net, *solver.test_nets]
    streams = random.stream().get_state(), where.random.get_state()
    before = [net.state() for net in nets]
    monitors_before = monitor.states(solver.monitors)
    states = [resume, *resume["others"]]
    own = states[solver.rank % len(states)]
    if len(states) != ranks.solver_count() and solver.rank == 0:
        _log.warning(
            "%s was written by %d process(es) that trained together, and %d go on: from the same record, with %d / %d "
            "of the records a step, and random numbers of their own",
            path, len(states), ranks.solver_count(), ranks.solver_count(), len(states),
        )  # fmt: skip
    try:
        random.stream().set_state(own["random"])
        if solver.rank >= len(states):  # the state is that of another process, and each draws numbers of its own
            random.seed(random.stream().draw() + solver.rank)
        elif where.name in own["device"]:
            where.random.set_state(own["device"][where.name])
        for net, position in zip(nets, [own["train"], *own["test"]], strict=False):
            net.restore(position)
            if solver.rank >= len(states):
                net.draw_anew()
        monitor.restore(solver.monitors, resume["monitors"])
    except Exception as error:
        random.stream().set_state(streams[0])
        where.random.set_state(streams[1])
        for net, position in zip(nets, before, strict=True):
            net.restore(position)
        monitor.restore(solver.monitors, monitors_before)
        if isinstance(error, MinicaffeError):
            raise type(error)(f"solver state {path}: {error}") from error
        raise _damaged(path, repr(error)) from error
    solver.restore_state(resume["solver"])


def _resume_values(path: str, resume: bytes) -> dict[str, Any]:
    """What ``_resume_state`` kept, random states as bytes; SnapshotError if it cannot be read."""
    try:
        state = json.loads(resume)
        owns = [state, *state.setdefault("others", [])]
        for own in owns:
            own["random"] = base64.b64decode(own["random"], validate=True)
            own["device"] = {name: base64.b64decode(text, validate=True) for name, text in own["device"].items()}
        positions = [position for own in owns for net in (own["train"], *own["test"]) for position in net.values()]
        solver = state["solver"]
        scale = solver.get("loss_scale", [1, 0, 0, 0])
        numbers = [solver["stored"], solver["last_event"], solver["minimum_loss"], *solver["losses"], *scale]
        sound = (
            all(isinstance(number, (int, float)) for number in numbers)
            and all(isinstance(number, int) and number >= 0 for number in numbers[:2])
            and all(isinstance(position, dict) for position in positions)
            and len(scale) == 4
            and isinstance(state.get("weights"), (str, type(None)))
            and all(isinstance(kept, dict) for kept in state.setdefault("monitors", {}).values())
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, repr(error)) from None
    if not sound:
        raise _damaged(path, "a value is of another kind than expected")
    return state


def _damaged(path: str, problem: str) -> SnapshotError:
    return SnapshotError(
        f"solver state {path}: its minicaffe_state is damaged ({problem}); resume from another snapshot"
    )


def _read_binary(path: str) -> _State:
    lifted = open_binary(path, proto.SolverState, "solver state", SnapshotError)
    message, history = lifted.message, []
    for k, blob in enumerate(message.history):
        try:
            history.append(lifted.values(blob).array())
        except WeightsError as error:
            raise SnapshotError(
                f"solver state {path}: history blob {k} is damaged: {error}; resume from another snapshot"
            ) from None
    resume = message.minicaffe_state if message.HasField("minicaffe_state") else None
    return _State(message.iter, message.learned_net, message.current_step, history, resume)


def _read_hdf5(path: str) -> _State:
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
        return _State(
            _number(iteration, "iter"), _text(others.get("learned_net", b"")), _number(step, "current_step"),
            [_numbers(values) for values in history], _content(others.get("minicaffe_state")),
        )  # fmt: skip
    except DataError as error:
        raise SnapshotError(f"solver state {path}: {error}") from None


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


def _find_model(learned_net: str, state_path: str, checksum: str | None) -> str:
    """The weights a state names: as written, or else beside the state, where a moved run has them.

    ``checksum`` tells them from others of that name, of another training; states of Caffe have none.  SnapshotError if
    they are in neither place.
    """
    beside = os.path.join(os.path.dirname(state_path), os.path.basename(learned_net))
    there = [path for path in dict.fromkeys((learned_net, beside)) if os.path.exists(path)]
    if not there:
        raise SnapshotError(
            f"solver state {state_path}: the weights that it goes with, {learned_net}, are not there (seen from "
            f"{os.getcwd()}), nor beside it; copy them beside it"
        )
    for path in there:
        if checksum is None or weights.checksum(path) == checksum:
            return path
    raise SnapshotError(
        f"solver state {state_path}: {' and '.join(there)} is truncated or changed since the state was written, or "
        "belongs "
        f"to another training: expected a file with SHA-256 {checksum}; resume from another snapshot, or start from "
        "the weights "
        "alone (--weights)"
    )
