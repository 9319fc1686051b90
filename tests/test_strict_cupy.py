"""The stand-ins refuse what would be wrong, or slow, on a GPU."""

from __future__ import annotations

import cuda_host
import numpy as np
import pytest
import strict_cupy as xp

needs_compiler = pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ is not installed")


@pytest.mark.parametrize(
    "mix",
    [
        lambda a, host: a + host,
        lambda a, host: host + a,
        lambda a, host: a.__iadd__(host),
        lambda a, host: xp.exp(host),
        lambda a, host: np.exp(a),
        lambda a, host: xp.add(a, host, out=a),
        lambda a, host: xp.add(a, a, out=host),
        lambda a, host: a.__setitem__(..., host),
        lambda a, host: a.__setitem__(host.astype(int), 0),
        lambda a, host: xp.concatenate([a, host]),
    ],
)
def test_device_and_host_do_not_mix(mix):
    with pytest.raises(TypeError):
        mix(xp.ones(3, np.float32), np.ones(3, np.float32))


@pytest.mark.parametrize("convert", [float, bool, complex, list, np.asarray, lambda a: 1 in a, range])
def test_nothing_is_copied_to_the_host_unasked(convert):
    with pytest.raises(TypeError):
        convert(xp.ones((), np.float32))


@pytest.mark.parametrize(
    "wait", [lambda a: a.get(), lambda a: a[0].item(), lambda a: int(a[0]), xp.asnumpy, lambda a: a[a > 0]]
)
def test_waiting_is_allowed_outside_no_sync_only(wait):
    a = xp.ones(3, np.float32)
    wait(a)
    with xp.no_sync(), pytest.raises(TypeError, match="waits for the device"):
        wait(a)


def test_arithmetic():
    a = xp.asarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    b = 2 * a - a / 2 + a**2
    b[:, 1] += 1
    xp.maximum(b, a, out=b)
    expected = 1.5 * a.get() + a.get() ** 2
    expected[:, 1] += 1
    np.testing.assert_array_equal(b.get(), expected)
    assert b.dtype == np.float32 and b.sum(axis=1).shape == (2,) and (b @ a.T).shape == (2, 2)


def test_views_share_memory():
    a = xp.zeros((2, 3), np.float32)
    a.reshape(3, 2)[2] = 7
    a.T[0, 1] = 5
    np.testing.assert_array_equal(a.get(), [[0, 0, 0], [5, 7, 7]])


def test_fresh_memory_is_not_a_number():
    assert np.isnan(xp.empty((2, 3), np.float64).get()).all()


def test_allocations_are_counted():
    a, before = xp.zeros(3, np.float32), xp.allocations()
    a += a
    a[1:] *= 2
    xp.exp(a, out=a)
    assert xp.allocations() == before
    a = a + a
    assert xp.allocations() == before + 1


def test_names_that_cupy_lacks_are_refused():
    with pytest.raises(AttributeError, match="nditer"):
        _ = xp.nditer


def test_every_name_here_is_one_of_cupys():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    assert not [name for name in xp._FUNCTIONS | xp._CONSTANTS if not hasattr(cupy, name)]
    assert not [name for name in xp._METHODS | xp._ATTRIBUTES if not hasattr(cupy.ndarray, name)]


def kernel(body, parameters="float* a, int n", name="test"):
    code = f"template <typename T>\n__global__ void {name}({parameters}) {{ {body} }}"
    return xp.RawModule(code=code, name_expressions=[f"{name}<float>"]).get_function(f"{name}<float>")


@needs_compiler
class TestKernels:
    def test_threads_and_blocks(self):
        a = xp.zeros(24, np.int32)
        body = "int i = blockIdx.x * blockDim.x * blockDim.y + threadIdx.y * blockDim.x + threadIdx.x; a[i] = i;"
        kernel(body, "int* a, int n")((3,), (4, 2), (a, np.int32(1)))
        np.testing.assert_array_equal(a.get(), np.arange(24))

    @pytest.mark.parametrize("reverse", [False, True])
    def test_threads_meet_at_a_barrier(self, monkeypatch, reverse):
        monkeypatch.setattr(xp.RawModule, "reverse", reverse)
        a = xp.zeros(64, np.float32)
        body = (
            "__shared__ float s[64]; s[threadIdx.x] = threadIdx.x; __syncthreads(); "
            "a[threadIdx.x] = s[(threadIdx.x + n) % 64];"
        )
        kernel(body)((1,), (64,), (a, np.int32(5)))
        np.testing.assert_array_equal(a.get(), np.roll(np.arange(64), -5))

    def test_a_missing_barrier_shows_in_one_of_the_orders(self, monkeypatch):
        body = "__shared__ float s[64]; s[threadIdx.x] = threadIdx.x + 1; a[threadIdx.x] = s[(threadIdx.x + n) % 64];"
        results = []
        for reverse in (False, True):
            monkeypatch.setattr(xp.RawModule, "reverse", reverse)
            a = xp.zeros(64, np.float32)
            kernel(body, name="racing")((1,), (64,), (a, np.int32(5)))
            results.append(a.get())
        assert (results[0] != results[1]).any()

    def test_a_barrier_that_some_threads_skip_is_reported(self):
        with pytest.raises(RuntimeError, match="others never reach"):
            kernel("if (threadIdx.x < n) __syncthreads();")((1,), (8,), (xp.zeros(1, np.float32), np.int32(3)))

    @pytest.mark.parametrize("place", [-1, 8])
    def test_writing_outside_an_array_is_reported(self, place):
        with pytest.raises(MemoryError):
            kernel("a[n] = 1;")((1,), (1,), (xp.zeros(8, np.float32), np.int32(place)))

    @pytest.mark.parametrize(
        "args",
        [
            (np.zeros(3, np.float32), np.int32(1)),
            (xp.zeros(3, np.float64), np.int32(1)),
            (xp.zeros(3, np.float32), np.int64(1)),
            (xp.zeros(3, np.float32), np.float32(1)),
            (xp.zeros(3, np.float32), xp.zeros((), np.int32)),
            (np.int32(1), np.int32(1)),
            (xp.zeros(3, np.float32),),
        ],
    )
    def test_arguments_that_do_not_fit_are_refused(self, args):
        with pytest.raises(TypeError):
            kernel("a[0] = n;")((1,), (1,), args)

    def test_arrays_with_gaps_are_refused(self):
        with pytest.raises(ValueError, match="strides"):
            kernel("a[0] = n;")((1,), (1,), (xp.zeros((3, 4), np.float32)[:, 1], np.int32(1)))

    @pytest.mark.parametrize(("grid", "block"), [((0,), (1,)), ((1,), (2048,)), ((1, 70000), (1,))])
    def test_sizes_that_no_gpu_takes_are_refused(self, grid, block):
        with pytest.raises(ValueError, match="no GPU"):
            kernel("a[0] = n;")(grid, block, (xp.zeros(1, np.float32), np.int32(1)))

    def test_source_that_does_not_compile_is_reported(self):
        with pytest.raises(RuntimeError, match="g\\+\\+ refuses"):
            kernel("a[0] = unknown;", name="broken")
