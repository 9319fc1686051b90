"""The geometry of a sliding window, shared by convolution, deconvolution, im2col and pooling."""

from __future__ import annotations

import math
from typing import NamedTuple


class Window(NamedTuple):
    """Kernel, stride, pad and dilation, one entry for each spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]

    @property
    def extent(self) -> tuple[int, ...]:
        """Pixels from the first to the last tap of the dilated kernel, both included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def taps(self) -> int:
        """Elements of the kernel over all spatial axes."""
        return math.prod(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether im2col would be the identity: kernel 1, stride 1, no padding."""
        return all(k == 1 and s == 1 and p == 0 for k, s, p in zip(self.kernel, self.stride, self.pad, strict=True))

    def with_axes(self, axes: int) -> Window:
        """The same window with leading unit axes, so that one kernel serves every number of axes up to ``axes``."""
        missing = axes - len(self.kernel)
        ones, zeros = (1,) * missing, (0,) * missing
        return Window(ones + self.kernel, ones + self.stride, zeros + self.pad, ones + self.dilation)
