"""Solvers by their prototxt ``type``."""

from __future__ import annotations

import difflib
import os

from minicaffe import models, proto
from minicaffe.errors import PrototxtError
from minicaffe.matching import BY_NAME, Matching
from minicaffe.proto.files import read_solver
from minicaffe.solvers.adaptive import AdaDeltaSolver, AdaGradSolver, AdamSolver, RMSPropSolver
from minicaffe.solvers.base import Solver, registry
from minicaffe.solvers.best import EarlyStop
from minicaffe.solvers.history import History
from minicaffe.solvers.keep import Keep
from minicaffe.solvers.monitor import SNAPSHOT, STOP, Monitor, Scalar
from minicaffe.solvers.sgd import NesterovSolver, SGDSolver

__all__ = [
    "SNAPSHOT",
    "STOP",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "EarlyStop",
    "History",
    "Keep",
    "Monitor",
    "NesterovSolver",
    "RMSPropSolver",
    "SGDSolver",
    "Scalar",
    "Solver",
    "create",
    "get_solver",
]


def get_solver(path: str | os.PathLike) -> Solver:
    """The solver that a prototxt, or one of a shipped model, describes, of the ``type`` it names (SGD if none)."""
    found = os.fspath(models.find(path))
    return create(read_solver(found), found)


def create(param: proto.SolverParameter, path: str | None = None, matching: Matching = BY_NAME) -> Solver:
    """The solver of a SolverParameter; ``path`` is the file it came from, to find the nets it names.

    ``matching`` says how the layers of its weights find those of its nets.
    """
    if param.type not in registry:
        near = difflib.get_close_matches(param.type, registry, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise PrototxtError(
            f"{path + ': ' if path else ''}solver field type: Unknown solver type: {param.type}{hint} "
            f"(known types: {', '.join(sorted(registry))})"
        )
    return registry[param.type](param, path, matching)
