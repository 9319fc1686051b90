"""Logs of a training, Caffe's or ours, as tables: what Caffe's ``parse_log`` and ``extract_seconds`` read in them."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from minicaffe import limits
from minicaffe.errors import DataError
from minicaffe.proto.atomic import write_atomic

Path = str | os.PathLike[str]
Row = dict[str, float]
"""NumIters, Seconds, LearningRate, then the outputs by name."""

_ITERATION = re.compile(r"Iteration (\d+)")
_NUMBER = r"[-+]?(?:[\d.]+(?:[eE][-+]?\d+)?|nan|inf)"
_OUTPUT = re.compile(rf"(Train|Test) net output #\d+: (\S+) = ({_NUMBER})")
_RATE = re.compile(rf"\blr = ({_NUMBER})")
_LOSS = re.compile(rf", loss = ({_NUMBER})")


class Point(NamedTuple):
    """A number that was logged, when the training had done so many iterations and lasted so many seconds."""

    iteration: int
    seconds: float
    value: float


@dataclass
class TrainingLog:
    """What a log tells: a row for each time that the training net's and the test net's outputs were shown, the
    smoothed loss, and the learning rate.

    Caffe's ``parse_log``: a row's LearningRate is the last one that was logged before it.  As Caffe logs the rate after
    the outputs, that is the rate of the row before; the first row gets the second one's.  ``rates`` has each at its
    own iteration.
    """

    train: list[Row] = field(default_factory=list)
    test: list[Row] = field(default_factory=list)
    losses: list[Point] = field(default_factory=list)
    rates: list[Point] = field(default_factory=list)


class _Rows:
    """The rows of one net: one begins with the first output of a new iteration, and ends when it has as many columns
    as the first.
    """

    def __init__(self) -> None:
        self.done: list[Row] = []
        self._open: Row | None = None

    def add(self, name: str, value: float, start: Row) -> None:
        if self._open is None or self._open["NumIters"] != start["NumIters"]:
            if self._open is not None:
                self.done.append(self._open)
            self._open = dict(start)
        self._open[name] = value

    def close_if_full(self) -> None:
        if self._open is not None and self.done and len(self._open) == len(self.done[0]):
            self.done.append(self._open)
            self._open = None

    def finished(self, first_rate: float) -> list[Row]:
        """All whole rows, also the only one of a log that shows one iteration, which Caffe loses."""
        if self._open is not None and not self.done:
            self.done.append(self._open)
        if self.done:
            self.done[0]["LearningRate"] = self.done[1]["LearningRate"] if len(self.done) > 1 else first_rate
        return self.done


def parse(path: Path) -> TrainingLog:
    """Read the log of a training.

    Lines without a time, and such as are cut short, are passed over.  Raises DataError: a file that cannot be read, or
    that holds no log of a training.
    """
    times, lines = _Times(path), _lines(path)
    start, lines = times.start(lines)
    result, rows = TrainingLog(), {"Train": _Rows(), "Test": _Rows()}
    iteration, rate = -1, float("nan")
    for line in lines:
        if match := _ITERATION.search(line):
            iteration = int(match[1])
        when = times.of(line) if iteration >= 0 else None
        if when is None:
            continue
        seconds = (when - start).total_seconds()
        if match := _LOSS.search(line):
            result.losses.append(Point(iteration, seconds, float(match[1])))
        if match := _RATE.search(line):
            rate = float(match[1])
            result.rates.append(Point(iteration, seconds, rate))
        if match := _OUTPUT.search(line):
            begin = {"NumIters": float(iteration), "Seconds": seconds, "LearningRate": rate}
            rows[match[1]].add(match[2], float(match[3]), begin)
        for each in rows.values():
            each.close_if_full()
    first_rate = result.rates[0].value if result.rates else rate
    result.train, result.test = (rows[name].finished(first_rate) for name in ("Train", "Test"))
    return result


def elapsed(path: Path) -> list[float]:
    """The seconds from the start of a training to each line that names an iteration, as ``extract_seconds`` gives
    them; DataError as ``parse``.
    """
    times, lines = _Times(path), _lines(path)
    start, lines = times.start(lines)
    found = (times.of(line) for line in lines if "Iteration" in line)
    return [(when - start).total_seconds() for when in found if when is not None]


class _Times:
    """The times of glog's lines: ``I20261122 11:03:17.362687``, or without the year, as before glog 0.6; then
    the first is that of the file, and another begins where the month goes back.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._year = datetime.fromtimestamp(os.path.getctime(path)).year
        self._month = 0

    def start(self, lines: list[str]) -> tuple[datetime, list[str]]:
        """When the training started, and the lines from then on: at the first line that says "Solving", or in a log
        whose beginning is missing at the first one that has a time.
        """
        for sign in ("Solving", "Iteration"):
            for i, line in enumerate(lines):
                if sign in line and (when := self.of(line)) is not None:
                    return when, lines[i:]
        raise DataError(
            f"{os.fspath(self._path)}: Start time not found: expected the log of a training, with a line "
            "'I1122 11:03:17.362687 2607 solver.cpp:289] Solving LeNet'; "
            "what a training logs is written to stderr: minicaffe train ... 2>&1 | tee train.log"
        )

    def of(self, line: str) -> datetime | None:
        """A line's time, or None if it has none."""
        match = re.match(r"[IWEF](\d{4})?(\d\d)(\d\d) (\d\d):(\d\d):(\d\d)\.(\d{6})\b", line)
        if match is None:
            return None
        month, day, hour, minute, second, micro = map(int, match.groups()[1:])
        year = int(match[1]) if match[1] else self._year + (month < self._month)
        with contextlib.suppress(ValueError):
            when = datetime(year, month, day, hour, minute, second, micro)
            self._year, self._month = year, month
            return when
        return None


def _lines(path: Path) -> list[str]:
    try:
        return limits.read_file(path, times=8).decode(errors="replace").splitlines(keepends=True)
    except OSError as error:
        raise DataError(f"log {os.fspath(path)} cannot be read: {error.strerror}") from None


def write_table(path: Path, rows: Iterable[Row], delimiter: str = ",") -> None:
    """Write rows as CSV under a header, whole or not at all; what a row lacks is left empty.
    SnapshotError if the file cannot be written.
    """
    rows = list(rows)
    text = io.StringIO()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())


# --- charts -----------------------------------------------------------------------------------------------------------

CHARTS = (
    "Test accuracy  vs. Iters",
    "Test accuracy  vs. Seconds",
    "Test loss  vs. Iters",
    "Test loss  vs. Seconds",
    "Train learning rate  vs. Iters",
    "Train learning rate  vs. Seconds",
    "Train loss  vs. Iters",
    "Train loss  vs. Seconds",
)
"""What Caffe's ``plot_training_log`` draws, by its number."""


def points(log: TrainingLog, chart: int) -> list[tuple[float, float]]:
    """The points (x, y) of a chart of ``CHARTS``.

    Test accuracy and test loss are the first outputs with "acc" and "loss" in their names, in any case of letters.
    Caffe takes outputs #0 and #1, whatever they are.
    """
    what, _, axis = CHARTS[chart].partition("  vs. ")
    if what.startswith("Test"):
        word = "acc" if what.endswith("accuracy") else "loss"
        names = dict.fromkeys(name for row in log.test for name in list(row)[3:] if word in name.lower())
        name = next(iter(names), None)
        found = [Point(int(row["NumIters"]), row["Seconds"], row[name]) for row in log.test if name in row]
    else:
        found = log.rates if what.endswith("rate") else log.losses
    return [(point.iteration if axis == "Iters" else point.seconds, point.value) for point in found]
