"""Compiling the ``.cu`` files and launching their kernels."""

from __future__ import annotations

import functools
import importlib.resources
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from minicaffe.errors import ShapeError
from minicaffe.kernels.halves import FORMATS
from minicaffe.kernels.window import Window

THREADS = 256
"""Threads of a block, as in common.cuh."""

_MAX_BLOCKS = 4096  # more than any GPU runs at once; the kernels' loops take what is left
_MAX_GRID_Y = 65535
MAX_INT = 2**31 - 2**25
"""The largest count that kernels take: a loop's index may pass the end by a grid's threads without overflowing."""
_PARTIAL_BLOCKS = 1024  # blocks among which a long sum is divided
_C_TYPE: dict[np.dtype[Any], str] = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
_STORED_TYPE: dict[np.dtype[Any], str] = {**_C_TYPE, **{halves.dtype: halves.c_type for halves in FORMATS.values()}}


def kernel_files() -> list[str]:
    """The names of all ``.cu`` files, without the suffix."""
    folder = importlib.resources.files(__package__)
    return sorted(file.name.removesuffix(".cu") for file in folder.iterdir() if file.name.endswith(".cu"))


@functools.cache
def kernel_source(name: str, prelude: str = "") -> str:
    """The text of ``name.cu``, with the headers that it includes; ``prelude`` comes after them."""
    folder = importlib.resources.files(__package__)
    own = (folder / f"{name}.cu").read_text()
    headers = re.findall(r'^#include "(.*)"\n', own, re.MULTILINE)
    texts = [(folder / header).read_text() for header in headers]
    return "".join(texts) + prelude + re.sub(r'^#include ".*"\n', "", own, flags=re.MULTILINE)


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


def stored_type(dtype: Any) -> str:
    """The C++ name of what an array of a dtype holds: numbers of 16 bits, too."""
    return _STORED_TYPE.get(np.dtype(dtype)) or c_type(dtype)


def computed(dtype: Any) -> np.dtype:
    """The dtype in which is computed what arrays of ``dtype`` hold: float32 for 16 bits."""
    return np.dtype(np.float32) if np.dtype(dtype).itemsize == 2 else np.dtype(dtype)


class Program(NamedTuple):
    """What is compiled at once: the kernels of a file, all with the same template arguments."""

    file: str
    arguments: str
    prelude: str = ""


def program(file: str, dtype: Any, *more: Any) -> Program:
    """The kernels of ``file.cu`` for ``dtype`` and, if their template has any, ``more`` arguments."""
    return Program(file, ", ".join(map(str, (c_type(dtype), *more))))


def stored(file: str, *arrays: Any) -> Program:
    """The kernels of ``file.cu`` for what each of ``arrays`` holds, computed in the dtype that suits the first."""
    return program(file, computed(arrays[0].dtype), *[stored_type(array.dtype) for array in arrays])


def formula(
    file: str, source: str, out: Any, arrays: Sequence[Any], vectors: int, scalars: Sequence[float]
) -> tuple[Program, tuple]:
    """The kernels of ``file.cu`` behind the C++ function ``source``, and its scalars as the kernels take them.

    ``out`` and ``arrays`` may hold 16 bits each.
    """
    dtype = computed(out.dtype)
    c = c_type(dtype)
    pointers = [f"const {stored_type(array.dtype)}*" for array in arrays]
    arguments = [c, stored_type(out.dtype), *pointers, *[f"const Channel<{c}>*"] * vectors, *[c] * len(scalars)]
    return Program(file, ", ".join(arguments), source), tuple(dtype.type(scalar) for scalar in scalars)


