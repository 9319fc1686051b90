"""Memory: passes over a net allocate nothing, and kernels keep what they work in alive."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import llvmlite.binding as llvm
import numpy as np
import pytest
from numba import config

from minicaffe import models, summary
from minicaffe.kernels import cpu
from minicaffe.kernels.cpu.simd import memory as simd_memory
from minicaffe.layers import TRAIN

NETS = {
    "lenet/lenet_train_test.prototxt": {"data": (8, 1, 28, 28), "label": (8,)},
    "siamese/mnist_siamese_train_test.prototxt": {"pair_data": (8, 2, 28, 28), "sim": (8,)},
    "cifar10/cifar10_full_train_test.prototxt": {"data": (8, 3, 32, 32), "label": (8,)},
}
OBJECTS = 32 * 1024
"""Bytes that Python's own short-lived objects may take; the smallest blob of a hidden layer here has as many."""


@pytest.mark.parametrize("model", NETS)
def test_a_pass_allocates_no_arrays(model):
    """Blobs, scratch memory and the workspace are made in reshape: forward and backward only use them."""
    net = summary.load(models.find(model), TRAIN, shapes=NETS[model])
    rng = np.random.default_rng(0)
    for name in net.inputs:
        net.blobs[name].data[...] = rng.integers(2, size=net.blobs[name].shape)
    for _ in range(4):  # the fourth is the first that may be tried on one thread, by code that is loaded then
        net.run_forward()
        net.run_backward()
    tracemalloc.start()
    try:
        net.run_forward()
        net.run_backward()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        net.run_forward()
        net.run_backward()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < OBJECTS


SCRIPT = """
import threading
import numpy as np
from minicaffe.kernels import cpu, reference
from minicaffe.kernels.window import Window

stop = threading.Event()


def churn():
    while not stop.is_set():  # takes and gives back the sizes that kernels take
        for size in (1 << 12, 1 << 15, 1 << 17, 1 << 18):
            np.full(size, 255, np.uint8)


thread = threading.Thread(target=churn)
thread.start()
try:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((65, 257), np.float32), rng.standard_normal((257, 129), np.float32)
    x, w = rng.standard_normal((3, 4, 12, 12), np.float32), rng.standard_normal((6, 4, 5, 5), np.float32)
    tiled = rng.standard_normal((3, 64, 14, 14), np.float32), rng.standard_normal((64, 64, 3, 3), np.float32)
    window, pool = Window((5, 5), (1, 1), (0, 0), (1, 1)), Window((2, 2), (2, 2), (0, 0), (1, 1))

    def convolved(ops, x, w, y, window):
        memory = np.empty(ops.convolution_workspace(x.shape, y.shape, window, 1), np.float32)
        ops.convolve(x, w, None, y, window, 1, memory)
        dw, dx = np.zeros_like(w), np.empty_like(x)
        ops.convolve_weight_grad(x, y, dw, window, 1, memory, True)
        ops.convolve_data_grad(y, w, dx, window, 1, memory)
        return y, dw, dx

    def results(ops):
        c = np.empty((65, 129), np.float32)
        ops.gemm(a, b, c)
        y, dw, dx = convolved(ops, x, w, np.empty((3, 6, 8, 8), np.float32), window)
        tiles = convolved(ops, *tiled, np.empty((3, 64, 14, 14), np.float32), Window((3, 3), (1, 1), (1, 1), (1, 1)))
        pooled, mask = np.empty((3, 6, 4, 4), np.float32), np.empty((3, 6, 4, 4), np.int32)
        ops.max_pool(y, pooled, mask, pool)
        scale, normal = np.empty((3, 4, 144), np.float32), np.empty((3, 4, 144), np.float32)
        ops.lrn(x.reshape(3, 4, 144), scale, normal, 3, 1.0, 0.75, 1.0)
        return c, y, dw, dx, *tiles, pooled, normal

    expected = results(reference)
    for _ in range(50):
        for one, other in zip(expected, results(cpu), strict=True):
            np.testing.assert_allclose(other, one, rtol=0, atol=1e-4 * np.abs(one).max())
finally:
    stop.set()
    thread.join()
"""


def test_kernels_do_not_use_memory_that_was_given_back():
    """glibc fills freed memory (MALLOC_PERTURB_) while another thread takes it again."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | {"MALLOC_PERTURB_": "165"}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_width_of_registers_is_told_without_llvms_code_generator(monkeypatch):
    told = simd_memory._register_bytes()
    if config.CPU_NAME is None:
        monkeypatch.setattr(config, "CPU_NAME", llvm.get_host_cpu_name())
    assert simd_memory._register_bytes() == told == simd_memory.WIDTH


def at(offset: int, values: np.ndarray) -> np.ndarray:
    """A copy of an array that begins so many bytes after a multiple of 64."""
    room = np.zeros(values.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    placed = room[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    placed[...] = values
    return placed


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(37, 1, 1), (64, 5, 1), (9000, 3, 1), (5, 7, 13)])
def test_where_arrays_lie_changes_no_bit_of_a_normalisation(shape, dtype):
    rng = np.random.default_rng(0)
    x, dy, y = (rng.standard_normal(shape).astype(dtype) for _ in range(3))
    vectors = rng.uniform(0.5, 1.5, (3, shape[1])).astype(dtype)
    found = set()
    for offset in range(0, 64, x.itemsize):
        inputs = [at(offset, array) for array in (x, dy, y)]
        mean, factor, v = (at(offset, vector) for vector in vectors)
        sums = [at(offset, np.zeros(shape[1], dtype)) for _ in range(4)]
        dx, out = at(offset, x), at(offset, x)
        cpu.standardize_grad(*inputs[:2], mean, factor, *sums[:2], dx, inputs[2], v, *sums[2:], 0.1)
        cpu.standardize(inputs[0], 1e-5, mean, factor, v, out, None)
        found.add(b"".join(array.tobytes() for array in (dx, out, *sums, mean, factor, v)))
    assert len(found) == 1
