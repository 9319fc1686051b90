"""Fast paths: faster algorithms for the same numbers, each of which can be left out to compare or to find a fault.

The environment variable ``MINICAFFE_WITHOUT`` names those that a process does without, separated by commas.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from minicaffe.errors import MinicaffeError

FAST_PATHS = {
    "copy_ahead": "inputs are copied to a GPU while it still computes on those before",
    "depthwise": "convolutions with one channel a group slide a window over each channel, without a matrix product",
    "filter_panels": "convolutions whose weights stay the same multiply small images with panels of filters",
    "fusion": "neighbouring layers that work element by element run as one",
    "image_by_image": "a deployed net takes each image of a batch through several layers before the next one",
    "implicit": "large convolutions on a GPU are one kernel, which lays out no columns in memory",
    "replay": "layers that run again as they ran before are replayed from a capture of their kernel launches",
    "rotated": "the data gradient of a convolution with stride 1 is a convolution with rotated filters",
    "row_dot": "the weight gradient of few filters of few channels is made of inner products of rows",
    "shared_gradients": "gradients of ranks on one machine lie in memory that all see, and none are sent",
    "strided_1x1": "a 1 x 1 convolution with a stride first gathers the pixels that it reads",
    "whole_image": "a convolution whose window is the whole image is an inner product",
    "winograd": "3 x 3 and 5 x 5 convolutions with stride 1 multiply transformed tiles",
}
"""Name and meaning of each; those of convolutions are named after the algorithms in ``kernels/cpu/conv``."""

_left_out: frozenset[str] = frozenset()


def _require(names: tuple[str, ...]) -> None:
    unknown = set(names) - FAST_PATHS.keys()
    if unknown:
        raise ValueError(f"no fast path is called {', '.join(sorted(unknown))}; there are: {', '.join(FAST_PATHS)}")


def taken(name: str) -> bool:
    """Whether a fast path may be taken."""
    return name not in _left_out


def left_out() -> frozenset[str]:
    """The fast paths that may not be taken."""
    return _left_out


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Leave some fast paths out for a ``with`` block; ValueError for a name that is not in ``FAST_PATHS``."""
    global _left_out
    _require(names)
    before = _left_out
    _left_out = before.union(names)
    try:
        yield
    finally:
        _left_out = before


def _from_environment() -> None:
    global _left_out
    names = tuple(name.strip() for name in os.environ.get("MINICAFFE_WITHOUT", "").split(",") if name.strip())
    try:
        _require(names)
    except ValueError as error:
        raise MinicaffeError(f"the environment variable MINICAFFE_WITHOUT: {error}") from None
    _left_out = frozenset(names)


_from_environment()
