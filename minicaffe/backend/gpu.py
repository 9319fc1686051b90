"""The GPU backend: CuPy arrays, the CUDA kernels of ``kernels/cuda``, matrix products by cuBLAS."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from minicaffe import compat
from minicaffe.backend import usage
from minicaffe.backend.contexts import Both
from minicaffe.backend.device import DeviceBackend
from minicaffe.backend.graph import GraphCapture
from minicaffe.backend.precision import tf32_allowed
from minicaffe.backend.staging import Staging
from minicaffe.errors import DeviceError, MinicaffeError
from minicaffe.kernels import fast_paths
from minicaffe.kernels.cuda.conv.cudnn import CudnnConvolutions
from minicaffe.kernels.cuda.conv.trial import Trials
from minicaffe.limits import amount

_log = logging.getLogger(__name__)

_CUBLAS_WORKSPACE = 32 << 20  # bytes; what NVIDIA advises for Hopper, and more than older GPUs need

_CUDA_TYPE = {np.dtype(np.float32): 0, np.dtype(np.float16): 2, np.dtype(np.uint16): 14}  # cudaDataType_t
_TENSOR_CORES = 8  # the first compute capability, Ampere's, whose tensor cores take TF32


class GpuBackend(DeviceBackend):
    """Layers run on one GPU, on a stream of their own; ``on_device`` makes or finds the backend of a GPU.

    All kernels are issued to one stream, with a cuBLAS handle and workspace of its own, so that an iteration can be
    captured as a CUDA graph: CuPy refuses its own cuBLAS calls while it captures.  It is a blocking stream: a user's
    CuPy code outside ``running()`` goes to the default stream, which then waits for this one instead of racing it.
    Only inputs are copied ahead on a second stream (``staging``).
    """

    name = "gpu"
    _of_device: ClassVar[dict[int, GpuBackend]] = {}

    @classmethod
    def on_device(cls, index: int) -> GpuBackend:
        """The backend of GPU ``index``, made once.

        Raises MissingExtraError if CuPy or nvmath-python is not installed, DeviceError if there is no such GPU.
        """
        if index not in cls._of_device:
            cls._of_device[index] = cls(index)
        return cls._of_device[index]

    def __init__(self, index: int) -> None:
        cupy = compat.require("cupy")
        _check_device(cupy, index)
        self._device = cupy.cuda.Device(index)
        self._out_of_memory = cupy.cuda.memory.OutOfMemoryError
        self._capture: GraphCapture | None = None
        self._issuing = threading.RLock()
        self.graphs = 0
        """How many CUDA graphs were made."""
        self.not_captured: list[str] = []
        """What has kept layers from being captured, each once."""
        with self._device:
            self._stream = cupy.cuda.Stream()
            self._staging = Staging(cupy, self._stream)
        with self._current():
            gemm = self._make_gemm(cupy)
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        self._capability = properties["major"]
        super().__init__(cupy, gemm, self._has_tensor_cores)
        if os.environ.get("MINICAFFE_TRIALS"):
            self.ops.trials = Trials(
                Path(os.environ["MINICAFFE_TRIALS"]), properties["name"].decode(), self.zeros, cupy.cuda
            )
        self.ops.launch.retain = self._retain

    def _make_gemm(self, cupy: Any) -> Callable[..., None]:
        """What multiplies matrices on the stream of this backend."""
        return CublasGemm(cupy.empty((_CUBLAS_WORKSPACE,), np.uint8), self._stream.ptr, self._retain)

    def _has_tensor_cores(self, dtype: DTypeLike) -> bool:
        """Whether kernels may multiply factors of a dtype on tensor cores."""
        return self._capability >= _TENSOR_CORES and (np.dtype(dtype) != np.float32 or tf32_allowed())

    def _current(self) -> contextlib.AbstractContextManager[None]:
        return Both(self._device, self._stream)

    # --- captures --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def capture(self) -> Iterator[GraphCapture]:
        made = GraphCapture()
        with self._issuing:
            self._capture = made
            try:
                with made.recording(self.xp.cuda, self._stream):
                    yield made
            finally:
                self._capture = None
        self.graphs += made.complete
        if made.problem and made.problem not in self.not_captured:
            self.not_captured.append(made.problem)
            _log.info("GPU %d: layers run one by one, not as a CUDA graph: %s", self._device.id, made.problem)

    def settings(self) -> tuple:
        return fast_paths.left_out(), tf32_allowed(), self.ops.factors

    def convolutions(self, library: str = "") -> Any:
        return self._cudnn or self.ops if library == "cuDNN" else self.ops

    @functools.cached_property
    def _cudnn(self) -> CudnnConvolutions | None:
        """cuDNN's convolutions; None, and a line in the log that says why, where it cannot be used."""
        try:
            with self._current():
                cudnn = compat.require("cudnn")
                return CudnnConvolutions(cudnn, self.ops, self._stream.ptr, self.zeros, self._outside_captures)
        except (MinicaffeError, ImportError, OSError, RuntimeError) as error:
            _log.warning("engine: CUDNN is left to minicaffe's own kernels: %s", error)
            return None

    def rounding(self, precision: str) -> contextlib.AbstractContextManager[None]:
        if precision == "bf16" and self._capability < _TENSOR_CORES:
            raise DeviceError(
                f"GPU {self._device.id} has compute capability {self._capability}, bf16 needs {_TENSOR_CORES}: "
                "take fp16"
            )
        return super().rounding(precision)

    def not_capturable(self) -> None:
        if self._capture is not None and self._capture.is_own():
            self._capture.refuse("a layer works on arrays of the host (blob.data, blob.diff)")

    def at_replay(self, call: Callable[[], None]) -> None:
        if self._capture is not None:
            self._capture.call(call)

    @contextlib.contextmanager
    def _outside_captures(self, what: str) -> Iterator[None]:
        """Around what no capture takes: another thread's is waited for, this thread's own is refused."""
        with self._issuing:
            if self._capture is not None:
                self._capture.refuse(what)
            yield

    def _retain(self, arguments: Any) -> None:
        if self._capture is not None:
            self._capture.retain(arguments)

    # --- memory ----------------------------------------------------------------------------------------------------

    def upload(self, host: NDArray, out: Any, again: bool = False) -> None:
        with self._outside_captures("values are copied to the device"), self._current():
            self._staging.upload(host, out, again and fast_paths.taken("copy_ahead"))

    def download(self, array: Any, out: NDArray) -> None:
        with self._outside_captures("values are copied from the device"):
            super().download(array, out)

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> Any:
        try:
            with self._outside_captures("memory is allocated"):
                return super().zeros(shape, dtype)
        except self._out_of_memory as error:
            raise DeviceError(
                f"GPU {self._device.id} has no memory left for an array of shape {tuple(shape)}, {np.dtype(dtype)}: "
                f"{error}{self.memory_use()}"
            ) from error

    def memory_use(self) -> str:
        free, total = self.xp.cuda.runtime.memGetInfo()
        rows = [("workspace that all layers share", self.workspace_bytes())]
        if self._staging.spare_bytes:
            rows.append(("inputs that are copied ahead", self._staging.spare_bytes))
        if self.ops.rounded_bytes:
            rows.append(("factors of products in 16 bits", self.ops.rounded_bytes))
        if "_cudnn" in self.__dict__ and self._cudnn is not None and self._cudnn.workspace_bytes:
            rows.append(("workspace of cuDNN", self._cudnn.workspace_bytes))
        return (
            f"\n{usage.table(self, *rows, (f'free, of {amount(total)}', free))}\nUse a smaller batch_size (of test "
            "nets, too), which takes less for blobs, scratch and workspace; Net.reuse_memory for nets that only run "
            "forward; or end other programs on this GPU"
        )

    def synchronize(self) -> None:
        self._stream.synchronize()


