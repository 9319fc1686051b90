"""Functions of users that a solver calls in each iteration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minicaffe.errors import ArgumentError


class Callbacks:
    """Pairs of functions, called in the order in which they were added."""

    def __init__(self) -> None:
        self._pairs: list[tuple[Callable[[], Any], Callable[[], Any]]] = []

    def add(self, on_start: Any, on_gradients_ready: Callable[[], Any] | None) -> None:
        """Add two functions, or an object that has both as methods; ArgumentError for anything else."""
        both: tuple[Any, Any] = (on_start, on_gradients_ready)
        if on_gradients_ready is None:
            both = (getattr(on_start, "on_start", None), getattr(on_start, "on_gradients_ready", None))
        if not all(map(callable, both)):
            raise ArgumentError(
                "add_callback takes two functions, on_start and on_gradients_ready, or an object that has both; found "
                f"{on_start!r} and {on_gradients_ready!r}"
            )
        self._pairs.append(both)

    def start(self) -> None:
        """An iteration begins."""
        for on_start, _ in self._pairs:
            on_start()

    def gradients_ready(self) -> None:
        """Its gradients are complete."""
        for _, on_gradients_ready in self._pairs:
            on_gradients_ready()