@functools.lru_cache(maxsize=1024)
def window_struct(window: Window, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> np.ndarray:
    """``window`` over spatial axes ``in_shape`` -> ``out_shape`` as common.cuh's struct, an array of one element."""
    fields = ("in", "out", "kernel", "stride", "pad", "dilation")
    dtype = np.dtype([(field, np.int32, (len(in_shape),)) for field in fields])
    return np.array((in_shape, out_shape, *window), dtype)


_DIVISOR = np.dtype([(field, np.uint32) for field in ("divisor", "multiplier", "shift")])


@functools.lru_cache(maxsize=4096)
def divisor(number: int) -> np.ndarray:
    """A positive int32 as implicit_gemm.cu's struct, by which kernels divide without a division.

    Source: Granlund and Montgomery, "Division by invariant integers using multiplication" (1994).
    """
    shift = (number - 1).bit_length()
    return np.array((number, (((1 << shift) - number << 32) // number) + 1, shift), _DIVISOR)


def struct(**fields: Any) -> np.ndarray:
    """Fields in the order of a C++ struct, an array of one element: ints become ``int``, NumPy values what they are."""
    values = {name: _member(value) for name, value in fields.items()}
    made = np.zeros((), np.dtype([(name, v.dtype, v.shape) for name, v in values.items()], align=True))
    for name, value in values.items():
        made[name] = value
    return made


def _member(value: Any) -> np.ndarray:
    plain = isinstance(value, (int, tuple))
    return np.array(value, np.int32) if plain else np.array(value)


class Launcher:
    """Compiles a program at its first launch, and launches its kernels on the current stream.

    ``xp`` is CuPy or a module like it.  Nothing here waits for the device.  Of a kernel's arguments a Python int
    becomes an ``int``, a float a ``double``, a bool a ``bool``, None a null pointer; NumPy scalars and structs are
    passed as they are.
    """

    def __init__(self, xp: Any) -> None:
        self._xp = xp
        self._modules: dict[Program, Any] = {}
        self._kernels: dict[tuple[Program, str], Any] = {}
        self._partials: list[Any] = []
        self.retain: Callable[[tuple], None] = lambda arguments: None
        """Called with the arguments of every launch, by a backend that captures them."""

    def flat(self, program: Program, kernel: str, count: int, *args: Any) -> None:
        """One thread for each of ``count`` elements."""
        if count:
            grid = (min(-(-count // THREADS), _MAX_BLOCKS),)
            self._launch(program, kernel, grid, (THREADS,), (np.int64(count), *args))

    def planes(self, program: Program, kernel: str, planes: int, size: int, *args: Any) -> None:
        """One thread for each element of ``planes`` planes of ``size``."""
        if planes and size:
            x = min(_power_of_two(size), THREADS)
            y = THREADS // x
            grid = (min(-(-size // x), _MAX_BLOCKS), min(-(-planes // y), _MAX_GRID_Y))
            self._launch(program, kernel, grid, (x, y), (planes, size, *args))

    def reduction(
        self,
        program: Program,
        kernel: str,
        columns: int,
        length: int,
        *args: Any,
        contiguous: bool = False,
        blocks: int = 1,
    ) -> None:
        """``blocks`` blocks go down each tile of ``columns`` columns, ``length`` long.

        ``contiguous`` says that the elements of a column, not those of a row, are neighbours in memory.
        """
        x = 1 if contiguous else min(_power_of_two(columns), 32)
        y = min(_power_of_two(length), THREADS // x)
        grid = (-(-columns // x), min(blocks, _MAX_GRID_Y))
        self._launch(program, kernel, grid, (x, y), (columns, length, *args))

    def partial_sums(
        self,
        program: Program,
        kernel: str,
        columns: int,
        length: int,
        *args: Any,
        contiguous: bool = True,
        each: int = 1,
    ) -> tuple[int, int, Any]:
        """Starts a long sum down each column, or several ``each``; returns the first arguments of the ``reduction``
        that ends it.
        """
        share = max(1, _PARTIAL_BLOCKS // columns)
        blocks = max(1, min(-(-length // (16 * THREADS)), share))
        partials = self._partial_buffer(each * blocks * columns)
        self.reduction(program, kernel, columns, length, partials, *args, contiguous=contiguous, blocks=blocks)
        return columns, blocks, partials

    def add_sums(
        self, source: Program, kernel: str, columns: int, length: int, args: tuple, out: Any, contiguous: bool
    ) -> None:
        """Adds the sum down each column, which ``kernel`` starts, to ``out``."""
        partials = self.partial_sums(source, kernel, columns, length, *args, contiguous=contiguous)
        self.reduction(program("linear", out.dtype), "add_partials", *partials, out)

    def tiles(self, program: Program, kernel: str, grid: tuple[int, int, int], *args: Any) -> None:
        """A block of ``THREADS`` threads for each tile of a grid."""
        self._launch(program, kernel, grid, (THREADS,), args)

    def _partial_buffer(self, count: int) -> Any:
        """Device memory for ``count`` doubles.  Outgrown buffers are kept: a captured graph may still write to them."""
        if not self._partials or self._partials[-1].size < count:
            self._partials.append(self._xp.zeros((max(_PARTIAL_BLOCKS, _power_of_two(count)),), np.float64))
        return self._partials[-1]

    def _launch(self, program: Program, kernel: str, grid: tuple, block: tuple, args: tuple) -> None:
        key = (program, kernel)
        if key not in self._kernels:
            self._kernels[key] = self._module(program).get_function(f"{kernel}<{program.arguments}>")
        self.retain(args)
        self._kernels[key](grid, block, tuple(map(_argument, args)))

    def _module(self, program: Program) -> Any:
        if program not in self._modules:
            names = [f"{kernel}<{program.arguments}>" for kernel in kernel_names(program.file)]
            code = kernel_source(program.file, program.prelude)
            self._modules[program] = self._xp.RawModule(code=code, options=("-std=c++17",), name_expressions=names)
        return self._modules[program]


def _argument(value: Any) -> Any:
    if value is None:
        return np.uintp(0)
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        if abs(value) > MAX_INT:
            raise ShapeError(
                f"an array has {value} elements in one plane or one sum; the CUDA kernels take {MAX_INT} at most"
            )
        return np.int32(value)
    return np.float64(value) if type(value) is float else value


def _power_of_two(count: int) -> int:
    """The smallest power of two that is not below ``count``, and at least 1."""
    return 1 << max(0, count - 1).bit_length()
