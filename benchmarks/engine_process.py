"""An engine in a process of its own: its threads, which look for work for a while after each run, disturb nobody, since
a process answers only when its threads sleep; and the peak of its memory is its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engines import ENGINES
from benchmarks.memory import peak
from benchmarks.settling import settle

_MOST_SPINNING = 2.0  # seconds to wait for an engine's threads to sleep


class EngineFailure(RuntimeError):
    """An engine's process ended without an answer; its last words are on stderr."""


class EngineProcess:
    """A child that has loaded the net of a folder into an engine and run it once."""

    def __init__(self, engine: str, folder: Path, environment: Mapping[str, str], threads: int) -> None:
        self._engine, self._folder = engine, folder
        self._child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.engine_process", engine, str(folder), str(threads)],
            env=dict(environment),
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def outputs(self) -> dict[str, np.ndarray]:
        """What the net gave in the first run, by name."""
        with np.load(self._folder / f"{self._engine}.npz") as stored:
            return dict(stored)

    def latencies(self, seconds: float, least: int) -> list[float]:
        """The seconds of each of as many runs as fill ``seconds``, and of no fewer than ``least``, after one that does
        not count, since others ran before.
        """
        return self._ask({"run": seconds, "least": least})

    def peak_memory(self) -> float:
        """The most bytes that were resident so far."""
        return self._ask({"peak": True})

    def close(self) -> None:
        """End the process."""
        assert self._child.stdin is not None and self._child.stdout is not None
        self._child.stdin.close()
        self._child.wait()
        self._child.stdout.close()

    def _ask(self, question: Mapping[str, Any]) -> Any:
        assert self._child.stdin is not None
        print(json.dumps(question), file=self._child.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise EngineFailure(f"{self._engine} ended with status {self._child.wait()}")
        return json.loads(line)


def _serve(engine: str, folder: Path, threads: int) -> None:
    """Load, run once, keep the outputs, then answer questions until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    running = ENGINES[engine](folder, threads)
    np.savez(folder / f"{engine}.npz", **running.outputs())
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        answer = _latencies(running.run, question["run"], question["least"]) if "run" in question else peak()
        settle(_MOST_SPINNING)
        print(json.dumps(answer), file=answers, flush=True)


def _latencies(run: Any, seconds: float, least: int) -> list[float]:
    run()
    found: list[float] = []
    left = seconds
    while left > 0 or len(found) < least:
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
        left -= found[-1]
    return found


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
