"""The models that come with minicaffe: one folder each, with its nets, solvers and a README."""

from __future__ import annotations

import os
from importlib import resources

_ROOT = os.fspath(resources.files(__name__))  # type: ignore[call-overload]


def find(path: str | os.PathLike[str]) -> str:
    """``path`` if it exists, else the shipped file of that name ("siamese/digits_solver.prototxt"), else ``path``."""
    name = os.fspath(path)
    shipped = os.path.join(_ROOT, name)
    return shipped if not os.path.exists(name) and os.path.isfile(shipped) else name


def names() -> list[str]:
    """The shipped models, sorted."""
    return sorted(entry for entry in os.listdir(_ROOT) if os.path.isfile(os.path.join(folder(entry), "README.md")))


def folder(name: str) -> str:
    """The folder of a shipped model."""
    return os.path.join(_ROOT, name)
