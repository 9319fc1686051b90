"""The parts of a check, the most telling first."""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """``module`` has ``checks(options)``; ``share`` weighs its time against that of the parts after it.

    ``patience`` is how many seconds one check may take before it is given up.  ``packaged`` says that a wheel has it.
    """

    name: str
    module: str
    share: float
    patience: float
    packaged: bool
    what: str


PARTS = (
    Part("device", "minicaffe.testing.gpu.machine", 2, 90, True, "versions, rates of copies and matrix products"),
    Part("kernels", "minicaffe.testing.gpu.kernels", 5, 60, True, "every CUDA kernel against kernels/reference"),
    Part("layers", "gpu_layers", 4, 90, False, "Caffe's numbers, gradients, CPU against GPU"),
    Part("training", "minicaffe.testing.gpu.training", 4, 200, True, "solvers, nets, equal bits, snapshots"),
    Part("speed", "benchmarks.gpu", 6, 150, False, "nets beside PyTorch, memory, the slowest kernels"),
    Part("sanitizer", "minicaffe.testing.gpu.sanitizer", 2, 150, True, "compute-sanitizer over a few kernels"),
)


WARM_UP = Part(
    "warm-up", "minicaffe.testing.gpu.warm", 0, 200, True, "the CPU's kernels are compiled beside the first parts"
)
BESIDE_WARM_UP = ("device", "kernels")
"""Parts that compile nothing for the CPU: Numba's cache takes one writer at a time."""


def named(name: str) -> Part:
    """The part of this name."""
    return next(part for part in (*PARTS, WARM_UP) if part.name == name)
