"""Holding minicaffe and its peers to fewer instructions than this processor has, as most people's have."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

LIMITS = {
    "avx2": {
        "NUMBA_CPU_NAME": "znver3",
        "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
        "OPENCV_CPU_DISABLE": "AVX512-SKX",
    }
}
"""What the libraries read when they are loaded: Numba, PyTorch, oneDNN (PyTorch's and OpenVINO's), MKL, NumPy's BLAS,
OpenCV.
"""

NOT_HELD = frozenset({"onnxruntime", "caffe"})
"""Contestants that know no such limit, and so are left out under one."""


def hold_to(name: str, arguments: Sequence[str]) -> None:
    """Run ``python -m benchmarks`` with these arguments again in place of this process, held to a limit; return if it
    is held already.
    """
    limit = LIMITS[name]
    if any(os.environ.get(variable) != value for variable, value in limit.items()):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *arguments], {**os.environ, **limit})


def current() -> str:
    """The limit that this process is held to; "native" if there is none."""
    for name, limit in LIMITS.items():
        if all(os.environ.get(variable) == value for variable, value in limit.items()):
            return name
    return "native"


def runs(contestant: str) -> bool:
    """Whether a contestant can take part: it is held to the same instructions as all others."""
    return current() == "native" or contestant not in NOT_HELD
