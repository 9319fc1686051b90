"""Compiling the ``.cu`` files and launching their kernels."""

from __future__ import annotations

import functools
import importlib.resources
from typing import Any

import numpy as np
from minicaffe.errors import ShapeError
from minicaffe.kernels.window import Window

THREADS = 256
"""Threads of a block, as in common.cuh."""

_MAX_BLOCKS = 4096  # more than any GPU runs at once; the kernels' loops take what is left
_MAX_GRID_Y = 65535
_MAX_INT = 2**31 - 2**25  # a loop's index may pass the end by a grid's threads without overflowing
_PARTIAL_BLOCKS = 1024  # blocks among which a long sum is divided
_C_TYPE = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


def kernel_files() -> list[str]:
    """The names of all ``.cu`` files, without the suffix."""
    folder = importlib.resources.files(__package__)
    return sorted(file.name.removesuffix(".cu") for file in folder.iterdir() if file.name.endswith(".cu"))


@functools.cache
def kernel_source(name: str, prelude: str = "") -> str:
    """The text of ``name.cu``, after common.cuh and ``prelude``."""
    folder = importlib.resources.files(__package__)
    common, own = ((folder / file).read_text() for file in ("common.cuh", f"{name}.cu"))
    return common + prelude + own.replace('#include "common.cuh"\n', "")


@functools.cache
def kernel_names(name: str) -> tuple[str, ...]:
    """The kernels that ``name.cu`` defines."""
    words = kernel_source(name).split("__global__ void ")[1:]
    return tuple(word.partition("(")[0] for word in words)


def c_type(dtype: Any) -> str:
    """The C++ name of a floating dtype; raises TypeError for any other."""
    try:
        return _C_TYPE[np.dtype(dtype)]
    except KeyError:
        raise TypeError(f"the kernels compute in float32 and float64, not in {np.dtype(dtype)}") from None


def window_struct(window: Window, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> np.ndarray:
    """``window`` over spatial axes ``in_shape`` -> ``out_shape`` as common.cuh's struct, an array of one element."""
    fields = ("in", "out", "kernel", "stride", "pad", "dilation")
    dtype = np.dtype([(field, np.int32, (len(in_shape),)) for field in fields])
    return np.array((in_shape, out_shape, *window), dtype)


class Launcher:
    """Compiles a file at its first launch, for one dtype, and launches its kernels on the current stream.

    ``xp`` is CuPy or a module like it.  Nothing here waits for the device.  Of a kernel's arguments a Python int becomes
    an ``int``, a float a ``double``, a bool a ``bool``; NumPy scalars and structs are passed as they are.
    """

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._modules: dict[tuple[str, str, str], Any] = {}
        self._kernels: dict[tuple[str, str, str, str], Any] = {}
        self._partials: list[Any] = []

    def flat(self, file: str, kernel: str, dtype: Any, count: int, *args: Any) -> None:
        """One thread for each of ``count`` elements."""
        if count:
            grid = (min(-(-count // THREADS), _MAX_BLOCKS),)
            self._launch(file, kernel, c_type(dtype), grid, (THREADS,), (np.int64(count), *args))

    def planes(self, file: str, kernel: str, dtype: Any, planes: int, size: int, *args: Any, axes: int = 0) -> None:
        """One thread for each element of ``planes`` planes of ``size``; ``axes`` is the kernel's AXES, if it has any."""
        if planes and size:
            x = min(_power_of_two(size), THREADS)
            y = THREADS // x
            grid = (min(-(-size // x), _MAX_BLOCKS), min(-(-planes // y), _MAX_GRID_Y))
            types = f"{c_type(dtype)}, {axes}" if axes else c_type(dtype)
            self._launch(file, kernel, types, grid, (x, y), (planes, size, *args))

    def reduction(
        self, file: str, kernel: str, dtype: Any, columns: int, length: int, blocks: int, *args: Any, contiguous: bool = False
    ) -> None:
        """``blocks`` blocks go down each tile of columns, ``length`` long; all arguments are given.

        ``contiguous`` says that the elements of a column, not those of a row, are neighbours in memory.
        """
        x = 1 if contiguous else min(_power_of_two(columns), 32)
        y = min(_power_of_two(length), THREADS // x)
        self._launch(file, kernel, c_type(dtype), (-(-columns // x), blocks), (x, y), args)

    def partial_sums(
        self, file: str, kernel: str, dtype: Any, columns: int, length: int, *args: Any, contiguous: bool = True
    ) -> tuple[int, int, Any]:
        """Starts a long sum down each column; returns the first arguments of the kernel that ends it."""
        share = max(1, _PARTIAL_BLOCKS // columns)
        blocks = max(1, min(-(-length // (16 * THREADS)), share))
        partials = self._partial_buffer(blocks * columns)
        self.reduction(file, kernel, dtype, columns, length, blocks, columns, length, partials, *args, contiguous=contiguous)
        return columns, blocks, partials

    def finish(self, file: str, kernel: str, dtype: Any, partials: tuple[int, int, Any], *args: Any) -> None:
        """Ends the sum that ``partial_sums`` started."""
        columns, blocks, _ = partials
        self.reduction(file, kernel, dtype, columns, blocks, 1, *partials, *args)

    def elementwise(self, function_source: str, dtype: Any, count: int, out: Any, arrays: tuple, scalars: tuple[float, ...]) -> None:
        """Launches ``elementwise.cu`` with the C++ function in front of it."""
        if count:
            c = c_type(dtype)
            types = ", ".join([c, *[f"const {c}*"] * len(arrays), *[c] * len(scalars)])
            grid = (min(-(-count // THREADS), _MAX_BLOCKS),)
            values = tuple(np.dtype(dtype).type(scalar) for scalar in scalars)
            self._launch("elementwise", "elementwise", types, grid, (THREADS,), (np.int64(count), out, *arrays, *values), function_source)

    def _partial_buffer(self, count: int) -> Any:
        """Device memory for ``count`` doubles.  Outgrown buffers are kept: a captured graph may still write to them."""
        if not self._partials or self._partials[-1].size < count:
            self._partials.append(self._xp.zeros((max(_PARTIAL_BLOCKS, _power_of_two(count)),), np.float64))
        return self._partials[-1]

    def _launch(self, file: str, kernel: str, types: str, grid: tuple, block: tuple, args: tuple, prelude: str = "") -> None:
        key = (file, kernel, types, prelude)
        if key not in self._kernels:
            self._kernels[key] = self._module(file, types, prelude).get_function(f"{kernel}<{types}>")
        self._kernels[key](grid, block, tuple(map(_argument, args)))

    def _module(self, file: str, types: str, prelude: str) -> Any:
        key = (file, types, prelude)
        if key not in self._modules:
            names = [f"{kernel}<{types}>" for kernel in kernel_names(file)]
            self._modules[key] = self._xp.RawModule(
                code=kernel_source(file, prelude), options=("-std=c++17",), name_expressions=names
            )
        return self._modules[key]


def _argument(value: Any) -> Any:
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        if abs(value) > _MAX_INT:
            raise ShapeError(f"an array has {value} elements in one plane or one sum; the CUDA kernels take {_MAX_INT} at most")
        return np.int32(value)
    return np.float64(value) if type(value) is float else value


def _power_of_two(count: int) -> int:
    """The smallest power of two that is not below ``count``, and at least 1."""
    return 1 << max(0, count - 1).bit_length()
