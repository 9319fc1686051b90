"""Signals that a training obeys, as Caffe's ``train`` does."""

from __future__ import annotations

import logging
import signal
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from minicaffe.tools import interrupts

if TYPE_CHECKING:
    from typing import Self

_log = logging.getLogger(__name__)


class SignalActions:
    """The action that signals ask a solver for: its ``requested_action``, while used as a context manager.

    ``effects`` maps a signal to "snapshot", "stop" or "none"; the first one has precedence.  A call returns one action
    and forgets it.  A second SIGINT that comes before the first was obeyed is a KeyboardInterrupt.
    """

    def __init__(self, effects: Mapping[signal.Signals, str]) -> None:
        self._effects = effects
        self._pending: set[signal.Signals] = set()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in self._effects}
        if interrupts.swallowed():
            self._pending.add(signal.SIGINT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if received is signal.SIGINT and received in self._pending:
            raise KeyboardInterrupt
        self._pending.add(received)

    def __call__(self) -> str | None:
        for number, effect in self._effects.items():
            if number in self._pending:
                self._pending.discard(number)
                _log.info("%s: %s", number.name, effect)
                return None if effect == "none" else effect
        return None
