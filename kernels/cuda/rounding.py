"""The factors of matrix products in 16 bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minicaffe.kernels.cuda.launch import Launcher, program
from minicaffe.kernels.halves import Halves


class FactorRounding:
    """Rounds the two factors of a product to the nearest numbers of 16 bits, into memory that all products share.

    Memory that is outgrown goes: a captured graph owns what it was made with.
    """

    def __init__(self, zeros: Callable[[tuple[int, ...], Any], Any], launch: Launcher) -> None:
        self._zeros, self._launch = zeros, launch
        self._memory: list[Any] = [None, None]

    @property
    def nbytes(self) -> int:
        """Memory that is held for rounded factors."""
        return sum(memory.nbytes for memory in self._memory if memory is not None)

    def __call__(self, number: int, x: Any, halves: Halves) -> Any:
        """Factor ``number`` 0 or 1 of a product: a matrix, or a batch of them that may lie apart, in its shape."""
        memory = self._memory[number]
        if memory is None or memory.size < x.size:
            memory = self._memory[number] = self._zeros((x.size,), np.uint16)
        rounded = memory[: x.size].view(halves.dtype).reshape(x.shape)
        matrices, size = (1, x.size) if x.ndim == 2 else (x.shape[0], math.prod(x.shape[1:]))
        stride, first = (x.strides[0] // x.itemsize, x[0]) if x.ndim == 3 else (0, x)
        source = program("rounding", x.dtype, halves.c_type)
        self._launch.planes(source, "round_factor", matrices, size, first, np.int64(stride), rounded)
        return rounded
