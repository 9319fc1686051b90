"""Starts the parts, each in a process of its own with a time limit, and collects what their journals say."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minicaffe.testing.gpu.checks import FAILED, PASSED, SKIPPED, Options
from minicaffe.testing.gpu.child import LOST
from minicaffe.testing.gpu.parts import Part

_LOOK = 0.1  # seconds between two looks at a journal
_START = 60.0  # seconds that a process has until its first check, on top of the patience with one
_OVER = "its time was over"
_GRACE = 5.0  # seconds after its end in which a part may stop by itself


@dataclass
class Result:
    """What became of a part: rows with check, state, problem, figures and seconds."""

    part: Part
    rows: list[dict[str, Any]] = field(default_factory=list)
    problem: str = ""
    unfinished: str = ""
    seconds: float = 0.0
    processes: int = 0

    def count(self, state: str) -> int:
        """How many checks ended so."""
        return sum(row["state"] == state for row in self.rows)

    @property
    def right(self) -> bool:
        """Whether nothing failed."""
        return not self.problem and not self.count(FAILED)

    def add(self, check: str, problem: str) -> None:
        """Note a check that failed."""
        self.rows.append({"check": check, "state": FAILED, "problem": problem, "figures": {}, "seconds": None})

    def of(self, state: str) -> Iterator[dict[str, Any]]:
        """The checks that ended so."""
        return (row for row in self.rows if row["state"] == state)


def run(part: Part, options: Options, seconds: float, patience: float, stop: threading.Event | None = None) -> Result:
    """Run a part for ``seconds`` at most.  A check that crashes or takes more than ``patience`` is one that failed.

    A process that goes on starts behind it; with ``seconds`` over, or ``stop`` set, the rest stays unchecked.
    """
    stop = stop or threading.Event()
    result, started = Result(part), time.monotonic()
    end = started + seconds
    with tempfile.TemporaryDirectory(prefix="minicaffe-gpu-check-") as folder:
        while True:
            result.processes += 1
            process = _Process(
                part, options, Path(folder, str(result.processes)), _names(result), end - time.monotonic()
            )
            over = process.watch(end, patience, stop)
            result.rows += process.rows
            if not process.lost(over, result):
                break
            if time.monotonic() > end:
                result.unfinished = _OVER
                break
    result.seconds = time.monotonic() - started
    return result


def write_order(path: Path, part: Part, options: Options, journal: str, done: list[str], seconds: float) -> Path:
    """What a child is to do, in a file: the names of what is done can be more than an argument may hold."""
    order = {
        "part": part.name,
        "options": dataclasses.asdict(options),
        "journal": journal,
        "done": done,
        "end": time.time() + seconds,
    }
    path.write_text(json.dumps(order))
    return path


def _names(result: Result) -> list[str]:
    return [row["check"] for row in result.rows]


class _Process:
    """One process of a part, its journal and what it printed."""

    def __init__(self, part: Part, options: Options, base: Path, done: list[str], seconds: float) -> None:
        self.rows: list[dict[str, Any]] = []
        self._journal, self._printed = base.with_suffix(".journal"), base.with_suffix(".txt")
        self._journal.touch()
        self._read = 0
        self._begun: str | None = None
        self._since = time.monotonic()
        self._any, self.complete, self.stopped = False, False, False
        order = write_order(base.with_suffix(".order"), part, options, str(self._journal), done, seconds)
        with self._printed.open("w") as out:
            self._child = subprocess.Popen(
                [sys.executable, options.entry, "--child", str(order)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def watch(self, end: float, patience: float, stop: threading.Event) -> str:
        """Wait until the process has ended, and end it where it hangs; says why it was ended, or nothing."""
        try:
            while self._child.poll() is None:
                stop.wait(_LOOK)
                self._look()
                quiet = time.monotonic() - self._since
                if stop.is_set() or time.monotonic() > end + _GRACE:
                    self._kill()
                    return _OVER
                if quiet > patience + (0 if self._any else _START):
                    self._kill()
                    return f"it did not end within {patience:g} s"
            return ""
        finally:
            if self._child.poll() is None:  # also when the user interrupts
                self._kill()
            self._look()

    def lost(self, ended: str, result: Result) -> bool:
        """Note what the process did not live to say; whether another one is to go on behind that."""
        status = self._child.returncode
        if self.complete:
            return False
        if self.stopped or ended == _OVER:
            result.unfinished = _OVER
            return False
        if self._begun is not None:
            why = ended or f"its process crashed: {_status(status)}{self._last_words()}"
            result.add(self._begun, why)
            return True
        if status == LOST and self._any:
            return True
        result.problem = f"{ended or _status(status)}{self._last_words()}"
        return False

    def _look(self) -> None:
        """Read what is new in the journal, up to its last whole line."""
        with self._journal.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        text = text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        for line in text.splitlines():
            row = json.loads(line)
            self._since, self._any = time.monotonic(), True
            if "check" in row:
                self.rows.append(row)
            self._begun = row.get("begin")
            self.complete, self.stopped = "complete" in row, "stopped" in row

    def _kill(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver may hold on to a process whose kernel hangs
            self._child.wait(_GRACE)

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._printed.read_text(errors="replace").splitlines() if line.strip()]
        return f" ({lines[-1][:300]})" if lines else ""


def _status(status: int | None) -> str:
    """An exit status in words."""
    if status is not None and status < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-status).name
    return f"exit status {status}"


def counts(result: Result) -> str:
    """How many checks ended how."""
    words = [f"{result.count(PASSED)} passed"]
    words += [f"{result.count(state)} {state}" for state in (FAILED, SKIPPED) if result.count(state)]
    return ", ".join(words)
