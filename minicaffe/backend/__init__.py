"""Which device the calling process computes on, as in pycaffe: ``set_mode_cpu``, ``set_mode_gpu``, ``set_device``."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Iterator

from minicaffe import arguments
from minicaffe.backend.base import Backend, Capture, RandomSource
from minicaffe.backend.cpu import CpuBackend
from minicaffe.errors import DeviceError, MissingExtraError

__all__ = [
    "Backend",
    "RandomSource",
    "Capture",
    "current",
    "gpu_backend",
    "host_backend",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "use",
]

_FALLBACK = "MINICAFFE_GPU_FALLBACK"
"""Set to 1 in the environment it lets ``set_mode_gpu`` choose the CPU where there is no GPU."""

_log = logging.getLogger(__name__)
_cpu = CpuBackend()
_current: Backend = _cpu
_device = 0


def current() -> Backend:
    """The backend that nets, layers and solvers use now."""
    return _current


def host_backend() -> Backend:
    """The backend that computes on the CPU (NumPy and Numba)."""
    return _cpu


def gpu_backend() -> Backend:
    """The backend of the GPU chosen by ``set_device`` (CuPy); raises DeviceError or MissingExtraError if
    there is none.
    """
    from minicaffe.backend.gpu import GpuBackend

    return GpuBackend.on_device(_device)


def set_mode_cpu() -> None:
    """Compute on the CPU; the mode a process starts in."""
    _select(host_backend())


def set_mode_gpu() -> None:
    """Compute on the GPU.

    Where there is none it raises what ``gpu_backend`` raises; with ``MINICAFFE_GPU_FALLBACK=1`` in the environment it
    warns, and computes on the CPU.
    """
    try:
        _select(gpu_backend())
    except (DeviceError, MissingExtraError) as error:
        if os.environ.get(_FALLBACK) != "1":
            raise type(error)(
                f"{error}; with {_FALLBACK}=1 in the environment scripts that ask for a GPU compute on the CPU"
            ) from error
        _warn_of_fallback(str(error))
        _select(host_backend())


@functools.cache
def _warn_of_fallback(reason: str) -> None:
    """Once, as scripts ask for the GPU again and again."""
    _log.warning("computing on the CPU: %s", reason)


def set_device(device: int) -> None:
    """Choose the GPU, by number, that ``set_mode_gpu`` uses."""
    global _device
    _device = arguments.whole(device, "the number of a GPU", DeviceError)
    if not _current.is_host:
        set_mode_gpu()


@contextlib.contextmanager
def use(backend: Backend) -> Iterator[Backend]:
    """Compute on ``backend`` for the length of a block."""
    before = _current
    _select(backend)
    try:
        yield backend
    finally:
        _select(before)


def _select(backend: Backend) -> None:
    global _current
    _current = backend
