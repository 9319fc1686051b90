"""CuPy with its ``cuda`` module, and nvmath-python's cuBLAS, as far as the GPU backend and ``gpu_check`` call them.

Arrays and kernels are those of ``strict_cupy``.  ``install()`` puts these models where the packages would be, so that
the GPU backend itself runs on a machine without a GPU.
"""

from __future__ import annotations

import ctypes
import sys
import time
from importlib.machinery import ModuleSpec
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import strict_cupy
from strict_cudnn import FakeCudnn

from minicaffe.testing.kernel_cases.halves import to_bf16

THREAD_LOCAL = 1


class CudaRuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class Context:
    """A device or a stream: which of them are entered is recorded."""

    current: ClassVar[list[Context]] = []

    def __init__(self, index=0):
        self.id, self.ptr = index, 0x51

    def __enter__(self):
        self.current.append(self)

    def __exit__(self, *_):
        self.current.pop()

    def synchronize(self):
        assert self not in self.current


class RaceError(RuntimeError):
    """Two streams use the same memory, and nothing says which comes first."""


class Stream(Context):
    """A stream that captures as CUDA does: see ``strict_cupy``.

    The one that is entered runs kernels, at once.  What another is given is only done once somebody waits for it, and
    may not touch memory that the kernels' stream used unless it was told to wait for that.
    """

    def __init__(self, non_blocking=False):
        super().__init__()
        self._issued: list[Any] = []
        self._waited_for = 0

    def runs_kernels(self):
        return bool(Context.current) and self is Context.current[-1]

    def issue(self, work, memory):
        if memory.used > self._waited_for:
            raise RaceError("memory is written on a second stream while kernels may still use it")
        self._issued.append(work)

    def wait_event(self, event):
        if event.stream is None:
            return
        if event.stream is not self and not event.stream.runs_kernels():
            event.stream.run(event.place)
        elif not self.runs_kernels():
            self._waited_for = max(self._waited_for, event.place)

    def moment(self):
        """What has been issued to it so far."""
        return strict_cupy.clock() if self.runs_kernels() else len(self._issued)

    def run(self, stop=None):
        """Do what is left of the work issued before the moment ``stop``."""
        if not self.runs_kernels():
            for i, work in enumerate(self._issued[:stop]):
                self._issued[i] = lambda: None
                work()

    def synchronize(self):
        super().synchronize()
        self.run()

    def begin_capture(self, mode):
        assert mode == THREAD_LOCAL and self is self.current[-1]
        strict_cupy.begin_capture()

    def end_capture(self):
        return strict_cupy.end_capture()


class Event:
    """A moment on a stream."""

    def __init__(self):
        self.at = self.stream = None
        self.place = 0

    def record(self, stream=None):
        entered = Context.current[-1] if Context.current else Stream()  # outside of all: CUDA's own, which is idle here
        self.stream = entered if stream is None else stream
        self.at, self.place = time.perf_counter(), self.stream.moment()

    def synchronize(self):
        assert self.at is not None
        self.stream.run(self.place)


class Pool:
    """The memory pool; nothing is known of its sizes."""

    def used_bytes(self):
        return 0

    def total_bytes(self):
        return 0

    def free_all_blocks(self):
        pass


class FakeCupy:
    """strict_cupy with the part of ``cupy.cuda`` that is used; arrays are made on a device and a stream."""

    __version__ = "14.0.0"

    def __init__(self, devices=1, error=None):
        self.cuda = SimpleNamespace(
            Device=Context,
            Stream=Stream,
            using_allocator=strict_cupy.using_allocator,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            runtime=SimpleNamespace(
                CUDARuntimeError=CudaRuntimeError,
                getDeviceCount=self.device_count,
                getDeviceProperties=self.properties,
                memGetInfo=lambda: (3 << 20, 1 << 30),
                streamCaptureModeThreadLocal=THREAD_LOCAL,
                driverGetVersion=lambda: 13000,
                runtimeGetVersion=lambda: 12090,
            ),
            Event=Event,
            alloc_pinned_memory=bytearray,
            get_elapsed_time=lambda start, end: (end.at - start.at) * 1e3,
            get_current_stream=lambda: Context.current[-1],
            set_allocator=lambda allocator: None,
        )
        self.get_default_memory_pool = Pool
        self._devices, self._error = devices, error

    def device_count(self):
        if self._error:
            raise CudaRuntimeError(self._error)
        return self._devices

    def properties(self, device):
        sides = {"major": 9, "minor": 0, "multiProcessorCount": 1, "totalGlobalMem": 1 << 30, "l2CacheSize": 1 << 20}
        return {"name": b"strict stand-in, no GPU", **sides}

    def __getattr__(self, name):
        return getattr(strict_cupy, name)

    def zeros(self, shape, dtype):
        assert len(Context.current) >= 2
        if np.prod(shape, dtype=float) > 1e12:
            raise OutOfMemoryError("Out of memory allocating")
        return strict_cupy.zeros(shape, dtype)


