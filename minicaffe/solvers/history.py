"""A training's history: what it reported, in a table that later trainings of the same prefix go on with."""

from __future__ import annotations

import csv
import io
import logging
import math
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
    again, and move to ``PREFIX_log_superseded.csv``; so no iteration of a training is told twice, and no number is
    lost.  ``read`` and ``runs`` give the rows back.

    Raises SnapshotError in ``begin`` for a file that is no such table; later a file that cannot be written is a
    warning.
    """

    name = "history"

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = "" if path is None else os.fspath(path)
        self._solver: Solver | None = None
        self._first: int | None = None  # of this training's rows, among those of the file
        self._count, self._checksum, self._seconds = 0, 0, 0.0
        self._since = time.monotonic()

    # --- beginning and going on ----------------------------------------------------------------------------------

    def begin(self, solver: Solver) -> None:
        self.path = self.path or log_of(solver.param.snapshot_prefix)
        rows = read(self.path) if os.path.exists(self.path) else []
        if solver.restored_from is not None:
            rows = self._go_on(rows, solver.iter)
        else:
            self._first = len(rows)
        self._count, self._checksum = len(rows), _checksum(rows)
        self._since = time.monotonic() - self._seconds
        self._solver = solver

    def _go_on(self, rows: list[Row], iteration: int) -> list[Row]:
        """Leave the rows from before the snapshot, which was taken at ``iteration``; move the others."""
        if self._first is None or _checksum(rows[: self._count]) != self._checksum:  # what wrote it kept no history
            newest = runs(rows)
            self._first, self._count = len(rows) - len(newest[-1]) if newest else 0, len(rows)
            done = [row.seconds for row in rows[self._first :] if row.iteration < iteration]
            self._seconds = done[-1] if done else 0.0
        again = (i for i in range(self._first, self._count) if rows[i].iteration >= iteration)
        stop = next(again, self._count)
        if superseded := rows[stop:]:
            _append(superseded_log(self.path), superseded)
            write_atomic(self.path, (_HEADER + _text(rows[:stop])).encode(errors="surrogateescape"))
        return rows[:stop]

    def state(self) -> dict[str, Any]:
        first, count, checksum = self._first, self._count, self._checksum
        return {"first": first, "rows": count, "checksum": checksum, "seconds": self._now()}

    def restore(self, state: dict[str, Any]) -> None:
        count, checksum, seconds = int(state["rows"]), int(state["checksum"]), float(state["seconds"])
        first = None if state["first"] is None else int(state["first"])
        if not 0 <= (first or 0) <= count or not 0 <= seconds < math.inf:
            raise ValueError("a history's length")
        self._first, self._count, self._checksum, self._seconds = first, count, checksum, seconds

    def _now(self) -> float:
        return round(time.monotonic() - self._since, 3)

    # --- rows ----------------------------------------------------------------------------------------------------

    def display(self, iteration: int, loss: float, outputs: list[Scalar], rate: float) -> None:
        self._add(iteration, "train", 0, [Scalar(SMOOTHED_LOSS, loss), *outputs], rate)

    def test(self, iteration: int, net: int, outputs: list[Scalar], loss: float | None) -> None:
        assert self._solver is not None
        self._add(iteration, "test", net, outputs, self._solver.lr)

    def _add(self, iteration: int, phase: str, net: int, outputs: Sequence[Scalar], rate: float) -> None:
        assert self._solver is not None
        seconds, lr = self._now(), float(str(self._solver.net.dtype.type(rate)))  # a float32 as it is written, 0.1
        rows = [
            Row(iteration, phase, net, name, output.value, lr, seconds)
            for name, output in zip(distinct_names(outputs), outputs, strict=True)
        ]
        try:
            _append(self.path, rows)
        except SnapshotError as error:
            _log.warning("%s: these numbers are missing there: iteration %d, %s", error, iteration, phase)
            return
        self._count += len(rows)
        self._checksum = _checksum(rows, self._checksum)


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


def _checksum(rows: Iterable[Row], before: int = 0) -> int:
    return zlib.crc32(_text(rows).encode(errors="surrogateescape"), before)


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