def _check_device(cupy: Any, index: int) -> None:
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"no GPU can be used: {error}; install an NVIDIA driver that is recent enough for CuPy {cupy.__version__} "
            "(nvidia-smi shows it), or compute on the CPU"
        ) from error
    if not 0 <= index < count:
        found = (
            f"this machine has {count} (numbers 0 to {count - 1})"
            if count
            else "this machine has none that CUDA can see"
        )
        raise DeviceError(
            f"there is no GPU {index}: {found}; choose another with set_device or --gpu, or compute on the CPU"
        )


class CublasGemm:
    """Products of row-major float32 or float64 matrices, or of batches of them, by cuBLAS on one stream.

    Factors can be of 16 bits, float16 or the bits of bfloat16 in uint16, and so can their product; sums are float32.

    ``retain`` is called with the arrays of each.
    """

    def __init__(self, workspace: Any, stream: int, retain: Callable[[tuple], None] = lambda arrays: None) -> None:
        self._retain = retain
        self._cublas = compat.require("nvmath.bindings.cublas")
        self._workspace = workspace  # cuBLAS only keeps its address
        try:
            self.handle = self._cublas.create()
            # a change of stream takes the workspace away, so the order matters
            self._cublas.set_stream(self.handle, stream)
            self._cublas.set_workspace(self.handle, workspace.data.ptr, workspace.nbytes)
        except (RuntimeError, self._cublas.cuBLASError) as error:
            raise DeviceError(
                f"cuBLAS does not start: {error}; reinstall it with: pip install 'minicaffe[cuda12]' (or cuda13)"
            ) from error
        self._routines: dict[np.dtype, Any] = {
            np.dtype(np.float32): self._cublas.sgemm_strided_batched,
            np.dtype(np.float64): self._cublas.dgemm_strided_batched,
        }
        self._tf32 = False
        self._scalars = {(dtype, value): np.array(value, dtype) for dtype in self._routines for value in (0, 1)}
        mode, algorithm = self._cublas.ComputeType.COMPUTE_32F, self._cublas.GemmAlgo.DEFAULT
        self._of_halves = int(mode), int(algorithm)

    def __call__(
        self, a: Any, b: Any, out: Any, transpose_a: bool = False, transpose_b: bool = False, accumulate: bool = False
    ) -> None:
        """``out = op(a) op(b)``, added to out if ``accumulate``; matrices are contiguous, batches on a first axis.

        A batch of 1 serves a whole batch.  cuBLAS reads matrices column by column, so it sees the transposes: it is
        asked for ``out^T = op(b)^T op(a)^T``.
        """
        rows, columns = out.shape[-2:]
        inner = a.shape[-2] if transpose_a else a.shape[-1]
        batch = out.shape[0] if out.ndim == 3 else 1
        if not out.size:
            return
        if self._tf32 != tf32_allowed():
            self._set_math(not self._tf32)
        self._retain((a, b, out))
        plain = a.dtype == out.dtype and out.dtype in self._routines
        numbers = out.dtype if out.dtype in self._routines else np.dtype(np.float32)
        one, beta = self._scalars[numbers, 1], self._scalars[numbers, int(accumulate)]
        product = self.handle, int(transpose_b), int(transpose_a), columns, rows, inner, one.ctypes.data
        place = _place if plain else _typed_place
        arguments = *product, *place(b), *place(a), beta.ctypes.data, *place(out), batch
        if plain:
            self._routines[out.dtype](*arguments)
        else:
            self._cublas.gemm_strided_batched_ex(*arguments, *self._of_halves)

    def _set_math(self, tf32: bool) -> None:
        modes = self._cublas.Math
        self._cublas.set_math_mode(self.handle, modes.TF32_TENSOR_OP_MATH if tf32 else modes.DEFAULT_MATH)
        self._tf32 = tf32


def _place(array: Any) -> tuple[int, ...]:
    """Where matrices are for cuBLAS: the first one, and the elements from row to row and from matrix to matrix."""
    return array.data.ptr, max(1, array.shape[-1]), _batch_stride(array)


def _typed_place(array: Any) -> tuple[int, ...]:
    """The same with the kind of their elements."""
    pointer, *steps = _place(array)
    return (pointer, _CUDA_TYPE[array.dtype], *steps)


def _batch_stride(array: Any) -> int:
    """Elements from one matrix of a batch to the next; 0 where one matrix serves all."""
    return array.strides[0] // array.itemsize if array.ndim == 3 and array.shape[0] > 1 else 0
