"""Context managers that are entered several times an iteration, without the cost of a generator."""

from __future__ import annotations

from typing import Any


class Both:
    """Two contexts as one: the second inside the first."""

    __slots__ = ("_outer", "_inner")

    def __init__(self, outer: Any, inner: Any) -> None:
        self._outer, self._inner = outer, inner

    def __enter__(self) -> None:
        self._outer.__enter__()
        try:
            self._inner.__enter__()
        except BaseException:
            self._outer.__exit__(None, None, None)
            raise

    def __exit__(self, *exception: Any) -> None:
        try:
            self._inner.__exit__(*exception)
        finally:
            self._outer.__exit__(*exception)


class With:
    """Inside, an attribute of ``owner`` has another value."""

    __slots__ = ("_owner", "_name", "_value", "_before")

    def __init__(self, owner: Any, name: str, value: Any) -> None:
        self._owner, self._name, self._value, self._before = owner, name, value, None

    def __enter__(self) -> None:
        self._before = getattr(self._owner, self._name)
        setattr(self._owner, self._name, self._value)

    def __exit__(self, *exception: Any) -> None:
        setattr(self._owner, self._name, self._before)
