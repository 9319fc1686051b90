"""What has a name, by that name."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn, TypeVar

from minicaffe.errors import UnknownNameError

V = TypeVar("V")


class Named(OrderedDict[str, V]):
    """Things by name; to ask for one that is not there is an UnknownNameError (a KeyError) that says what is.

    ``what`` they are is for that message.
    """

    def __init__(self, items: Mapping[str, V] | Iterable[tuple[str, V]] = (), what: str = "entry") -> None:
        super().__init__(items)
        self._what = what

    def __missing__(self, name: Any) -> NoReturn:
        near = difflib.get_close_matches(str(name), self, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(f"there is no {self._what} {name!r}{hint} (there are: {', '.join(self) or 'none'})")
