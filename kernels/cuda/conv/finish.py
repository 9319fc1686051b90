"""What follows the product of a convolution: bias and ReLU, in one pass over the result."""

from __future__ import annotations

from typing import Any


def _rectified(x, slope):
    return max(x, 0.0) + slope * min(x, 0.0)


def _biased_and_rectified(x, bias, slope):
    return max(x + bias, 0.0) + slope * min(x + bias, 0.0)


def finish(ops: Any, y: Any, bias: Any | None, slope: float) -> None:
    """Add the bias, if there is one, to y (N, M, *out), and multiply negative results by ``slope``."""
    if slope == 1.0:
        if bias is not None:
            ops.bias_add(y, bias)
    elif bias is None:
        ops.elementwise(_rectified, (y,), (slope,), y)
    else:
        planes = y.reshape(*y.shape[:2], -1)
        ops.channelwise(_biased_and_rectified, (planes,), (bias,), (slope,), planes)
