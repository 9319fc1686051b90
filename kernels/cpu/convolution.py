"""Convolution and the rectification of what it makes."""

from __future__ import annotations

from minicaffe.kernels.cpu.conv import select
from minicaffe.kernels.cpu.elementwise import elementwise
from minicaffe.kernels.cpu.runtime.capture import capturable
from minicaffe.kernels.reference import Array
from minicaffe.kernels.window import Window


def _rectified(x: float, slope: float) -> float:
    return max(x, 0.0) + slope * min(x, 0.0)


@capturable
def convolve(
    x: Array,
    w: Array,
    bias: Array | None,
    y: Array,
    window: Window,
    group: int,
    workspace: Array,
    slope: float = 1.0,
) -> None:
    """See ``reference.convolve``."""
    select.convolve(x, w, bias, y, window, group, workspace)
    if slope != 1.0:
        elementwise(_rectified, (y,), (slope,), y)
