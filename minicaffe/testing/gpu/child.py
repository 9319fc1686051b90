"""One part in this process: a line of JSON in the journal before each check and after it, whatever happens then."""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minicaffe.errors import MinicaffeError, MissingExtraError
from minicaffe.testing.gpu import parts, requirements
from minicaffe.testing.gpu.checks import FAILED, PASSED, SKIPPED, Check, Options, Skip, checkout

LOST = 77
"""Exit status: the device answers no more in this process, so another has to go on."""

_LONGEST = 600  # characters of a problem


class Journal:
    """What has been checked so far, kept even if the process is killed in the next moment."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def write(self, **row: Any) -> None:
        """One line."""
        with self._path.open("a") as file:
            file.write(json.dumps(row, default=str) + "\n")


def main(order: str) -> int:
    """Run what a runner asks for in the JSON file ``order``; the exit status."""
    asked = json.loads(Path(order).read_text())
    options, journal = Options(**asked["options"]), Journal(asked["journal"])
    root = checkout()
    if root is not None:
        sys.path += [str(folder) for folder in (root, root / "tests") if str(folder) not in sys.path]
    if options.stand_in:
        importlib.import_module(options.stand_in).install()
    module = importlib.import_module(parts.named(asked["part"]).module)
    return run(module.checks(options), options, journal, set(asked["done"]), asked["end"])


def run(checks: Iterable[Check], options: Options, journal: Journal, done: set[str], end: float) -> int:
    """Run the checks that are not done, until ``end`` (seconds since 1970)."""
    for number, check in enumerate(checks):
        if check.name in done or not options.takes(number, check):
            continue
        if time.time() > end:
            journal.write(stopped=check.name)
            return 0
        journal.write(begin=check.name)
        started = time.perf_counter()
        state, problem, figures, error = _outcome(check)
        journal.write(check=check.name, state=state, problem=problem, figures=figures,
                      seconds=round(time.perf_counter() - started, 4))  # fmt: skip
        if state == FAILED and not isinstance(error, MinicaffeError) and _device_is_lost():
            return LOST
    journal.write(complete=True)
    return 0


def _outcome(check: Check) -> tuple[str, str, dict[str, Any], Exception | None]:
    """State, problem, figures, and the exception behind the problem."""
    try:
        return PASSED, "", check.run() or {}, None
    except (Skip, MissingExtraError) as reason:
        return SKIPPED, str(reason), {}, reason
    except ModuleNotFoundError as error:
        if error.name in {package.module for package in (*requirements.GPU, *requirements.OPTIONAL)}:
            return SKIPPED, f"{error.name} is not installed", {}, error
        return FAILED, _told(error), {}, error
    except Exception as error:  # whatever is wrong with one check, the next is run
        return FAILED, _told(error), {}, error


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    name = "" if isinstance(error, AssertionError) and text else f"{type(error).__name__}: "
    return f"{name}{text}"[:_LONGEST]


def _device_is_lost() -> bool:
    """Whether CUDA refuses all work from here on, as after an access to an address that is not there."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return False
    try:
        event = cupy.cuda.Event()
        event.record()
        event.synchronize()
    except Exception:
        return True
    return False
