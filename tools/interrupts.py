"""What Ctrl-C does to a command before it has begun: while modules load there is nothing to save, nor to explain.

Imports next to nothing, so that it is there first.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

STATUS = 130
"""The exit status of a command that was interrupted: 128 + SIGINT, as shells have it."""


def end_at_once() -> None:
    """From now on SIGINT ends this process without a traceback, wherever it is."""
    signal.signal(signal.SIGINT, _end)


def unwind() -> None:
    """From now on SIGINT is a KeyboardInterrupt, if it would end the process at once."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, _raise)


def swallowed() -> bool:
    """Whether a KeyboardInterrupt was raised since ``unwind``, though the process goes on.

    Python drops what is raised in a callback of its own, as of a weak reference or of the garbage collector.
    """
    return _raised


_raised = False


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    global _raised
    _raised = True
    raise KeyboardInterrupt


def _end(number: int, frame: FrameType | None) -> NoReturn:
    # an exception would show a traceback where Python cannot hand it on, in a callback of its import system
    os.write(2, b"interrupted\n")
    os._exit(STATUS)
