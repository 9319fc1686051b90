"""``minicaffe``: where the command line begins.

Everything else is loaded from here, so that Ctrl-C is looked after before that takes its time.
"""

from __future__ import annotations

import sys

from minicaffe.tools import interrupts

TYPE_CHECKING = False  # as in typing, whose import takes time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C.

    Errors are one message on stderr; ``--traceback`` adds where they come from.  Without ``argv`` the command is the
    process's own, which then says what Ctrl-C does.
    """
    if argv is not None:
        return _run(list(argv))
    interrupts.end_at_once()
    try:
        return _run(sys.argv[1:])
    finally:
        interrupts.end_at_once()  # the work is done, or has failed: what is left is to leave


def _run(args: list[str]) -> int:
    from minicaffe.tools import root

    return root.run(args)


def __getattr__(name: str) -> Any:
    if name in ("COMMANDS", "cli"):
        from minicaffe.tools import root

        return getattr(root, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
