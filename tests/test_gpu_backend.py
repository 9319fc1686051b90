"""The GPU backend without a GPU: CuPy and cuBLAS are replaced by models of the calls that it makes to them."""

from __future__ import annotations

from types import SimpleNamespace

import cuda_host
import numpy as np
import pytest
import strict_cuda
import strict_cupy
from strict_cuda import Context, FakeCublas, FakeCupy

from minicaffe import compat
from minicaffe.backend.gpu import CublasGemm, GpuBackend
from minicaffe.errors import DeviceError, MissingExtraError
from minicaffe.kernels import fast_paths, reference


@pytest.fixture
def install(monkeypatch):
    """Puts models in the place of the packages; None takes one away."""

    def put(cupy, cublas=None):
        modules = {"cupy": cupy, "nvmath": SimpleNamespace(), "nvmath.bindings.cublas": cublas or FakeCublas()}
        monkeypatch.setattr(compat, "require", modules.__getitem__)
        monkeypatch.setattr(GpuBackend, "_of_device", {})

    return put


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("batches", [None, (1, 1, 1), (4, 4, 4), (1, 4, 4), (4, 1, 4)])
@pytest.mark.parametrize(("rows", "inner", "columns"), [(3, 4, 5), (1, 4, 1), (2, 1, 3)])
def test_gemm(install, dtype, accumulate, transpose_a, transpose_b, batches, rows, inner, columns):
    install(FakeCupy())
    rng = np.random.default_rng(0)
    shapes = [
        (inner, rows) if transpose_a else (rows, inner),
        (columns, inner) if transpose_b else (inner, columns),
        (rows, columns),
    ]
    if batches:
        # every other matrix, as the groups of a convolution are
        shapes = [(batch, 2, *shape) for batch, shape in zip(batches, shapes, strict=True)]
    a, b, out = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    device = [strict_cupy.asarray(array) for array in (a, b, out)]
    views = [array[:, 1] for array in device] if batches else device
    gemm = CublasGemm(strict_cupy.empty((64,), np.uint8), 0x51)
    gemm(*views, transpose_a, transpose_b, accumulate)
    for i in range(max(batches) if batches else 1):
        parts = [array[min(i, len(array) - 1), 1] if batches else array for array in (a, b, out)]
        reference.gemm(*parts, transpose_a, transpose_b, accumulate)
    np.testing.assert_allclose(device[2].get(), out, rtol=1e-5 if dtype == "float32" else 1e-12)


def test_nothing_is_asked_of_cublas_for_an_empty_product(install):
    install(FakeCupy())
    empty = strict_cupy.zeros((0, 3), np.float32)
    CublasGemm(strict_cupy.empty((64,), np.uint8), 0x51)(
        empty, strict_cupy.zeros((3, 2), np.float32), strict_cupy.zeros((0, 2), np.float32)
    )


def test_a_backend_is_made_once_for_each_gpu(install):
    install(FakeCupy(devices=2))
    assert GpuBackend.on_device(1) is GpuBackend.on_device(1)
    assert GpuBackend.on_device(0) is not GpuBackend.on_device(1)


def test_copies_go_through_the_stream_of_the_backend(install):
    install(FakeCupy())
    backend = GpuBackend.on_device(0)
    array, back = backend.zeros((2, 3), np.float32), np.empty((3, 2), np.float32)
    backend.upload(np.arange(6, dtype=np.float32).reshape(3, 2).T, array)
    backend.download(array, back.T)
    np.testing.assert_array_equal(back.reshape(-1), np.arange(6))
    scalar, number = backend.zeros((), np.float64), np.empty((), np.float64)
    backend.upload(np.array(3.0), scalar)
    backend.download(scalar, number)
    assert number == 3 and not Context.current
    with backend.running(), backend.running():
        assert len({id(context) for context in Context.current}) == 2
    backend.synchronize()


@pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ is not installed")
def test_ops_run_on_the_backend(install):
    install(FakeCupy())
    backend = GpuBackend.on_device(0)
    a, b, out = (backend.zeros(shape, np.float32) for shape in ((3, 2), (2, 4), (3, 4)))
    with backend.running():
        backend.random.uniform(a)
        backend.random.uniform(b)
        backend.ops.gemm(a, b, out)
    np.testing.assert_allclose(out.get(), a.get() @ b.get(), rtol=1e-6)


def test_flags_are_read_on_the_backends_stream(install):
    install(FakeCupy())
    backend = GpuBackend.on_device(0)

    class Flag:
        def __int__(self):
            assert len(Context.current) == 2
            return self.value

        def fill(self, value):
            self.value = value

    flag = Flag()
    flag.fill(5)
    for _ in range(2):
        backend.check_later(flag, lambda index: ValueError(f"item {index}"))
    with pytest.raises(ValueError, match="item 5"):
        backend.run_checks()
    backend.check_later(flag, lambda index: ValueError(f"item {index}"))
    backend.run_checks()
    assert flag.value == -1


