"""Builds CUDA kernel files with g++ and ``cuda_host.h``, and calls their kernels through ctypes."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_HEADER = Path(__file__).with_name("cuda_host.h")
_MORE = os.environ.get("MINICAFFE_HOST_FLAGS", "").split()
"""More options for g++: see docs/gpu.md for a build with the address sanitizer."""
_FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", *_MORE)
_CODES = {"f": np.float32, "d": np.float64, "i": np.int32, "q": np.int64, "Q": np.uint64, "?": np.bool_}


def have_compiler() -> bool:
    """Whether g++, which builds the kernels for the CPU, is installed."""
    return shutil.which("g++") is not None


class Pointer(NamedTuple):
    """Where an array's elements lie."""

    address: int
    dtype: np.dtype


class _Parameter(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_char),
        ("is_pointer", ctypes.c_bool),
        ("size", ctypes.c_int),
    ]

    def check(self, value: Any) -> None:
        """Raise TypeError where CuPy would pass ``value`` and the kernel would read something else."""
        if self.is_pointer and isinstance(value, np.uintp) and value == 0:  # a null pointer
            return
        if self.is_pointer != isinstance(value, Pointer):
            raise TypeError(f"the kernel takes {'an array' if self.is_pointer else 'a value'}, not {value!r}")
        dtype = value.dtype
        expected = _CODES.get(self.code.decode())
        right = (
            dtype == expected if expected else dtype.itemsize == self.size and (self.is_pointer or dtype.kind == "V")
        )
        if not right:
            raise TypeError(f"the kernel takes {expected or f'a struct of {self.size} bytes'}, not {dtype}: {value!r}")


class Kernel:
    """One compiled kernel; ``reverse`` runs its threads and blocks last to first."""

    def __init__(self, library: ctypes.CDLL, number: int, name: str) -> None:
        self.name = name
        self._launch = library[f"launch_{number}"]
        parameters = library[f"parameters_{number}"]
        count = library[f"parameter_count_{number}"]()
        parameters.restype = ctypes.POINTER(_Parameter * count)
        self.parameters: Sequence[_Parameter] = list(parameters().contents)

    def __call__(self, grid: Sequence[int], block: Sequence[int], args: Sequence[Any], reverse: bool = False) -> None:
        """Run the kernel on arrays (Pointer), NumPy scalars and structs; raise TypeError if they do not fit."""
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments, not {len(args)}")
        for i, (parameter, value) in enumerate(zip(self.parameters, args, strict=True)):
            try:
                parameter.check(value)
            except TypeError as error:
                raise TypeError(f"argument {i} of {self.name}: {error}") from None
        values = [np.array(a.address if isinstance(a, Pointer) else a) for a in args]
        addresses = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        sizes = [(ctypes.c_uint * 3)(*sides, *[1] * (3 - len(sides))) for sides in (grid, block)]
        if min(*sizes[0], *sizes[1]) < 1 or np.prod(sizes[1]) > 1024 or max(sizes[0][1:]) > 65535:
            raise ValueError(f"{self.name}: no GPU takes a grid {tuple(grid)} of blocks {tuple(block)}")
        if self._launch(*sizes, addresses, ctypes.c_bool(reverse)):
            raise RuntimeError(f"{self.name}: some threads of a block wait at a barrier that others never reach")


@functools.cache
def build(code: str, names: tuple[str, ...]) -> dict[str, Kernel]:
    """The kernels of ``code`` by name expression.

    A library is kept in the user's cache folder under a hash of its source and of the compiler's options.
    """
    wrappers = "\n".join(f"HOST_KERNEL({number}, {name})" for number, name in enumerate(names))
    source = f"{_HEADER.read_text()}\n{code}\n{wrappers}\n"
    key = hashlib.sha256(f"{_FLAGS}{source}".encode()).hexdigest()[:24]
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "minicaffe-cuda-host"
    library = folder / f"{key}.so"
    if not library.exists():
        _compile(source, library)
    # PyDLL keeps the interpreter lock: the header's fibers are shared by all callers of a library
    loaded = ctypes.PyDLL(str(library))
    return {name: Kernel(loaded, number, name) for number, name in enumerate(names)}


def _compile(source: str, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        command = ["g++", *_FLAGS, "-x", "c++", "-", "-o", str(built)]
        result = subprocess.run(command, check=False, input=source, text=True, capture_output=True)
        if result.returncode:
            raise RuntimeError(f"g++ refuses the kernels:\n{result.stderr}")
        built.replace(library)
