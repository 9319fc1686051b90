"""Which snapshots a training keeps: the newest, and the one of the best test."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from minicaffe.proto.atomic import name_beside
from minicaffe.solvers.best import Best
from minicaffe.solvers.monitor import SNAPSHOT, Monitor, Scalar

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver

_log = logging.getLogger(__name__)


class Snapshot(NamedTuple):
    """One that this training wrote: its iteration, how its files end, and whether only a best test asked for it."""

    iteration: int
    suffix: str  # "" or ".h5"
    only_best: bool


class Keep(Monitor):
    """Keeps the ``newest`` snapshots and the one with the ``best`` value of a test net's output, and removes others.

    Where a test finds a better value (see ``Best`` for ``best``, ``mode`` and ``net``), a snapshot is written there and
    then, and the links ``PREFIX_best.caffemodel`` and ``PREFIX_best.solverstate`` (``.h5``) lead to it.  Without
    ``newest`` all regular snapshots stay.

    An older snapshot goes when a newer one is whole on the disk, never before.  Only what this training wrote goes,
    also before it was resumed from a snapshot at the same ``snapshot_prefix``.
    """

    name = "keep"

    def __init__(self, newest: int | None = None, best: str = "", mode: str = "", net: int = 0) -> None:
        if newest is not None and newest < 1:
            raise ValueError(f"newest: expected 1 or more; found {newest}")
        self.newest, self.best = newest, Best(best, mode, net) if best else None
        self._written: list[Snapshot] = []
        self._due = False

    def begin(self, solver: Solver) -> None:
        if self.best is not None:
            self.best.check(solver)
        self._solver, self._prefix = solver, solver.param.snapshot_prefix
        self._written = self._still_there(solver.restored_from)

    def _still_there(self, restored_from: str | None) -> list[Snapshot]:
        """Of what was written before, what a resumed training finds at its prefix: with what it was resumed from."""
        if restored_from is None:
            return self._written
        suffix = ".h5" if restored_from.endswith(".h5") else ""
        iteration = self._solver.iter
        by_best = self.best is not None and self.best.iteration == iteration
        interval = self._solver.param.snapshot
        resumed = Snapshot(iteration, suffix, by_best and not (interval and iteration % interval == 0))
        if os.path.realpath(restored_from) != os.path.realpath(self._files(resumed)[0]):
            return []
        earlier = [one for one in self._written if one.iteration < iteration and os.path.exists(self._files(one)[0])]
        return [*earlier, resumed]

    def _files(self, one: Snapshot) -> tuple[str, str]:
        """Solver state and weights."""
        stem = f"{self._prefix}_iter_{one.iteration}"
        return f"{stem}.solverstate{one.suffix}", f"{stem}.caffemodel{one.suffix}"

    def test(self, iteration: int, net: int, outputs: list[Scalar], loss: float | None) -> None:
        if self.best is not None and self.best.take(iteration, net, outputs):
            self._due = True

    def request(self) -> str | None:
        return SNAPSHOT if self._due else None

    def snapshot(self, model: str, state: str) -> None:
        iteration = self._solver.iter
        regular = any(one.iteration == iteration and not one.only_best for one in self._written)
        others = [one for one in self._written if one.iteration != iteration]
        suffix = ".h5" if state.endswith(".h5") else ""
        self._written = [*others, Snapshot(iteration, suffix, self._due and not regular)]
        self._due = False
        if self.best is not None and self.best.iteration == iteration:
            self._link_best()
        self._remove_others()

    def _link_best(self) -> None:
        """Let the links lead to the newest snapshot."""
        one = self._written[-1]
        for path, kind in zip(self._files(one), ("solverstate", "caffemodel"), strict=True):
            link = f"{self._prefix}_best.{kind}{one.suffix}"
            temporary = name_beside(os.path.abspath(link))
            try:
                os.symlink(os.path.basename(path), temporary)
                os.replace(temporary, link)
            except OSError as error:
                _log.warning("No link %s to the best snapshot, %s: %s", link, path, error.strerror)

    def _remove_others(self) -> None:
        best = self.best.iteration if self.best is not None else None
        newest = self._written[-self.newest :] if self.newest is not None else self._written[-1:]
        kept = []
        for one in self._written:
            wanted = one in newest or one.iteration == best or (self.newest is None and not one.only_best)
            if wanted:
                kept.append(one)
            else:
                for path in self._files(one):
                    _remove(path)
        self._written = kept

    @property
    def best_weights(self) -> str | None:
        """The weights file of the best test, if this training has it."""
        found = [one for one in self._written if self.best is not None and one.iteration == self.best.iteration]
        return self._files(found[0])[1] if found else None

    def state(self) -> dict[str, Any]:
        best = {} if self.best is None else {"best": self.best.state(), "of": self.best.name}
        return {"written": [list(one) for one in self._written], **best}

    def restore(self, state: dict[str, Any]) -> None:
        written = [Snapshot(int(iteration), str(suffix), bool(only)) for iteration, suffix, only in state["written"]]
        if any(one.suffix not in ("", ".h5") for one in written):
            raise ValueError("a snapshot's suffix")
        if self.best is not None and state.get("of") == self.best.name:
            self.best.restore(state["best"])
        self._written, self._due = written, False


def _remove(path: str) -> None:
    _log.info("Removing %s", path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        _log.warning("Cannot remove %s: %s", path, error.strerror)
