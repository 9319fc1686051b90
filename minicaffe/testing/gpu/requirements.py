"""Which packages a check of a GPU has; only Python's own library is imported here."""

from __future__ import annotations

import importlib.util
import sys
from typing import NamedTuple

PYTHON = (3, 10)


class Package(NamedTuple):
    """A package by its names on import and on installation, and what is lost without it."""

    module: str
    project: str
    without: str


ENGINE = tuple(
    Package(module, project, "minicaffe itself needs it")
    for module, project in (
        ("numpy", "numpy"),
        ("numba", "numba"),
        ("google.protobuf", "protobuf"),
        ("threadpoolctl", "threadpoolctl"),
        ("h5py", "h5py"),
        ("PIL", "pillow"),
        ("click", "click"),
    )
)
CUPY = Package("cupy", "cupy-cuda12x or cupy-cuda13x", "nothing can run on a GPU")
GPU = (
    CUPY,
    Package("nvmath", "nvmath-python", "matrix products go through CuPy's cuBLAS, and no rate of TF32 is told"),
)
OPTIONAL = (
    Package("lmdb", "lmdb", "layers that read LMDB are left out"),
    Package(
        *(("plyvel", "plyvel") if sys.version_info < (3, 13) else ("plyvel_next", "plyvel-next")),
        "layers that read LevelDB are left out",
    ),
    Package("torch", "torch", "there is no peer to compare speeds with"),
    Package("rich", "rich", "text is plain"),
    Package("pooch", "pooch", "nothing is downloaded anyway"),
)


def have(module: str) -> bool:
    """Whether a module can be found; nothing is imported but the packages above it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def missing(packages: tuple[Package, ...]) -> list[Package]:
    """Those that are not there."""
    return [package for package in packages if not have(package.module)]


def lacking() -> tuple[list[str], bool]:
    """A line for everything that is missing, and whether the check can run at all without it."""
    lines, possible = [], True
    if sys.version_info < PYTHON:
        lines.append(
            f"Python {'.'.join(map(str, PYTHON))} or newer; this is {sys.version.split()[0]} ({sys.executable})"
        )
        possible = False
    for kind, packages in (("needed", ENGINE), ("needed", (CUPY,)), ("wanted", GPU[1:]), ("optional", OPTIONAL)):
        for package in missing(packages):
            lines.append(f"{package.project} ({kind}): {package.without}")
            possible = possible and kind != "needed"
    return lines, possible
