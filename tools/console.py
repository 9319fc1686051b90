"""Where a command's messages go: a terminal with a progress bar, or lines that Caffe's log parsers read."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from minicaffe import compat
from minicaffe.glog import GlogFormatter

if TYPE_CHECKING:
    from rich.console import Console

_terminal: Console | None = None


def terminal() -> Console | None:
    """The terminal to draw on, or None where messages are plain lines (stderr is a file or a pipe) or not wanted."""
    return _terminal


@contextlib.contextmanager
def messages(quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Show minicaffe's log on stderr for the length of a block.

    A pipe gets all that Caffe logs; a terminal what is meant for a person, unless ``verbose``.  ``quiet`` leaves
    warnings.
    """
    global _terminal
    logger = logging.getLogger("minicaffe")
    handler: logging.Handler
    if sys.stderr.isatty() and compat.have("rich"):
        handler = _TerminalHandler()
        if not verbose:
            handler.addFilter(_for_people)
        if not quiet:
            _terminal = handler.console
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(GlogFormatter())
    level = logger.level
    logger.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        _terminal = None


def _for_people(record: logging.LogRecord) -> bool:
    """Warnings, what the commands say, what concerns the whole package (a first compilation), and downloads."""
    return (
        record.levelno >= logging.WARNING
        or record.name in ("minicaffe", "minicaffe.data.fetch")
        or record.name.startswith("minicaffe.tools")
    )


class _TerminalHandler(logging.Handler):
    """Prints messages above a progress bar, warnings in colour."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console

        self.console = Console(stderr=True)

    def emit(self, record: logging.LogRecord) -> None:
        style = (
            "bold red" if record.levelno >= logging.ERROR else "yellow" if record.levelno >= logging.WARNING else None
        )
        self.console.print(self.format(record), style=style, markup=False, highlight=False, soft_wrap=True)
