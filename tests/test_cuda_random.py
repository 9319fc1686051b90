"""Philox random numbers, made by the CUDA kernels built for the CPU."""

from __future__ import annotations

import cuda_host
import numpy as np
import pytest
import strict_cupy
from strict_gpu import StrictBackend

from minicaffe.backend import random
from minicaffe.errors import SnapshotError

pytestmark = pytest.mark.skipif(not cuda_host.have_compiler(), reason="g++ is not installed")


@pytest.fixture
def source():
    random.seed(1701)
    return StrictBackend().random


def draw(source, count, dtype=np.float32):
    out = strict_cupy.empty((count,), dtype)
    source.uniform(out)
    return out.get()


def test_known_answers_of_philox(source):
    # Random123's kat_vectors: philox4x32 with 10 rounds, key and counter 0
    words = np.array([0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8], np.uint64)
    source.set_state(bytes(16))
    np.testing.assert_array_equal(draw(source, 4), ((words >> 8) + 1) / 2**24)
    source.set_state(bytes(16))
    np.testing.assert_array_equal(draw(source, 2, np.float64), ((words[::2] << 21 | words[1::2] >> 11) + 1) / 2**53)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_uniform_numbers(source, dtype):
    x = draw(source, 100_001, dtype)
    assert x.min() > 0 and x.max() <= 1 and len(np.unique(x)) > 99_000
    counts = np.histogram(x, 50, (0, 1))[0]
    assert (
        (counts - len(x) / 50) ** 2 / (len(x) / 50)
    ).sum() < 86  # chi^2, 49 degrees of freedom: 0.1% of streams exceed it
    assert abs(np.corrcoef(x[1:], x[:-1])[0, 1]) < 0.015


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.5, 1.0])
def test_bernoulli(source, keep):
    out = strict_cupy.empty((10, 1001), np.float32)
    source.bernoulli(out, keep)
    assert set(np.unique(out.get())) <= {0, 1}
    assert abs(out.get().mean() - keep) <= 4 * np.sqrt(keep * (1 - keep) / out.size)


def test_calls_draw_new_numbers(source):
    first, second = draw(source, 100), draw(source, 100)
    assert len(np.unique([first, second])) == 200


def test_state_resumes_the_stream(source):
    draw(source, 7)
    state = source.get_state()
    expected = draw(source, 50)
    other = StrictBackend().random
    other.set_state(state)
    assert len(state) == 16
    np.testing.assert_array_equal(draw(other, 50), expected)


def test_foreign_state_is_refused(source):
    with pytest.raises(SnapshotError, match="16 bytes, this one 2500"):
        source.set_state(bytes(2500))


def test_the_process_seed_determines_the_numbers(source):
    first = draw(source, 10)
    random.seed(1701)
    np.testing.assert_array_equal(draw(source, 10), first)
    random.seed(1702)
    assert (draw(source, 10) != first).all()


def test_drawing_does_not_wait_for_the_device(source):
    out = strict_cupy.empty((10,), np.float32)
    with strict_cupy.no_sync():
        source.uniform(out)
        source.bernoulli(out, 0.5)
