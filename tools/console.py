"""Where a command's messages go, a terminal with a progress bar or lines that Caffe's log parsers read; its results."""

from __future__ import annotations

import contextlib
import getpass
import json
import logging
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from minicaffe import compat
from minicaffe.errors import MinicaffeError
from minicaffe.glog import GlogFormatter

if TYPE_CHECKING:
    from rich.console import Console

_results = logging.getLogger("minicaffe.results")

_SEVERITIES = (logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)  # glog's 0 to 3

_terminal: Console | None = None
_caffes_lines = False  # whether stderr gets them


def terminal() -> Console | None:
    """The terminal to draw on, or None where messages are plain lines (stderr is a file or a pipe) or not wanted."""
    return _terminal


def result(text: str) -> None:
    """Print a line of what a command has found out: to stdout, whatever is logged.

    A log holds it too, as Caffe's does; where the log goes to the same file as stdout it is written there once.
    """
    _results.info("%s", text, stacklevel=2)
    if not (_caffes_lines and _results.isEnabledFor(logging.INFO) and _one_stream()):
        click.echo(text)


def result_as_json(value: Any) -> None:
    """Print what a command has found out as JSON on stdout; numbers that are not finite as null."""
    click.echo(json.dumps(_finite(value), indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _one_stream() -> bool:
    """Whether stdout and stderr are one file or pipe."""
    try:
        return os.path.sameopenfile(sys.stdout.fileno(), sys.stderr.fileno())
    except (OSError, ValueError):  # not files of the system's, or closed
        return False


@contextlib.contextmanager
def messages(
    severity: int = 0, verbose: bool = False, folder: str | None = None, plain: bool = False
) -> Iterator[None]:
    """Show minicaffe's log on stderr for the length of a block.

    A pipe gets all that Caffe logs; a terminal what is meant for a person, unless ``verbose``, or ``plain``: then
    Caffe's lines.  ``severity`` is glog's: 0 for all, 1 for warnings, 2 and 3 for errors.  In ``folder`` a file gets
    the lines, too.

    Raises MinicaffeError if that file cannot be written.
    """
    global _terminal, _caffes_lines
    logger = logging.getLogger("minicaffe")
    handlers: list[logging.Handler] = []
    if sys.stderr.isatty() and compat.have("rich") and not plain:
        handler = _TerminalHandler()
        handler.addFilter(_no_result)
        if not verbose:
            handler.addFilter(_for_people)
        if severity == 0:
            _terminal = handler.console
        handlers.append(handler)
    else:
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[0].setFormatter(GlogFormatter())
        _caffes_lines = True
    if folder:
        handlers.append(_log_file(folder))
    level = logger.level
    logger.setLevel(_SEVERITIES[severity] if severity else logging.DEBUG if verbose else logging.INFO)
    for each in handlers:
        logger.addHandler(each)
    try:
        yield
    finally:
        for each in handlers:
            logger.removeHandler(each)
            if each is not handlers[0]:
                each.close()
        logger.setLevel(level)
        _terminal, _caffes_lines = None, False


def _log_file(folder: str) -> logging.Handler:
    """Writes a file of glog's name, to which ``minicaffe.INFO`` in the same folder is a link."""
    name = f"minicaffe.{platform.node()}.{getpass.getuser()}.log.INFO.{time.strftime('%Y%m%d-%H%M%S')}.{os.getpid()}"
    link = os.path.join(folder, "minicaffe.INFO")
    try:
        handler = logging.FileHandler(os.path.join(folder, name), encoding="utf-8")
        with contextlib.suppress(FileNotFoundError):
            os.remove(link)
        os.symlink(name, link)
    except OSError as error:
        raise MinicaffeError(f"--log_dir {folder}: no log can be written there: {error.strerror}") from None
    handler.setFormatter(GlogFormatter())
    return handler


def _no_result(record: logging.LogRecord) -> bool:
    """All but results, which stdout shows."""
    return record.name != _results.name


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