class FakeCublas:
    """cuBLAS as documented, on host memory: matrices are column-major, alpha and beta are read through pointers."""

    class cuBLASError(Exception):
        pass

    def __init__(self):
        self.stream = self.workspace = None

    ComputeType = SimpleNamespace(COMPUTE_32F=68)
    GemmAlgo = SimpleNamespace(DEFAULT=-1)
    Math = SimpleNamespace(DEFAULT_MATH=0, TF32_TENSOR_OP_MATH=3)

    def create(self):
        return 7

    def get_version(self, handle):
        return 120900

    def set_math_mode(self, handle, mode):
        pass

    def set_stream(self, handle, stream):
        self.stream, self.workspace = stream, None

    def set_workspace(self, handle, address, size):
        self.workspace = address, size

    def sgemm_strided_batched(self, *args):
        self._untyped(FLOAT, *args)

    def dgemm_strided_batched(self, *args):
        self._untyped(DOUBLE, *args)

    def _untyped(self, kind, handle, transa, transb, m, n, k, alpha, *rest):
        (a, *at_a), (b, *at_b), beta, (c, *at_c), batch = rest[:3], rest[3:6], rest[6], rest[7:10], rest[10]
        matrices = (a, kind, *at_a), (b, kind, *at_b), (c, kind, *at_c)
        self._multiply(handle, transa, transb, m, n, k, alpha, beta, *matrices, batch)

    def gemm_strided_batched_ex(self, handle, transa, transb, m, n, k, alpha, *rest):
        a, b, beta, c, (batch, mode, algorithm) = rest[:4], rest[4:8], rest[8], rest[9:13], rest[13:]
        assert (mode, algorithm) == (68, -1) and a[1] == b[1] and a[1] in (HALF, BFLOAT16) and c[1] in (FLOAT, a[1])
        self._multiply(handle, transa, transb, m, n, k, alpha, beta, a, b, c, batch)

    def _multiply(self, handle, transa, transb, m, n, k, alpha, beta, a, b, c, batch):
        """Each matrix is (address, type, leading dimension, stride); a result of float or less has float sums."""
        assert handle == 7 and self.stream and self.workspace
        element = ctypes.POINTER(ctypes.c_double if c[1] == DOUBLE else ctypes.c_float)
        alpha, beta = (ctypes.cast(pointer, element)[0] for pointer in (alpha, beta))

        def run():
            for i in range(batch):
                left = _numbers(_matrix(a, *((k, m) if transa else (m, k)), i), a[1])
                right = _numbers(_matrix(b, *((n, k) if transb else (k, n)), i), b[1])
                out = _matrix(c, m, n, i)
                with np.errstate(all="ignore"):  # a GPU does not warn
                    product = alpha * (left.T if transa else left) @ (right.T if transb else right)
                    _write(product + (beta * _numbers(out, c[1]) if beta else 0), out, c[1])

        strict_cupy.issue(run)


FLOAT, DOUBLE, HALF, BFLOAT16 = 0, 1, 2, 14  # cudaDataType_t
ELEMENTS = {FLOAT: ctypes.c_float, DOUBLE: ctypes.c_double, HALF: ctypes.c_uint16, BFLOAT16: ctypes.c_uint16}


def _matrix(place, rows, columns, i):
    """The elements of matrix number ``i``, which lie column by column."""
    address, kind, leading, stride = place
    assert leading >= max(1, rows)
    count = leading * (columns - 1) + rows if rows and columns else 0
    element = ELEMENTS[kind]
    start = ctypes.cast(address + i * stride * ctypes.sizeof(element), ctypes.POINTER(element))
    flat = np.ctypeslib.as_array(start, (max(count, 1),))
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (flat.itemsize, leading * flat.itemsize))


def _numbers(elements, kind):
    return (
        strict_cupy.wide(elements, np.float16 if kind == HALF else np.uint16) if kind in (HALF, BFLOAT16) else elements
    )


def _write(values, elements, kind):
    """Put numbers into the elements of a matrix."""
    if kind == HALF:
        values = np.ascontiguousarray(values).astype(np.float16).view(np.uint16)
    elif kind == BFLOAT16:
        values = to_bf16(values).view(np.uint32) >> 16
    elements[...] = values


def install() -> None:
    """Make ``import cupy``, ``import nvmath.bindings.cublas`` and ``import cudnn`` find the models."""
    modules: dict[str, Any] = {
        "cupy": FakeCupy(),
        "nvmath": SimpleNamespace(__version__="0"),
        "nvmath.bindings": SimpleNamespace(),
        "nvmath.bindings.cublas": FakeCublas(),
        "cudnn": FakeCudnn(),
    }
    for name, module in modules.items():
        module.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = module
