"""Kill what a process does at each of its steps, to see what that leaves behind."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator

STEPS = ("open", "os.rename", "os.mkdir", "os.chmod", "os.remove", "os.rmdir", "shutil.", "ctypes.dlsym", "os.utime")
"""Python's audit events before which the process is killed."""


def killed_at_each_step(action: Callable[[], object], start: Callable[[], object] = lambda: None) -> Iterator[int]:
    """Call ``start`` here and ``action`` in a forked process, killed before its first step, its second, and so on.

    Yields the number of the step after each kill, and ends when ``action`` has ended unharmed.
    """
    step, status = 0, -1
    while status != 0:
        start()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _kill_before(step)
                action()
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), f"the action failed before step {step}"
        if status:
            yield step
            step += 1


def _kill_before(step: int) -> None:
    seen = 0

    def hook(event: str, _: tuple) -> None:
        nonlocal seen
        if event.startswith(STEPS):
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(hook)
