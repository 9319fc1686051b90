"""A declarative table of calls of the primitives, by family, with which a backend is held against
``kernels/reference``.

``cases(sizes)`` gives the calls over arrays of these sizes; ``expected`` and ``disagreement`` say what must come of
one. The CUDA kernels are tested with it on the CPU (``tests/test_cuda_host.py``) and on a GPU (``minicaffe
gpu_check``).
"""

from __future__ import annotations

from collections.abc import Iterator

from minicaffe.testing.kernel_cases import (
    channels,
    halves,
    implicit_gemm,
    linear,
    losses,
    neurons,
    pooling,
    random,
    regions,
    rows,
    stored,
    updates,
    windows,
)
from minicaffe.testing.kernel_cases.case import KernelCase, Output, Sizes, disagreement

__all__ = ["EDGES", "KernelCase", "Output", "Sizes", "cases", "disagreement"]

EDGES = (1, 2, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 5003)
"""Around the edges of warps and blocks, and a prime above several blocks."""

_FAMILIES = (
    linear,
    halves,
    windows,
    implicit_gemm,
    pooling,
    neurons,
    channels,
    regions,
    rows,
    losses,
    updates,
    random,
    stored,
)


def cases(sizes: Sizes) -> Iterator[KernelCase]:
    """Every case over these sizes, all with names of their own."""
    seen: dict[str, int] = {}
    for family in _FAMILIES:
        for case in family.cases(sizes):
            count = seen[case.name] = seen.get(case.name, 0) + 1
            yield case if count == 1 else case.renamed(f"{case.name} #{count}")
