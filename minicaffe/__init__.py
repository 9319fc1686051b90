"""Caffe in Python: train, test, draw and take apart Caffe nets on NumPy + Numba or CuPy.

The interface is pycaffe's: ``import minicaffe as caffe``.  Everything is loaded at its first use, so that importing the
package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what _HOME and _SUBMODULES say, for editors
    from minicaffe import backend as backend
    from minicaffe import coord_map as coord_map
    from minicaffe import draw as draw
    from minicaffe import embedding as embedding
    from minicaffe import errors as errors
    from minicaffe import fillers as fillers
    from minicaffe import graph as graph
    from minicaffe import io as io
    from minicaffe import kernels as kernels
    from minicaffe import layers as layers
    from minicaffe import models as models
    from minicaffe import net_spec as net_spec
    from minicaffe import onnx as onnx
    from minicaffe import plot as plot
    from minicaffe import proto as proto
    from minicaffe import pycaffe as pycaffe
    from minicaffe import pytorch as pytorch
    from minicaffe import solvers as solvers
    from minicaffe import tensorboard as tensorboard
    from minicaffe import testing as testing
    from minicaffe import weights as weights
    from minicaffe.as_caffe import install_as_caffe
    from minicaffe.backend import set_device, set_mode_cpu, set_mode_gpu
    from minicaffe.backend.precision import allow_tf32
    from minicaffe.backend.random import seed as set_random_seed
    from minicaffe.backend.ranks import set_multiprocess, set_solver_count, set_solver_rank, solver_count, solver_rank
    from minicaffe.backend.threads import get_num_threads, set_num_threads
    from minicaffe.backend.timer import Timer
    from minicaffe.blob import Blob
    from minicaffe.classifier import Classifier
    from minicaffe.detector import Detector
    from minicaffe.errors import MinicaffeError
    from minicaffe.glog import init_log, log, set_logging_disabled
    from minicaffe.layers import layer_types as layer_type_list
    from minicaffe.layers.interface import Layer
    from minicaffe.layers.python_layer import allow_python_layers
    from minicaffe.net import Net
    from minicaffe.net_spec import NetSpec, params, to_proto
    from minicaffe.onnx.export import export_onnx
    from minicaffe.pytorch.export import export_torch
    from minicaffe.solvers import (
        AdaDeltaSolver,
        AdaGradSolver,
        AdamSolver,
        NesterovSolver,
        RMSPropSolver,
        SGDSolver,
        Solver,
        get_solver,
    )
    from minicaffe.solvers.nccl import NCCL, has_nccl

__version__ = "0.1.0"

TRAIN, TEST = 0, 1

_HOME = {
    "Blob": "minicaffe.blob",
    "Classifier": "minicaffe.classifier",
    "Detector": "minicaffe.detector",
    "Layer": "minicaffe.layers.interface",
    "Net": "minicaffe.net",
    "NetSpec": "minicaffe.net_spec",
    "params": "minicaffe.net_spec",
    "to_proto": "minicaffe.net_spec",
    "MinicaffeError": "minicaffe.errors",
    "export_onnx": "minicaffe.onnx.export",
    "export_torch": "minicaffe.pytorch.export",
    "allow_python_layers": "minicaffe.layers.python_layer",
    "install_as_caffe": "minicaffe.as_caffe",
    "init_log": "minicaffe.glog",
    "log": "minicaffe.glog",
    "set_logging_disabled": "minicaffe.glog",
    "Timer": "minicaffe.backend.timer",
    "NCCL": "minicaffe.solvers.nccl",
    "has_nccl": "minicaffe.solvers.nccl",
    "layer_type_list": "minicaffe.layers:layer_types",
    "set_device": "minicaffe.backend",
    "set_mode_cpu": "minicaffe.backend",
    "set_mode_gpu": "minicaffe.backend",
    "set_random_seed": "minicaffe.backend.random:seed",
    "get_num_threads": "minicaffe.backend.threads",
    "set_num_threads": "minicaffe.backend.threads",
    "allow_tf32": "minicaffe.backend.precision",
    "set_multiprocess": "minicaffe.backend.ranks",
    "set_solver_count": "minicaffe.backend.ranks",
    "set_solver_rank": "minicaffe.backend.ranks",
    "solver_count": "minicaffe.backend.ranks",
    "solver_rank": "minicaffe.backend.ranks",
    "get_solver": "minicaffe.solvers",
    "Solver": "minicaffe.solvers",
    "SGDSolver": "minicaffe.solvers",
    "NesterovSolver": "minicaffe.solvers",
    "AdaGradSolver": "minicaffe.solvers",
    "RMSPropSolver": "minicaffe.solvers",
    "AdaDeltaSolver": "minicaffe.solvers",
    "AdamSolver": "minicaffe.solvers",
}
"""Where each name of the package's face is defined, as ``module`` or ``module:name``."""

_SUBMODULES = (
    "backend",
    "coord_map",
    "draw",
    "embedding",
    "errors",
    "fillers",
    "graph",
    "io",
    "kernels",
    "layers",
    "models",
    "net_spec",
    "onnx",
    "plot",
    "proto",
    "pycaffe",
    "pytorch",
    "solvers",
    "tensorboard",
    "testing",
    "weights",
)

__all__ = [
    "TEST",
    "TRAIN",
    "__version__",
    "Blob",
    "Classifier",
    "Detector",
    "Layer",
    "Net",
    "NetSpec",
    "params",
    "to_proto",
    "MinicaffeError",
    "export_onnx",
    "export_torch",
    "allow_python_layers",
    "install_as_caffe",
    "init_log",
    "log",
    "set_logging_disabled",
    "Timer",
    "NCCL",
    "has_nccl",
    "layer_type_list",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_random_seed",
    "get_num_threads",
    "set_num_threads",
    "allow_tf32",
    "set_multiprocess",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
    "get_solver",
    "Solver",
    "SGDSolver",
    "NesterovSolver",
    "AdaGradSolver",
    "RMSPropSolver",
    "AdaDeltaSolver",
    "AdamSolver",
]


if not TYPE_CHECKING:  # else any misspelt name would be one of the package's

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            module, _, attribute = _HOME[name].partition(":")
            value = getattr(importlib.import_module(module), attribute or name)
        elif name in _SUBMODULES:
            value = importlib.import_module(f"minicaffe.{name}")
        else:
            raise AttributeError(f"module 'minicaffe' has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_SUBMODULES])
