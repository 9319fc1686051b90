"""What a person sees of a training: in a terminal, and in a log afterwards."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from minicaffe.glog import GlogFormatter
from minicaffe.solvers import Monitor, Scalar, Solver

if TYPE_CHECKING:
    from typing import Self

    from rich.console import Console
    from rich.progress import Progress

_log = logging.getLogger(__name__)

_REFRESH = 0.5  # seconds between two looks at the loss, each of which waits for the device
_NOTHING = logging.CRITICAL + 1  # a level above all


class ProgressBar(Monitor):
    """A bar with iteration, iterations a second, time left, loss and test scores; what is reported scrolls above it."""

    def __init__(self, progress: Progress, solver: Solver) -> None:
        self._progress = progress
        self._task = progress.add_task(
            "", total=solver.param.max_iter, completed=solver.iter, speed="", loss="", test=""
        )
        self._looked_at = 0.0

    @classmethod
    @contextlib.contextmanager
    def shown(cls, console: Console, solver: Solver) -> Iterator[ProgressBar]:
        """The bar for ``solver`` on ``console``, for the length of a block."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            MofNCompleteColumn(),
            BarColumn(None),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("[bold]{task.fields[loss]}"),
            TextColumn("{task.fields[test]}", markup=False),
        )
        with Progress(*columns, console=console) as progress:
            yield cls(progress, solver)

    def iteration(self, solver: Solver) -> None:
        self._progress.update(self._task, completed=solver.iter)
        now = time.monotonic()
        if now - self._looked_at >= _REFRESH:
            self._looked_at = now
            speed = self._progress.tasks[0].speed or 0
            self._progress.update(self._task, speed=f"{speed:.3g} it/s", loss=f"loss {solver.smoothed_loss:.4g}")

    def display(self, iteration: int, loss: float, outputs: list[Scalar], rate: float) -> None:
        self._say(f"iteration {iteration}: loss {loss:.4g}, lr {rate:.4g}")

    def test(self, iteration: int, net: int, outputs: list[Scalar], loss: float | None) -> None:
        scores = ", ".join(f"{output.name} {output.value:.4g}" for output in outputs)
        self._progress.update(self._task, test=f"test {scores}")
        self._say(f"iteration {iteration}: test net #{net}: {scores}")

    def snapshot(self, model: str, state: str) -> None:
        self._say(f"snapshot: {state}")

    def _say(self, text: str) -> None:
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


class TextLog(Monitor):
    """Adds what is logged to a file, in Caffe's lines, whatever of it is shown: while used as a context manager.

    The file is opened when the solver begins to work, and gets what was logged until then, too: a training that fails
    before leaves none.  Where it cannot be written, a warning says so, and it ends there.
    """

    def __init__(self, path: str) -> None:
        self._lines = _Lines(path)
        self._shown = logging.NOTSET  # the level of the log outside

    def __enter__(self) -> Self:
        logger = logging.getLogger("minicaffe")
        self._shown = logger.level
        for other in logger.handlers:
            other.setLevel(max(other.level, self._shown))
        self._lines.setLevel(min(self._shown, logging.INFO))
        logger.addHandler(self._lines)
        logger.setLevel(self._lines.level)
        return self

    def begin(self, solver: Solver) -> None:
        self._lines.begin()

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("minicaffe")
        logger.setLevel(self._shown)
        logger.removeHandler(self._lines)
        self._lines.close()


class _Lines(logging.Handler):
    """Caffe's lines, kept until there is reason to write a file."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.setFormatter(GlogFormatter())
        self._path = path
        self._kept = ""
        self._file: IO[str] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self._kept += self.format(record) + "\n"
        if self._file is not None:
            self._write()

    def begin(self) -> None:
        """Write what was kept, and from now on each line at once."""
        if self._file is None and self.level < _NOTHING:
            try:
                self._file = open(self._path, "a", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
            except OSError as error:
                self._give_up(error)
            else:
                self._write()

    def _write(self) -> None:
        assert self._file is not None
        try:
            self._file.write(self._kept)
            self._file.flush()
        except OSError as error:
            self._give_up(error)
        self._kept = ""

    def _give_up(self, error: OSError) -> None:
        self.setLevel(_NOTHING)
        _log.warning("The log %s ends here: cannot write it: %s", self._path, error.strerror)

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # the rest of what could not be written
                self._file.close()
        super().close()
