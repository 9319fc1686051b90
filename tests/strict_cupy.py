"""An array module that behaves as CuPy does, on NumPy memory, and refuses what a GPU program should not do.

- An array mixes with its own kind and with scalars, never with a NumPy array.
- Nothing waits for the device by accident: ``float(a)``, ``bool(a)``, ``np.asarray(a)`` and iteration raise TypeError,
  and inside ``no_sync()`` so do ``get``, ``item``, ``int(a)`` and indexing with a mask.
- ``allocations()`` counts the arrays made, temporaries included.
- Fresh memory holds NaN, and lies between guards that every kernel launch checks.
- Between ``begin_capture`` and ``end_capture`` nothing runs: what is issued is noted with its arguments as they are
  then, for ``Graph.launch``.  Whatever CUDA refuses there (copies from and to the host, waiting, allocating, loading
  kernels) raises, and makes the capture invalid.
- Only names that CuPy has are here, and of those only the ones in ``_FUNCTIONS`` and ``_CONSTANTS``.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cuda_host
import numpy as np


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FUNCTIONS = _names("""
    abs absolute add all amax amin any arange arccos argmax argmin argsort around array_equal ascontiguousarray astype
    broadcast_to cbrt ceil clip concatenate copysign copyto cos cosh cumprod cumsum divide dot einsum empty_like
    equal exp exp2 expand_dims expm1 fabs flip floor floor_divide fmax fmin full full_like greater greater_equal
    hypot isfinite isinf isnan less less_equal log log10 log1p log2 logical_and logical_not logical_or logical_xor
    matmul max maximum mean min minimum mod moveaxis multiply nan_to_num negative not_equal ones ones_like power
    prod put_along_axis ravel reciprocal remainder repeat reshape rint roll round searchsorted sign signbit sin sinh
    sort split sqrt square squeeze stack std subtract sum swapaxes take take_along_axis tan tanh tensordot tile
    transpose true_divide trunc var vdot where zeros_like
""")
_CONSTANTS = _names("""
    bool_ dtype e finfo float16 float32 float64 iinfo inf int16 int32 int64 int8 nan newaxis pi uint16 uint32 uint64
    uint8
""")
_METHODS = _names("""
    all any argmax argmin argsort astype clip copy cumprod cumsum diagonal dot flatten max mean min prod ravel
    repeat reshape round squeeze std sum swapaxes take trace transpose var view
