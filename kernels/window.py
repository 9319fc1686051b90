"""The geometry of a sliding window, shared by convolution, deconvolution, im2col and pooling."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

MOST_PIXELS = 2**28 - 1
"""Pixels along an axis, with its padding: SIMD gathers count bytes in 32 bits."""


@functools.lru_cache(maxsize=1024)
def _extent(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))


class Window(NamedTuple):
    """Kernel, stride, pad and dilation, one entry for each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from the first to the last tap of the dilated kernel, both included."""
        return _extent(self.kernel, self.dilation)

    @property
    def taps(self) -> int:
        """Elements of the kernel over all spatial axes."""
        return math.prod(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether im2col would be the identity: kernel 1, stride 1, no padding."""
        return all(k == 1 and s == 1 and p == 0 for k, s, p in zip(self.kernel, self.stride, self.pad, strict=True))

    def fitted(self, positions: tuple[int, ...]) -> Window:
        """The same window for so many positions along each axis, without steps that are never taken.

        A stride with one position, or a dilation with one tap, may be any number, also one that no address holds.
        """
        stride = tuple(s if count > 1 else 1 for s, count in zip(self.stride, positions, strict=True))
        dilation = tuple(d if k > 1 else 1 for d, k in zip(self.dilation, self.kernel, strict=True))
        return self._replace(stride=stride, dilation=dilation)

    def with_axes(self, axes: int) -> Window:
        """The same window with leading unit axes, so that one kernel serves every number of axes up to ``axes``."""
        missing = axes - len(self.kernel)
        ones, zeros = (1,) * missing, (0,) * missing
        return Window(ones + self.kernel, ones + self.stride, zeros + self.pad, ones + self.dilation)
