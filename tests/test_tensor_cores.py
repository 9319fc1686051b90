"""The CPU's model of what tensor cores do (``cuda_host.h``), and 16-bit numbers, against NumPy; needs g++, no GPU.

Which lane of a warp holds what of a fragment is spelt out here once more, from the PTX manual's figures.
"""

from __future__ import annotations

import importlib.resources

import cuda_host
import numpy as np
import pytest

from minicaffe.kernels import cuda

pytestmark = pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ is not installed")

KERNELS = """
template <class Factor>
__global__ void product(const unsigned* a, const unsigned* b, float* d) {
    unsigned left[4], right[2];
    float sums[4];
    const int thread = blockIdx.x * blockDim.x + threadIdx.x;
    for (int i = 0; i < 4; ++i) left[i] = a[thread * 4 + i];
    for (int i = 0; i < 2; ++i) right[i] = b[thread * 2 + i];
    for (int i = 0; i < 4; ++i) sums[i] = d[thread * 4 + i];
    Factor::mma(sums, left, right);
    Factor::mma(sums, left, right);
    for (int i = 0; i < 4; ++i) d[thread * 4 + i] = sums[i];
}

__global__ void product_of_some(unsigned* words, float* d) {
    unsigned left[4] = {}, right[2] = {};
    float sums[4] = {};
    if (threadIdx.x != 5) Tf32::mma(sums, left, right);
    d[threadIdx.x] = sums[0];
}

__global__ void to_tf32(const float* values, float* rounded, int count) {
    for (int i = 0; i < count; ++i) rounded[i] = __uint_as_float(round_to_tf32(values[i]));
}

template <typename T>
__global__ void narrow(const float* values, unsigned short* bits, int count) {
    for (int i = 0; i < count; ++i) bits[i] = T(values[i]).bits;
}

template <typename T>
__global__ void widen(const unsigned short* bits, float* values, int count) {
    for (int i = 0; i < count; ++i) {
        T number;
        number.bits = bits[i];
        values[i] = number;
    }
}
"""
PRODUCTS = {"Tf32": "product<Tf32>", "Half": "product<Halves<Half>>", "BFloat16": "product<Halves<BFloat16>>"}
NAMES = ("product_of_some", "to_tf32", "narrow<Half>", "narrow<BFloat16>", "widen<Half>", "widen<BFloat16>")


@pytest.fixture(scope="module")
def kernels():
    folder = importlib.resources.files(cuda)
    headers = "".join((folder / name).read_text() for name in ("half.cuh", "mma.cuh"))
    return cuda_host.build(headers + KERNELS, (*PRODUCTS.values(), *NAMES))


def call(kernel, *args, block=(1,), grid=(1,), reverse=False):
    values = [cuda_host.Pointer(a.ctypes.data, a.dtype) if isinstance(a, np.ndarray) else np.int32(a) for a in args]
    kernel(grid, block, values, reverse)


def numbers(kind, shape, rng):
    """Numbers that a factor of this kind can be, and their bits."""
    values = rng.standard_normal(shape).astype(np.float32)
    if kind == "Half":
        return values.astype(np.float16).astype(np.float64), values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32) & np.uint32(0xFFFFE000 if kind == "Tf32" else 0xFFFF0000)
    return bits.view(np.float32).astype(np.float64), bits if kind == "Tf32" else (bits >> 16).astype(np.uint16)


