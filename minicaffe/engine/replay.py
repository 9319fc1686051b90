"""Work that is captured once and then replayed, without Python between its kernels.

A net is static: from pass to pass its layers call the same ops on the same arrays.  So the same work, having run
eagerly once, is captured the second time and replayed from the third on, to the same bits, until something that it
depends on changes:

- the generation (``backend.generation``): a blob's shape or memory, the shared workspace, an attribute of a layer;
- the state that the owner of the work names: what else decides which kernels run, and with which numbers.

The first ends all captures, of the others each state has a capture of its own.  Before each replay the newest values
of the storages that the work asked for are brought to where its kernels look for them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any

from minicaffe import backend
from minicaffe.backend import Capture, generation
from minicaffe.storage import Storage, storages_in_use

_MOST_CAPTURES = 8  # states that take turns: as many as the small batches that make one large one
_MOST_ATTEMPTS = 4  # to capture what was incomplete: room that was too small has grown by then


class _Seen:
    """Work in one state: the storages that it asks for, how often it was captured in vain, and its capture."""

    def __init__(self) -> None:
        self.storages: dict[int, Storage] = {}
        self.attempts = 0
        self.capture: Capture | None = None
        self.left: Any = None
        self._moves = -1

    def make_heads(self) -> bool:
        """Bring the newest values to where the work looks for them; whether any may have been elsewhere."""
        if self._moves == generation.moves():
            return False
        for storage in self.storages.values():
            storage.make_head()
        self._moves = generation.moves()
        return True


class Work(ABC):
    """Work that can be replayed.  It may leave something on the host, for other work to go by."""

    @abstractmethod
    def left(self) -> Any:
        """What is there now."""

    @abstractmethod
    def leave(self, left: Any) -> None:
        """Put there what ``left`` gave."""


class Replay:
    """Runs work again and again, by replays where possible."""

    def __init__(self) -> None:
        self._generation = -1
        self._seen: dict[Hashable, _Seen] = {}
        self._replayed: _Seen | None = None

    @property
    def replayed(self) -> bool:
        """Whether the last run was a replay."""
        return self._replayed is not None

    def repeat(self) -> bool:
        """The replay of the last run once more: neither what ``run`` goes by has changed since, nor what that left.

        Returns whether memory was asked for.
        """
        assert self._replayed is not None and self._replayed.capture is not None
        asked = self._replayed.make_heads()
        self._replayed.capture.replay()
        return asked

    @property
    def captures(self) -> list[Capture]:
        """Those that hold in this generation."""
        if self._generation != generation.current():
            return []
        return [seen.capture for seen in self._seen.values() if seen.capture is not None]

    def run(self, where: backend.Backend, state: Hashable, work: Work, do: Callable[[], None]) -> None:
        """``do`` the work on the current backend ``where``; in one ``state`` that is the same every time."""
        if self._generation != generation.current() or len(self._seen) > _MOST_CAPTURES:
            self._seen.clear()
            self._generation = generation.current()
        seen = self._seen.get(state)
        self._replayed = seen if seen is not None and seen.capture is not None else None
        if seen is None:
            # the first time kernels are compiled, and scratch memory grows
            seen = self._seen[state] = _Seen()
            with storages_in_use() as seen.storages:
                do()
        elif self._replayed is not None:
            self.repeat()
            work.leave(self._replayed.left)
        elif seen.attempts < _MOST_ATTEMPTS:
            self._capture(where, seen, work, do)
        else:
            do()

    def _capture(self, where: backend.Backend, seen: _Seen, work: Work, do: Callable[[], None]) -> None:
        seen.attempts += 1
        seen.make_heads()
        before = work.left()
        with storages_in_use() as storages, where.capture() as capture:
            do()
        if capture is None:
            return
        complete = capture.complete and self._generation == generation.current()
        if complete:
            seen.storages = storages
            seen.capture, seen.left = capture, work.left()
        if not capture.ran:
            if complete:
                capture.replay()
            else:
                work.leave(before)
                do()
