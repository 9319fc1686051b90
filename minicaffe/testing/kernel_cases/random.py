"""Philox4x32-10 (Salmon, Moraes, Dror and Shaw 2011) in NumPy, and the numbers that a device must make of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.testing.kernel_cases.case import KernelCase, Sizes, output

SEED, COUNTER = 0x0123456789ABCDEF, (1 << 32) - 3  # the low half of the counter overflows after three blocks
KEEP = 0.3
_LOW = np.uint64(0xFFFFFFFF)


def philox(seed: int, counter: int, blocks: int) -> NDArray[np.uint64]:
    """The 32-bit words of so many blocks, shape (blocks, 4)."""
    counters = np.uint64(counter) + np.arange(blocks, dtype=np.uint64)
    c0, c1 = counters & _LOW, counters >> np.uint64(32)
    c2 = c3 = np.zeros(blocks, np.uint64)
    keys = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        even, odd = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1 = (odd >> np.uint64(32)) ^ c1 ^ np.uint64(keys[0]), odd & _LOW
        c2, c3 = (even >> np.uint64(32)) ^ c3 ^ np.uint64(keys[1]), even & _LOW
        keys = (keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1)


def uniform(seed: int, counter: int, out: NDArray) -> int:
    """Fill ``out`` with numbers in (0, 1]: a float takes one word, a double two; returns the counter after it."""
    if out.dtype == np.float32:
        blocks = -(-out.size // 4)
        numbers = ((philox(seed, counter, blocks) >> np.uint64(8)) + np.uint64(1)) / 2**24
    else:
        blocks = -(-out.size // 2)
        words = philox(seed, counter, blocks)
        numbers = ((words[:, ::2] << np.uint64(21) | words[:, 1::2] >> np.uint64(11)) + np.uint64(1)) / 2**53
    out.reshape(-1)[...] = numbers.reshape(-1)[: out.size]
    return counter + blocks


def bernoulli(seed: int, counter: int, out: NDArray, keep: float) -> int:
    """Fill ``out`` with 1 (probability ``keep``) and 0, one word each; returns the counter after it."""
    blocks = -(-out.size // 4)
    out.reshape(-1)[...] = philox(seed, counter, blocks).reshape(-1)[: out.size] < np.uint64(round(keep * 2**32))
    return counter + blocks


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """See the package."""
    for count in [*sizes.edges, *([sizes.large] if sizes.large else [])]:
        args = (output(count), output(count), output(count))
        yield KernelCase("philox", args, str(count), reference=_expected, run=_drawn, exact=True)


def _expected(first: NDArray, second: NDArray, third: NDArray) -> None:
    counter = uniform(SEED, COUNTER, first)
    counter = bernoulli(SEED, counter, second, KEEP)
    uniform(SEED, counter, third)


def _drawn(backend: Any, first: Any, second: Any, third: Any) -> None:
    backend.random.set_state(np.array([SEED, COUNTER], "<u8").tobytes())
    backend.random.uniform(first)
    backend.random.bernoulli(second, KEEP)
    backend.random.uniform(third)
