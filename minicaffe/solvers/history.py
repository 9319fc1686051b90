"""A training's history: what it reported, in a table that later trainings of the same prefix go on with."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from minicaffe.errors import SnapshotError
from minicaffe.proto.atomic import write_atomic
from minicaffe.solvers.monitor import Monitor, Scalar, distinct_names

if TYPE_CHECKING:
    from minicaffe.solvers.base import Solver

_log = logging.getLogger(__name__)

SMOOTHED_LOSS = "smoothed_loss"
"""The name of the training loss, the mean over ``average_loss`` iterations, beside the net's outputs."""


class Row(NamedTuple):
    """One number that a training reported."""

    iteration: int
    phase: str  # "train" or "test"
    net: int  # the test net's number; 0 for the training net
    output: str
    value: float
    lr: float  # at that iteration
    seconds: float  # since the training began, without what lay between its end and its resumption


class History(Monitor):
    """Writes what a training displays and tests to a CSV file, ``PREFIX_log.csv`` unless ``path`` names another.

    A row for each number, with the columns of ``Row``.  A training that begins adds its rows to those that are there.
    One that is resumed goes on where its snapshot was taken: the rows that came after are of iterations that are done
    again, and wait in ``PREFIX_log_superseded.csv`` until the same numbers are told again.  So no iteration of a
    training is told twice, and of one that goes on in another way both are kept.  ``read`` and ``runs`` give the rows.

    Of several solvers that train together, the one of rank 0 writes.

    Raises SnapshotError in ``begin`` for a file that is no such table; later a file that cannot be written is a
    warning.
    """

    name = "history"

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = "" if path is None else os.fspath(path)
        self._solver: Solver | None = None
        self._count: int | None = None  # of this training's rows; unknown where a state does not tell it
        self._checksum = 0
        self._superseded: dict[tuple, Row] = {}
        self._since = 0.0

    # --- beginning and going on ----------------------------------------------------------------------------------

    def begin(self, solver: Solver) -> None:
        self._solver = solver
        if solver.rank:
            return
        self.path = self.path or log_of(solver.param.snapshot_prefix)
        rows = read(self.path) if os.path.exists(self.path) else []
        mine: list[Row] = []
        if solver.restored_from is not None:
            stop = self._rows_before(rows, solver.iter)
            if stop < len(rows):
                _append(superseded_log(self.path), rows[stop:])
                write_atomic(self.path, (_HEADER + _text(rows[:stop])).encode(errors="surrogateescape"))
            rows = rows[:stop]
            mine = runs(rows)[-1] if rows and self._count != 0 else []
            self._superseded = {_told(row): row for row in self._waiting()}
            self._tell(rows)
            self._write_superseded()
        self._count, self._checksum = len(mine), _checksum(mine)
        self._since = time.monotonic() - (mine[-1].seconds if mine else 0.0)

    def _rows_before(self, rows: list[Row], iteration: int) -> int:
        """How many rows are older than the snapshot, which was taken at ``iteration``.

        It knows the rows that its training had added by then.  One that does not, or of which the rows are not there,
        is taken for one of the newest training.
        """
        trainings, end = runs(rows), len(rows)
        for training in reversed(trainings):
            start = end - len(training)
            if self._count and _checksum(training[: self._count]) == self._checksum:
                break
            end = start
        else:
            training, start = (trainings[-1], len(rows) - len(trainings[-1])) if trainings else ([], 0)
            if self._count == 0 and training and training[0].iteration < iteration:
                return len(rows)
        return start + sum(row.iteration < iteration for row in training)

    def state(self) -> dict[str, Any]:
        return {"rows": self._count, "checksum": self._checksum}

    def restore(self, state: dict[str, Any]) -> None:
        count, checksum = state["rows"], int(state["checksum"])
        self._count, self._checksum = None if count is None else int(count), checksum

    # --- rows ----------------------------------------------------------------------------------------------------

    def display(self, iteration: int, loss: float, outputs: list[Scalar], rate: float) -> None:
        self._add(iteration, "train", 0, [Scalar(SMOOTHED_LOSS, loss), *outputs], rate)

    def test(self, iteration: int, net: int, outputs: list[Scalar], loss: float | None) -> None:
        assert self._solver is not None
        self._add(iteration, "test", net, outputs, self._solver.lr)

    def _add(self, iteration: int, phase: str, net: int, outputs: Sequence[Scalar], rate: float) -> None:
        assert self._solver is not None
        if self._solver.rank:
            return
        seconds = round(time.monotonic() - self._since, 3)
        lr = float(str(self._solver.net.dtype.type(rate)))  # a float32 as it is written, 0.1
        rows = [
            Row(iteration, phase, net, name, output.value, lr, seconds)
            for name, output in zip(distinct_names(outputs), outputs, strict=True)
        ]
        try:
            _append(self.path, rows)
            self._tell(rows)
        except SnapshotError as error:
            _log.warning("%s: these numbers are missing there: iteration %d, %s", error, iteration, phase)
            return
        self._count = (self._count or 0) + len(rows)
        self._checksum = _checksum(rows, self._checksum)

    # --- rows that a resumed training replaces -------------------------------------------------------------------

    def _waiting(self) -> list[Row]:
        path = superseded_log(self.path)
        return read(path) if os.path.exists(path) else []

    def _tell(self, rows: Iterable[Row]) -> None:
        """These are in the table now, so that they need not wait in the other; without any left, that goes."""
        if self._superseded:
            for row in rows:
                self._superseded.pop(_told(row), None)
            if not self._superseded:
                self._write_superseded()

    def _write_superseded(self) -> None:
        path = superseded_log(self.path)
        if self._superseded:
            text = _HEADER + _text(self._superseded.values())
            write_atomic(path, text.encode(errors="surrogateescape"))
        else:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def close(self) -> None:
        if self._superseded:
            self._write_superseded()


