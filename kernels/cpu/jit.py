"""How the kernels of this package are compiled: at the first call, kept on disk, announced once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba
from numba.core import event

REASSOCIATE = {"reassoc", "nsz", "contract"}
"""Fast-math flags that let a sum be vectorised: its order changes, the meaning of NaN and infinity does not."""


class _Announcement(event.Listener):
    """Says, once a process, that kernels are being compiled; hears only of kernels that the disk cache does not hold."""

    def __init__(self) -> None:
        self.made = False

    def on_start(self, event: event.Event) -> None:
        function = event.data["dispatcher"].py_func
        if not self.made and function.__module__.startswith(__package__):
            self.made = True
            logging.getLogger("minicaffe").info("compiling kernels for this machine, once (this takes a few seconds) ...")

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Announcement())


def kernel(*, parallel: bool = False, fastmath: set[str] | bool = False, inline: bool = False) -> Callable[[Callable], Any]:
    """Decorator: compile for nopython mode at the first call, without the interpreter's lock, and cache on disk.

    Numba caches beside the source, or in the user's cache folder where that is read-only; where neither can be written,
    every process compiles anew.
    """
    options: dict[str, Any] = dict(nogil=True, error_model="numpy", parallel=parallel, fastmath=fastmath, forceinline=inline)

    def compile_lazily(function: Callable) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to cache in
            return numba.njit(**options)(function)

    return compile_lazily


@kernel(inline=True)
def share(part: int, parts: int, size: int) -> tuple[int, int]:
    """The first and the last index + 1 of thread ``part``'s share of ``size`` items."""
    return size * part // parts, size * (part + 1) // parts
