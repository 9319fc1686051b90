"""The one place that imports optional packages, and large ones when they are first used.

Each function imports on call, so that ``import minicaffe`` stays cheap and a missing package is reported by the
name of the extra that installs it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

from minicaffe.errors import MissingExtraError

_EXTRA_OF = {
    "cupy": "cuda12 (or cuda13)",
    "nvmath": "cuda12 (or cuda13)",
    "cudnn": "cudnn (or cudnn13)",
    "plyvel": "leveldb",
    "matplotlib": "plot",
    "pygraphviz": "draw",
    "pydot": "draw",
    "scipy": "splines",
    "tensorboardX": "tensorboard",
    "IPython": "notebook",
    "onnx": "onnx",
    "torch": "torch",
    "onnxruntime": "onnxruntime",
}


def notebook() -> Any:
    """IPython's shell, if this runs in a notebook; None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if hasattr(shell, "kernel") else None


def have(name: str) -> bool:
    """Whether the top-level package ``name`` is installed (it is not imported)."""
    return importlib.util.find_spec(name) is not None


def require(module: str) -> ModuleType:
    """Import ``module``; raise MissingExtraError naming the extra to install if its package is absent."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        extra = _EXTRA_OF.get(package)
        if extra is None or (error.name or package).partition(".")[0] != package:
            raise
        raise MissingExtraError(
            f"this needs the package {package!r}, which is not installed; install it with: pip install "
            f"'minicaffe[{extra.split()[0]}]'"
        ) from error


def leveldb() -> ModuleType:
    """plyvel, or plyvel-next, which is the same under another name, for Pythons that plyvel has no wheels for."""
    return require("plyvel_next" if have("plyvel_next") and not have("plyvel") else "plyvel")


def lazy(module: str) -> ModuleType:
    """A module that is loaded when something of it is first used; ImportError now if it is not installed."""
    if module in sys.modules:
        return sys.modules[module]
    spec = importlib.util.find_spec(module)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module named {module!r}", name=module)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    made = importlib.util.module_from_spec(spec)
    sys.modules[module] = made
    spec.loader.exec_module(made)
    return made
