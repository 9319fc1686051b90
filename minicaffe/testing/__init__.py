"""Test one layer alone: run it, check its gradients, compare backends.

``run(layer, bottoms, …)``             tops, loss and gradients of a layer, from its type or class and keyword params;
``check_gradient(layer, bottoms, …)``  its backward against finite differences of its forward;
``check_parity(layer, bottoms, …)``    its numbers on the CPU against those on the GPU.

Installing minicaffe also installs a pytest plugin, ``plugin``, with the fixtures ``layer_backend`` and ``gpu_backend``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minicaffe.testing.gradient import check_gradient
    from minicaffe.testing.parity import check_parity
    from minicaffe.testing.rig import Result, Rig, run

__all__ = ["Result", "Rig", "check_gradient", "check_parity", "run"]

_HOME = {"Result": "rig", "Rig": "rig", "check_gradient": "gradient", "check_parity": "parity", "run": "rig"}


def __getattr__(name: str) -> Any:
    # pytest imports this package with the plugin at every start: the engine has to wait for the first use
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