""")
_ATTRIBUTES = _names("dtype flags itemsize nbytes ndim shape size strides")
_GUARD = 64  # bytes before and after an array
_CANARY = 0xFF  # makes NaN of every float

_VIEWS = _names("diagonal ravel reshape squeeze swapaxes transpose view")  # they compute nothing
_CHANGING = _names("copyto put_along_axis")  # they write to their first argument

_allocations = 0
_clock = 0
_no_sync = 0
_allocator: Any = None
_capture: list[_Issued] | None = None
_invalid = ""


def allocations() -> int:
    """How many arrays have been made so far."""
    return _allocations


@contextlib.contextmanager
def no_sync() -> Iterator[None]:
    """Inside, whatever would wait for the device raises TypeError."""
    global _no_sync
    _no_sync += 1
    try:
        yield
    finally:
        _no_sync -= 1


class CaptureError(RuntimeError):
    """What CUDA raises where a stream that captures is asked for something else."""


class _Issued(NamedTuple):
    """Work, and the memory that it reads and writes."""

    run: Callable[[], Any]
    memory: list[weakref.ref[_Memory]]


class Graph:
    """What ``end_capture`` gives; as in CUDA it owns no memory."""

    def __init__(self, issued: list[_Issued]) -> None:
        self._issued = issued

    def __len__(self) -> int:
        return len(self._issued)

    def launch(self, stream: Any = None) -> None:
        """Do all that was noted, in order."""
        _refuse_in_capture("launching a graph")
        for work in self._issued:
            if any(memory() is None for memory in work.memory):
                raise MemoryError("a graph uses memory that was freed")
            _use([memory() for memory in work.memory])
            work.run()


def clock() -> int:
    """How much work has been issued to the stream of the kernels."""
    return _clock


def _use(memories: list[_Memory]) -> None:
    """Note when memory was used last."""
    global _clock
    _clock += 1
    for memory in memories:
        memory.used = _clock


def begin_capture() -> None:
    """Note what is issued from now on."""
    global _capture, _invalid
    _refuse_in_capture("beginning a capture")
    _capture, _invalid = [], ""


def end_capture() -> Graph:
    """Do again what is issued from now on; raises CaptureError if something was refused since ``begin_capture``."""
    global _capture
    issued, _capture = _capture, None
    if issued is None:
        raise CaptureError("no capture was begun")
    if _invalid:
        raise CaptureError(f"the capture is invalid: {_invalid}")
    return Graph(issued)


def _refuse_in_capture(what: str) -> None:
    global _invalid
    if _capture is not None:
        _invalid = _invalid or what
        raise CaptureError(f"{what} is not permitted while a stream captures")


def issue(run: Callable[[], Any], *arrays: Any) -> None:
    """Do device work that reads and writes ``arrays``; or note it, while captured."""
    if _capture is None:
        _use([a._memory for a in arrays if isinstance(a, ndarray)])
        run()
    else:
        _capture.append(_Issued(run, [weakref.ref(a._memory) for a in arrays if isinstance(a, ndarray)]))


@contextlib.contextmanager
def using_allocator(allocator: Callable[[int], Any]) -> Iterator[None]:
    """Inside, ``allocator`` is asked for all memory; here it may refuse only."""
    global _allocator
    before, _allocator = _allocator, allocator
    try:
        yield
    finally:
        _allocator = before


def wide(bits: np.ndarray, dtype: Any) -> np.ndarray:
    """float32 of numbers of 16 bits: those of float16, or of bfloat16, the upper halves of a float32, in uint16."""
    bits = np.ascontiguousarray(bits).view(dtype)
    return bits.astype(np.float32) if dtype == np.float16 else (bits.astype(np.uint32) << 16).view(np.float32)


def _synchronize(what: str) -> None:
    _refuse_in_capture(what)
    if _no_sync:
        raise TypeError(f"{what} waits for the device")


class _Memory:
    """One allocation between two guards."""

    def __init__(self, nbytes: int) -> None:
        global _allocations
        if _allocator is not None:
            _allocator(nbytes)
        _refuse_in_capture("allocating memory")
        _allocations += 1
        self.used = _clock  # by whoever had this memory before
        self.raw = np.full(nbytes + 2 * _GUARD, _CANARY, np.uint8)
        self.ptr = self.raw.ctypes.data + _GUARD

    def check(self) -> None:
        if (self.raw[:_GUARD] != _CANARY).any() or (self.raw[-_GUARD:] != _CANARY).any():
            raise MemoryError("a kernel wrote outside an array")


class _Data:
    """What ``array.data`` is in CuPy: a pointer."""

    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class ndarray:
    """An array of the device; ``_host`` is the NumPy array behind it."""

    __array_ufunc__ = None  # NumPy's operators hand over to ours
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray, memory: _Memory) -> None:
        self._host, self._memory = host, memory

    def __getattr__(self, name: str) -> Any:
        if name in _ATTRIBUTES:
            return getattr(self._host, name)
        if name in _METHODS:
            return functools.partial(_call, getattr(np.ndarray, name), name, self)
        raise AttributeError(f"an array of the device has no {name!r} here")

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_ATTRIBUTES, *_METHODS})

    @property
    def data(self) -> _Data:
        return _Data(self._host.ctypes.data)

    @property
    def T(self) -> ndarray:
        return ndarray(self._host.T, self._memory)

    def __len__(self) -> int:
        return len(self._host)

    def __repr__(self) -> str:
        return f"<device array {self.shape} {self.dtype}>"

    def __getitem__(self, index: Any) -> ndarray:
        return _wrap(self._host[_index(index)], self)

    def __setitem__(self, index: Any, value: Any) -> None:
        where, values = _index(index, writing=True), _unwrap(value)
        issue(lambda: self._host.__setitem__(where, values), self, value)

    def fill(self, value: Any) -> None:
        number = _unwrap(value)
        issue(lambda: self._host.fill(number), self)

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        """Copy a NumPy array of the same shape and dtype into this one."""
        if not isinstance(arr, np.ndarray) or arr.dtype != self.dtype:
            raise TypeError(f"{getattr(arr, 'dtype', type(arr))} cannot be set to an array of {self.dtype}")
        if arr.shape != self.shape:
            raise ValueError(f"shape {arr.shape} cannot be set to an array of shape {self.shape}")
        _refuse_in_capture("copying from memory of the host that is not pinned")

        def copy() -> None:
            self._host[...] = arr

        if stream is None or stream.runs_kernels():
            issue(copy, self)
        else:
            stream.issue(copy, self._memory)

    def get(self, out: np.ndarray | None = None) -> np.ndarray:
        """Copy to the host, waiting for it."""
        _synchronize("get()")
        if out is None:
            return self._host.copy()
        if out.dtype != self.dtype or out.shape != self.shape or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.dtype} {out.shape}; get() fills a C-contiguous {self.dtype} {self.shape}")
        out[...] = self._host
        return out

    def item(self) -> Any:
        """The only element, as a Python scalar."""
        _synchronize("item()")
        return self._host.item()

    def __int__(self) -> int:
        _synchronize("int()")
        return int(self._host)

    def _refuse(self, *_: Any) -> Any:
        raise TypeError("this would copy an array of the device to the host unasked; call get() or item()")

    __float__ = __complex__ = __bool__ = __index__ = __iter__ = __array__ = __contains__ = _refuse


def _operator(name: str) -> Any:
    def method(self: ndarray, *others: Any) -> Any:
        if any(isinstance(other, np.ndarray) for other in others):
            raise TypeError(f"{name} of an array of the device and a NumPy array")
        if _capture is not None and name.startswith("__i") and name != "__invert__":
            issue(lambda: getattr(self._host, name)(*map(_unwrap, others)), self, *others)
            return self
        result = getattr(self._host, name)(*map(_unwrap, others))
        if result is NotImplemented:
            return NotImplemented
        return self if result is self._host else _wrap(result, self)

    method.__name__ = name
    return method


for _name in [
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
    "matmul",
]:
    for _form in ("__{}__", "__r{}__", "__i{}__"):
        setattr(ndarray, _form.format(_name), _operator(_form.format(_name)))
for _name in ["lt", "le", "gt", "ge", "eq", "ne", "neg", "pos", "abs", "invert"]:
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))


def empty(shape: Any, dtype: Any = float) -> ndarray:
    """New memory, every byte 0xFF."""
    count = int(np.prod(shape, dtype=np.int64))
    dtype = np.dtype(dtype)
    memory = _Memory(count * dtype.itemsize)
    host = memory.raw[_GUARD : _GUARD + count * dtype.itemsize].view(dtype).reshape(shape)
    return ndarray(host, memory)


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    """A new array of zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


