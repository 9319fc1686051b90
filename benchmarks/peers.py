"""The other contestants: PyTorch in this process, Caffe's own ``caffe time``; and whether they compute the same."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe import compat, proto
from minicaffe.errors import MinicaffeError


class Disagreement(MinicaffeError):
    """Two contestants computed different things, so their times cannot be compared."""


def torch() -> Any:
    """PyTorch, or None where it is not installed."""
    return compat.require("torch") if compat.have("torch") else None


def agree(found: Any, expected: Any, what: str, rtol: float = 1e-3) -> None:
    """Raise Disagreement unless two arrays differ by less than ``rtol`` times the largest expected magnitude."""
    a, b = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    if a.shape != b.shape:
        raise Disagreement(f"{what}: minicaffe's shape is {a.shape}, the peer's {b.shape}")
    error, limit = float(np.abs(a - b).max(initial=0)), rtol * float(np.abs(b).max(initial=0))
    if not error <= limit:
        raise Disagreement(f"{what}: minicaffe and the peer differ by {error:g}; the limit is {limit:g}")


def distance(found: NDArray, exact: NDArray) -> float:
    """The norm of the difference of two arrays, relative to that of the second."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def near(found: NDArray, exact: NDArray, limit: float, what: str) -> None:
    """Raise Disagreement unless the ``distance`` of two arrays is within a limit."""
    error = distance(found, exact)
    if not error <= limit:
        raise Disagreement(
            f"{what}: minicaffe is {error:.2g} away from the peer's in float64; the limit is {limit:.2g}"
        )


def have_caffe() -> bool:
    """Whether a ``caffe`` program is on the PATH."""
    return shutil.which("caffe") is not None


def caffe_time(net: proto.NetParameter, environment: dict[str, str], iterations: int = 10) -> float:
    """Seconds of a forward and backward pass, without update, by ``caffe time``; MinicaffeError with its output if it
    fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "net.prototxt")
        model.write_text(str(net))
        command = ["caffe", "time", f"-model={model}", f"-iterations={iterations}"]
        output = subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stderr
    found = re.search(r"Average Forward-Backward: ([\d.e+]+) ms", output)
    if found is None:
        raise MinicaffeError(f"'caffe time' printed no average:\n{output}")
    return float(found[1]) / 1e3
