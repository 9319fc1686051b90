"""What callers hand over, checked where it comes in, so that an error names the argument and not some line within."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from google.protobuf.message import Message

from minicaffe.errors import ArgumentTypeError, MinicaffeError

_T = TypeVar("_T")


def instance(value: Any, kind: type[_T], taker: str, what: str = "") -> _T:
    """``value`` if it is a ``kind``; else an error that says ``what`` the function ``taker`` takes."""
    if not isinstance(value, kind):
        raise ArgumentTypeError(f"{taker} takes {what or f'a {kind.__name__}'}; found {value!r:.80}")
    return value


def message(value: Any, name: str, taker: str, hint: str = "") -> Any:
    """``value`` if it is a message of this name, of whichever copy of Caffe's schema; else an error."""
    if not (isinstance(value, Message) and value.DESCRIPTOR.name == name):
        raise ArgumentTypeError(f"{taker} takes a {name}{hint}; found {value!r:.80}")
    return value


def names(values: Any, what: str) -> list[str]:
    """Strings as a list, one by itself as a list of it; an error that says ``what`` they are for all else."""
    several = isinstance(values, Iterable) and not isinstance(values, (str, bytes))
    listed = list(values) if several else [values]
    for value in listed:
        if not isinstance(value, str):
            raise ArgumentTypeError(f"{what} must be names; found {value!r:.80}")
    return listed


def whole(value: Any, what: str, kind: type[MinicaffeError] = MinicaffeError) -> int:
    """``value`` as an int, of any type that holds whole numbers only; an error that says ``what`` it is for others."""
    try:
        return operator.index(value)
    except TypeError:
        raise kind(f"{what} must be a whole number; found {value!r:.80}") from None


def path(value: Any, what: str, kind: type[MinicaffeError] = MinicaffeError) -> str:
    """``value``, the name of a file, as a string; an error that says ``what`` the file is for what is no name."""
    try:
        return os.fsdecode(value)
    except TypeError:
        raise kind(f"{what} must be the name of a file; found {value!r:.80}") from None


def floating(value: Any) -> np.dtype:
    """``value`` as the dtype of blobs, which is float32 or float64."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        dtype = np.dtype(np.void)
    if dtype.type not in (np.float32, np.float64):
        raise MinicaffeError(f"dtype must be float32 or float64; found {value!r:.80}")
    return dtype