# --- files -------------------------------------------------------------------------------------------------------


def log_of(prefix: str) -> str:
    """Where a training with this ``snapshot_prefix`` leaves its history."""
    return f"{prefix}_log.csv"


def superseded_log(path: str | os.PathLike[str]) -> str:
    """Where the rows go that a resumed training replaces."""
    stem, suffix = os.path.splitext(os.fspath(path))
    return f"{stem}_superseded{suffix}"


def read(path: str | os.PathLike[str]) -> list[Row]:
    """The rows of a history.  What a killed process or a full disk left of a last line is dropped.

    SnapshotError for a file that cannot be read, or that is no history.
    """
    path = os.fspath(path)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
            text = file.read()
    except OSError as error:
        raise SnapshotError(f"cannot read the history {path}: {error.strerror}") from None
    whole, _, rest = text.rpartition("\n")
    lines = csv.reader(io.StringIO(whole + "\n" if whole else rest, newline=""))
    try:
        header = next(lines, [])
        if not whole and _HEADER.startswith(rest):
            return []
        if header and header != list(Row._fields):
            raise ValueError(f"its columns are {','.join(header)[:200]}")
        return [_row(line) for line in lines if line]
    except (ValueError, TypeError, csv.Error) as error:
        raise SnapshotError(
            f"{path}, line {lines.line_num}: no history of a training ({error}); expected the columns "
            f"{','.join(Row._fields)}: move the file away, or take another snapshot_prefix"
        ) from None


def _row(line: list[str]) -> Row:
    iteration, phase, net, output, value, lr, seconds = line
    return Row(int(iteration), phase, int(net), output, float(value), float(lr), float(seconds))


def runs(rows: Iterable[Row]) -> list[list[Row]]:
    """The trainings that added rows to one history: another begins where the iterations do, or are told again."""
    found: list[list[Row]] = []
    seen: set[tuple[str, int, str]] = set()  # of one iteration
    for row in rows:
        what = (row.phase, row.net, row.output)
        if not found or row.iteration < found[-1][-1].iteration:
            found.append([])
            seen = set()
        elif row.iteration > found[-1][-1].iteration:
            seen = set()
        elif what in seen:
            found.append([])
            seen = set()
        found[-1].append(row)
        seen.add(what)
    return found


_HEADER = ",".join(Row._fields) + "\n"


def _text(rows: Iterable[Row]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def _told(row: Row) -> tuple:
    """What a row tells, without the time: the same each time if a training is repeated."""
    return row[:4] + tuple(map(repr, row[4:6]))  # the text, as NaN is not equal to itself


def _checksum(rows: Iterable[Row], before: int = 0) -> int:
    text = "".join(f"{_told(row)}" for row in rows)
    return zlib.crc32(text.encode(errors="surrogateescape"), before)


def _append(path: str, rows: Sequence[Row]) -> None:
    """Add rows behind what is there, in one write; a line that was cut short there goes."""
    try:
        with open(path, "ab+") as file:
            end = _end_of_last_line(file)
            file.truncate(end)
            file.write(((_HEADER if end == 0 else "") + _text(rows)).encode(errors="surrogateescape"))
    except OSError as error:
        raise SnapshotError(f"cannot write {path}: {error.strerror}") from None


def _end_of_last_line(file: io.BufferedRandom) -> int:
    end = file.seek(0, os.SEEK_END)
    for line in _tails(file, end):
        at = line[1].rfind(b"\n")
        if at >= 0:
            return line[0] + at + 1
    return 0


def _tails(file: io.BufferedRandom, end: int, size: int = 4096) -> Iterator[tuple[int, bytes]]:
    """Pieces of a file from its end on, each with its place."""
    while end:
        start = max(end - size, 0)
        file.seek(start)
        yield start, file.read(end - start)
        end = start
