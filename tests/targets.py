"""Processors that kernels are compiled for in the tests: ``python tests/targets.py`` runs pytest for the usual ones, with
``--all`` for each.

``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` make Numba compile for a lesser processor than the one at hand, which runs
that code, too.  Arguments are passed on to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding as llvm

ROOT = Path(__file__).parent.parent
SUBSET = ["test_kernels_mathlib.py", "test_kernels_cpu.py", "test_kernels_layers.py", "test_layers_golden.py"]
"""Tests that run every kernel, and hold it against NumPy's or Caffe's numbers.

Those on the strict stand-in for a device, which are the same for every processor, are left out, and, to save time, the
kernels' in double precision.
"""
CHOSEN = "not strict and not (float64 and (test_kernels_cpu or test_kernels_layers))"


class Target(NamedTuple):
    """A processor by the name LLVM has for it, and the features it is told to use."""

    cpu: str
    features: tuple[str, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What makes Numba compile for it."""
        return {"NUMBA_CPU_NAME": self.cpu, "NUMBA_CPU_FEATURES": ",".join(f"+{name}" for name in self.features)}

    @property
    def missing(self) -> list[str]:
        """What this machine lacks to run code for it."""
        if not llvm.get_default_triple().startswith("x86_64"):
            return ["x86-64"]
        has = llvm.get_host_cpu_features()
        return [name for name in self.features if not has.get(name)]


_AVX2 = ("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe")
TARGETS = {
    "generic": Target("x86-64", ()),
    "avx": Target("sandybridge", ("avx",)),
    "avx2": Target("haswell", _AVX2),
    "avx512": Target("skylake-avx512", (*_AVX2, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
}
"""One for each kind of SIMD register, with and without the rounded-once multiply-add."""
USUAL = ("generic", "avx2")
"""Those without and with it: what every x86-64 has, and what most have."""


def main(arguments: list[str]) -> int:
    """Run pytest for the targets; the number of those for which it failed.

    The usual ones are without the machine's own kind, on which all tests run anyway.
    """
    every, arguments = "--all" in arguments, [word for word in arguments if word != "--all"]
    tests = (
        [] if any(Path(word.split("::")[0]).exists() for word in arguments) else [f"tests/{name}" for name in SUBSET]
    )
    own = [name for name, target in TARGETS.items() if not target.missing][-1:]
    failed = 0
    for name, target in TARGETS.items():
        if not every and (name not in USUAL or [name] == own):
            continue
        if target.missing:
            print(f"-- {name} ({target.cpu}): skipped, this machine has no {', '.join(target.missing)}", flush=True)
            continue
        print(f"-- {name} ({target.cpu})", flush=True)
        begun = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-k", CHOSEN, *arguments, *tests]
        run = subprocess.run(command, cwd=ROOT, env=os.environ | target.environment)
        print(f"-- {name}: {time.monotonic() - begun:.0f} s", flush=True)
        failed += run.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
