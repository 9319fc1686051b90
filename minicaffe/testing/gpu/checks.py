"""What a check is, and what all checks of a run know."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import minicaffe

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Skip(Exception):
    """Raised by a check that means nothing here; its text says why."""


class Check(NamedTuple):
    """A named check; ``run`` raises what is wrong, and returns figures to keep, or None.

    ``always``: it is no sample of many like it, so that ``--every`` does not leave it out.
    """

    name: str
    run: Callable[[], dict[str, Any] | None]
    always: bool = False


@dataclass(frozen=True)
class Options:
    """What the command line asks of all parts.

    ``entry`` is the file that starts a child.  ``every``: each Nth check is run; ``match``: those whose names fit one
    of these patterns, with commas between them.  ``bare``: arrays without guards, for compute-sanitizer.
    """

    entry: str
    gpu: int = 0
    every: int = 1
    match: str = ""
    stand_in: str = ""
    bare: bool = False

    @property
    def whole(self) -> bool:
        """Whether all checks of a part are run."""
        return self.every == 1 and not self.match

    def takes(self, number: int, check: Check) -> bool:
        """Whether the check of this number is to be run."""
        patterns = self.match.split(",") if self.match else []
        if patterns and not any(fnmatch.fnmatchcase(check.name, pattern.strip()) for pattern in patterns):
            return False
        return check.always or number % self.every == 0

    @property
    def small(self) -> bool:
        """Whether sizes are to suit a stand-in for a GPU."""
        return bool(self.stand_in)


def checkout() -> Path | None:
    """The checkout that this minicaffe runs from, or None for one that was installed as a wheel."""
    root = Path(minicaffe.__file__).resolve().parent.parent
    there = all((root / name).is_dir() for name in ("tests/golden", "tests/layer_cases", "benchmarks"))
    return root if there else None
