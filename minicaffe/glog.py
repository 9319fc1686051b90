"""Log lines shaped as Caffe's (glog): what scripts that read Caffe's logs expect; and who sees them.

Everything is logged through Python's ``logging``, below the logger "minicaffe".  As long as a program says nothing
about logging, solvers show on stderr what Caffe's do, and everything else its warnings.
"""

from __future__ import annotations

import logging
import os
import sys
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from minicaffe import compat
from minicaffe.errors import ArgumentError

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:
    _StreamHandler = logging.StreamHandler  # which takes no type before Python 3.11

_LETTER = {logging.WARNING: "W", logging.ERROR: "E", logging.CRITICAL: "F"}
_LEVELS = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)  # by glog's numbers
_SHOWN_BY_DEFAULT = "minicaffe.solvers"


class GlogFormatter(logging.Formatter):
    """``I1122 22:20:01.123456 12345 base.py:123] message``: severity, month and day, time, process, source line."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created)
        letter = _LETTER.get(record.levelno, "I")
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return f"{letter}{when:%m%d %H:%M:%S.%f} {record.process:5d} {record.filename}:{record.lineno}] {text}"


class _ToStderr(_StreamHandler):
    """Glog lines to what ``sys.stderr`` is at the time."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(GlogFormatter())

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def _is_shown_by_default(record: logging.LogRecord) -> bool:
    """Warnings; what a program logs itself; what solvers say, unless a notebook shows how far they are."""
    of_solver = record.name.startswith(_SHOWN_BY_DEFAULT) and compat.notebook() is None
    return record.levelno >= logging.WARNING or record.name == _logger.name or of_solver


_logger = logging.getLogger("minicaffe")
_asked_for = _ToStderr()
_default = _ToStderr()
_default.addFilter(_is_shown_by_default)


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Show on stderr what minicaffe logs, in the form of Caffe's lines, from a level on.

    ``level``: 0 for everything, 1 for warnings, 2 for errors, 3 for nothing but what ends the process.  Without
    ``stderr`` only errors are shown; Caffe writes the rest to files below /tmp.  It can be called again.
    """
    if level not in range(len(_LEVELS)):
        raise ArgumentError(f"init_log: level is 0 (everything), 1 (warnings), 2 (errors) or 3; found {level!r}")
    _logger.removeHandler(_default)
    _logger.setLevel(_LEVELS[level])
    _asked_for.setLevel(logging.NOTSET if stderr else logging.ERROR)
    _logger.addHandler(_asked_for)


def set_logging_disabled() -> None:
    """Show nothing but what ends the process, as FlowNet's fork of Caffe does."""
    init_log(3)


def log(message: str) -> None:
    """Log a message of one's own."""
    by_default()
    _logger.info("%s", message, stacklevel=2)


def by_default() -> None:
    """Show on stderr what is shown as long as the program says nothing about logging; no longer once it did.

    ``GLOG_minloglevel`` in the environment is the level, as of ``init_log``.
    """
    told = bool(logging.getLogger().handlers) or any(handler is not _default for handler in _logger.handlers)
    shown = _default in _logger.handlers
    if told and shown:
        _logger.removeHandler(_default)
        _logger.setLevel(logging.NOTSET)
    elif not told and not shown and _logger.level == logging.NOTSET:
        _logger.addHandler(_default)
        wanted = os.environ.get("GLOG_minloglevel", "0")  # noqa: SIM112
        _logger.setLevel(_LEVELS[min(int(wanted), len(_LEVELS) - 1)] if wanted.isdigit() else logging.INFO)