@pytest.mark.parametrize(
    ("devices", "index", "message"),
    [(0, 0, "none that CUDA can see"), (2, 2, r"has 2 \(numbers 0 to 1\)"), (2, -1, "no GPU -1")],
)
def test_a_gpu_that_is_not_there(install, devices, index, message):
    install(FakeCupy(devices))
    with pytest.raises(DeviceError, match=message):
        GpuBackend.on_device(index)


def test_a_driver_that_does_not_work(install):
    install(FakeCupy(error="cudaErrorInsufficientDriver: too old"))
    with pytest.raises(DeviceError, match=r"cudaErrorInsufficientDriver.*nvidia-smi"):
        GpuBackend.on_device(0)


def test_cublas_that_does_not_start(install):
    class Broken(FakeCublas):
        def create(self):
            raise self.cuBLASError("NOT_INITIALIZED (1)")

    install(FakeCupy(), Broken())
    with pytest.raises(DeviceError, match=r"NOT_INITIALIZED.*minicaffe\[cuda12\]"):
        GpuBackend.on_device(0)


def test_memory_that_runs_out(install):
    install(FakeCupy())
    with pytest.raises(DeviceError, match=r"(?s)GPU 0 has no memory left.*\(1000000, 10000000\).*batch_size"):
        GpuBackend.on_device(0).zeros((1000000, 10000000), np.float32)


@pytest.mark.skipif(compat.have("cupy"), reason="CuPy is installed")
def test_a_missing_package_names_its_extra():
    with pytest.raises(MissingExtraError, match=r"cupy.*minicaffe\[cuda12\]"):
        GpuBackend.on_device(0)


@pytest.mark.parametrize("again", [False, True])
def test_large_copies_wait_for_their_turn_of_a_buffer_only(again, install, monkeypatch):
    waited = []
    monkeypatch.setattr(strict_cuda.Event, "synchronize", lambda self: waited.append(self.at))
    install(FakeCupy())
    backend = GpuBackend.on_device(0)
    rng, sizes = np.random.default_rng(0), (20_000, 30_000, 5, 25_000, 40_000, 20_000)
    for turn, size in enumerate(sizes):
        values, out = rng.standard_normal((2, size)).astype("f4"), backend.zeros((2, size), np.float32)
        expected = values.copy()
        backend.upload(values, out, again)
        values[...] = 0  # the copy does not look at it any more
        np.testing.assert_array_equal(out.get(), expected)
        assert len(waited) == max(0, turn - 2)  # two buffers; the small one needs none
    assert None not in waited


class TwoStreams:
    """Inputs that are copied ahead again and again, and read by what comes between."""

    def __init__(self):
        self.backend = GpuBackend.on_device(0)
        self.inputs = [self.backend.zeros((2, size), np.float32) for size in (20_000, 30_000)]

    def run(self, times=4):
        """Whether what is read is what was copied before."""
        rng, found = np.random.default_rng(0), []
        for _ in range(times):
            for out in self.inputs:
                values = rng.standard_normal(out.shape).astype("f4")
                expected = values.copy()
                self.backend.upload(values, out, again=True)
                values[...] = 0
                with self.backend.running():
                    out += 1
                found.append(np.array_equal(out.get(), expected + 1))
        return found


def test_inputs_are_copied_ahead(install, monkeypatch):
    copied = []
    install(FakeCupy())
    streams = TwoStreams()
    issue = strict_cuda.Stream.issue
    monkeypatch.setattr(strict_cuda.Stream, "issue", lambda self, *rest: (copied.append(self), issue(self, *rest)))
    with fast_paths.without("copy_ahead"):
        assert all(streams.run()) and not copied
    assert all(streams.run()) and len(copied) == 8
    spare = streams.backend._staging.spare_bytes
    assert spare == 2 * 4 * (20_000 + 30_000)
    with pytest.raises(DeviceError, match=f"inputs that are copied ahead +{spare / 2**10:.3g} KiB"):
        streams.backend.zeros((10**7, 10**7), np.float32)


@pytest.mark.parametrize("streams", ["the kernels' waits", "the copies' waits"])
def test_a_wait_that_is_missing_shows(streams, install, monkeypatch):
    wait = strict_cuda.Stream.wait_event
    kernels = streams == "the kernels' waits"
    some = lambda self, event: None if self.runs_kernels() == kernels else wait(self, event)  # noqa: E731
    monkeypatch.setattr(strict_cuda.Stream, "wait_event", some)
    install(FakeCupy())
    if kernels:
        assert not any(TwoStreams().run())
    else:
        with pytest.raises(strict_cuda.RaceError):
            TwoStreams().run()


def test_training_does_without_copies_ahead_where_memory_is_short(install, monkeypatch):
    install(FakeCupy())
    streams = TwoStreams()

    def empty(shape, dtype):
        raise strict_cuda.OutOfMemoryError("Out of memory allocating")

    monkeypatch.setattr(strict_cupy, "empty", empty)
    assert all(streams.run()) and streams.backend._staging.spare_bytes == 0