def register(kind, bits, row, column, down):
    """The register that holds a number, or two that are neighbours in its column (``down``) or row."""
    if kind == "Tf32":
        return bits[row, column]
    second = bits[row + 1, column] if down else bits[row, column + 1]
    return np.uint32(bits[row, column]) | np.uint32(second) << 16


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", PRODUCTS)
def test_fragments_are_multiplied(kernels, kind, reverse):
    rng, warps, per_word = np.random.default_rng(0), 3, 1 if kind == "Tf32" else 2
    a, b = np.zeros((warps, 32, 4), np.uint32), np.zeros((warps, 32, 2), np.uint32)
    d = rng.standard_normal((warps, 32, 4)).astype(np.float32)
    expected = d.copy()
    for warp in range(warps):
        left, left_bits = numbers(kind, (16, 8 * per_word), rng)
        right, right_bits = numbers(kind, (8 * per_word, 8), rng)
        for lane in range(32):
            group, member = divmod(lane, 4)
            near, far = per_word * member, per_word * (member + 4)
            for i, (row, k) in enumerate(((group, near), (group + 8, near), (group, far), (group + 8, far))):
                a[warp, lane, i] = register(kind, left_bits, row, k, down=False)
            for i, k in enumerate((near, far)):
                b[warp, lane, i] = register(kind, right_bits, k, group, down=True)
            for i in range(4):
                expected[warp, lane, i] += 2 * left[group + i // 2 * 8] @ right[:, 2 * member + i % 2]
    if kind == "Tf32":  # what a tensor core does not look at
        a, b = a | np.uint32(0x1ABC), b | np.uint32(0x0FFF)
    call(kernels[PRODUCTS[kind]], a, b, d, block=(64,), reverse=reverse)
    call(kernels[PRODUCTS[kind]], a[2], b[2], d[2], block=(32,), reverse=reverse)
    np.testing.assert_allclose(d, expected, rtol=1e-5, atol=1e-5)


def test_a_lane_that_stays_away_is_found(kernels):
    words, sums = np.zeros(64, np.uint32), np.zeros(64, np.float32)
    with pytest.raises(RuntimeError, match="barrier that others never reach"):
        call(kernels["product_of_some"], words, sums, block=(64,))
    call(kernels["to_tf32"], sums[:1], sums[1:], 1)  # the fibers that were given up are made anew


def test_rounding_to_tf32(kernels):
    step = np.float32(2**-10)  # between neighbours from 1 to 2
    below, above = np.nextafter(1 + step / 2, 0, dtype=np.float32), np.nextafter(1 + step / 2, 2, dtype=np.float32)
    values = np.array([1, below, 1 + step / 2, above, 1 + 1.5 * step, -1 - step / 2, 1e-39, 2 - 2**-13], np.float32)
    expected = [1, 1, 1 + step, 1 + step, 1 + 2 * step, -1 - step, 1e-39, 2]
    rounded = np.empty_like(values)
    call(kernels["to_tf32"], values, rounded, len(values))
    np.testing.assert_allclose(rounded, np.array(expected, np.float32), rtol=1e-7, atol=1e-41)


def test_halves_are_those_of_numpy(kernels):
    bits = np.arange(1 << 16, dtype=np.uint16)
    values = np.empty(bits.size, np.float32)
    call(kernels["widen<Half>"], bits, values, bits.size)
    np.testing.assert_array_equal(values, bits.view(np.float16).astype(np.float32))
    # every half, the middle to the next, and what is just beside it
    finite = values[np.isfinite(values)]
    middle = finite + np.diff(np.append(finite, np.float32(65536))) / 2
    middle = middle[np.abs(middle) < 65536].astype(np.float32)
    tried = np.concatenate([finite, middle, *(np.nextafter(middle, np.float32(to)) for to in (-9e9, 9e9))])
    tried = np.append(tried, np.array([np.inf, -np.inf, np.nan, 1e30, -1e30, 1e-30, 65519.9, 65520], np.float32))
    narrowed = np.empty(tried.size, np.uint16)
    call(kernels["narrow<Half>"], tried, narrowed, tried.size)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(narrowed.view(np.float16), tried.astype(np.float16))


def test_bfloat16_is_the_nearest(kernels):
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(4000) * 10.0 ** rng.integers(-30, 30, 4000)).astype(np.float32)
    bits, back = np.empty(values.size, np.uint16), np.empty_like(values)
    call(kernels["narrow<BFloat16>"], values, bits, values.size)
    call(kernels["widen<BFloat16>"], bits, back, bits.size)
    lower = (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    upper = ((values.view(np.uint32) & np.uint32(0xFFFF0000)) + np.uint32(0x10000)).view(np.float32)
    nearest = np.where(np.abs(values - lower) <= np.abs(upper - values), lower, upper)
    np.testing.assert_array_equal(back, nearest)
    exact = np.array([1 + 2**-8, 1 + 3 * 2**-8, np.inf, -np.inf, np.nan, 3.4e38], np.float32)
    bits, back = np.empty(exact.size, np.uint16), np.empty_like(exact)
    call(kernels["narrow<BFloat16>"], exact, bits, exact.size)
    call(kernels["widen<BFloat16>"], bits, back, exact.size)
    np.testing.assert_array_equal(back, [1, 1 + 2**-6, np.inf, -np.inf, np.nan, np.inf])