def asarray(a: Any, dtype: Any = None) -> ndarray:
    """A copy of a NumPy array or a list on the device; an array of the device as it is."""
    if isinstance(a, ndarray):
        return a if dtype is None or a.dtype == dtype else a.astype(dtype)
    return _adopt(np.asarray(a, dtype))


def array(obj: Any, dtype: Any = None) -> ndarray:
    """A copy on the device."""
    return _adopt(np.asarray(_unwrap(obj) if isinstance(obj, ndarray) else obj, dtype))


def asnumpy(a: ndarray) -> np.ndarray:
    """``a.get()``."""
    return a.get()


class RawModule:
    """CUDA source built with g++; see cuda_host.h.  ``reverse`` makes every launch run its threads last to first."""

    reverse = False

    def __init__(self, *, code: str, options: tuple[str, ...] = (), name_expressions: Any = None) -> None:
        if not all(isinstance(option, str) for option in options):
            raise TypeError(f"options are strings, not {options!r}")
        self._code, self._names = code, tuple(name_expressions or ())

    def get_function(self, name: str) -> Any:
        """A kernel, called as ``kernel(grid, block, args)``."""
        _refuse_in_capture("loading a kernel")
        kernel = cuda_host.build(self._code, self._names)[name]
        return functools.partial(_launch, kernel)


