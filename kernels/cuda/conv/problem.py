"""What is asked of a convolution algorithm: one of three products, of given shapes."""

from __future__ import annotations

import math
from typing import NamedTuple

from minicaffe.kernels.convolution import DATA_GRAD as DATA_GRAD
from minicaffe.kernels.convolution import FORWARD as FORWARD
from minicaffe.kernels.convolution import KINDS as KINDS
from minicaffe.kernels.convolution import WEIGHT_GRAD as WEIGHT_GRAD
from minicaffe.kernels.window import Window


class Problem(NamedTuple):
    """A convolution, x (N, C, *in) -> y (N, M, *out), or one of its gradients.

    Each group of channels is a matrix product of ``rows`` x ``depth`` by ``depth`` x ``columns``.
    """

    kind: str
    x_shape: tuple[int, ...]
    y_shape: tuple[int, ...]
    window: Window
    group: int

    @property
    def images(self) -> int:
        """Images of the batch."""
        return self.x_shape[0]

    @property
    def channels(self) -> int:
        """Input channels of a group."""
        return self.x_shape[1] // self.group

    @property
    def filters(self) -> int:
        """Filters, which are output channels, of a group."""
        return self.y_shape[1] // self.group

    @property
    def pixels(self) -> int:
        """Pixels of a channel of x."""
        return math.prod(self.x_shape[2:])

    @property
    def positions(self) -> int:
        """Positions of the window, which are pixels of a channel of y."""
        return math.prod(self.y_shape[2:])

    @property
    def entries(self) -> int:
        """Weights of a filter."""
        return self.channels * self.window.taps

    @property
    def rows(self) -> int:
        """Rows of the result, a group's."""
        return self.channels if self.kind == DATA_GRAD else self.filters

    @property
    def columns(self) -> int:
        """Columns of the result, a group's."""
        places = self.pixels if self.kind == DATA_GRAD else self.positions
        return self.entries if self.kind == WEIGHT_GRAD else self.images * places

    @property
    def depth(self) -> int:
        """Terms of each sum, where the pixels under the window are gathered for the product."""
        if self.kind == WEIGHT_GRAD:
            return self.images * self.positions
        return self.filters * self.window.taps if self.kind == DATA_GRAD else self.entries

    @property
    def multiplications(self) -> int:
        """Multiplications that the definition asks for."""
        return math.prod(self.y_shape) * self.entries