def _launch(kernel: cuda_host.Kernel, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
    arrays = [a for a in args if isinstance(a, ndarray)]
    for a in arrays:
        if not a._host.flags.c_contiguous:
            raise ValueError(f"{kernel.name} is given an array with gaps: shape {a.shape}, strides {a.strides}")
    values = [cuda_host.Pointer(a.data.ptr, a.dtype) if isinstance(a, ndarray) else copy.copy(a) for a in args]
    memory = [weakref.ref(a._memory) for a in arrays]

    def run() -> None:
        kernel(grid, block, values, reverse=RawModule.reverse)
        for used in memory:
            if (left := used()) is not None:
                left.check()

    issue(run, *arrays)


def __getattr__(name: str) -> Any:
    if name in _CONSTANTS:
        return getattr(np, name)
    if name in _FUNCTIONS:
        return functools.partial(_call, getattr(np, name), name)
    raise AttributeError(
        f"strict_cupy has no {name!r}; if CuPy has it, and it does not wait for the device, add it to the list"
    )


def _call(function: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    """NumPy's function on the memory behind the arrays."""
    if "where" in kwargs:
        raise TypeError(f"CuPy's {name} takes no where=")
    owners = [a for a in (*args, *kwargs.values()) if isinstance(a, ndarray)]
    out = kwargs.get("out")
    if _capture is not None and name not in _VIEWS:
        if out is None and name not in _CHANGING:
            _Memory(0)  # for the result, which is refused
        issue(lambda: _computed(function, args, kwargs), *owners)
        return out
    result = _computed(function, args, kwargs)
    if out is not None:
        return out
    if isinstance(result, (list, tuple)):
        return type(result)(_wrap(part, *owners) for part in result)
    return _wrap(result, *owners)


def _computed(function: Any, args: Any, kwargs: Any) -> Any:
    with np.errstate(all="ignore"):  # a GPU does not warn
        return function(*map(_unwrap, args), **{key: _unwrap(value) for key, value in kwargs.items()})


def _unwrap(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("a NumPy array was mixed with arrays of the device; upload it first")
    if isinstance(value, (list, tuple)):
        return type(value)(map(_unwrap, value))
    return value


def _wrap(result: Any, *owners: ndarray) -> Any:
    """A view keeps its owner's memory; fresh values, also those without axes, become an array of the device."""
    if result is None:
        return None
    for owner in owners:
        if isinstance(result, np.ndarray) and np.may_share_memory(result, owner._memory.raw):
            return ndarray(result, owner._memory)
    return _adopt(np.asarray(result))


def _adopt(host: np.ndarray) -> ndarray:
    array = empty(host.shape, host.dtype)
    array._host[...] = host
    return array


def _index(index: Any, writing: bool = False) -> Any:
    parts = index if isinstance(index, tuple) else (index,)
    for part in parts:
        if isinstance(part, (list, np.ndarray)):
            raise TypeError("indexing with a list or a NumPy array copies it to the device; upload it once instead")
        if isinstance(part, ndarray) and part.dtype == bool and not writing:
            _synchronize("indexing with a mask")
    return _unwrap(index)
