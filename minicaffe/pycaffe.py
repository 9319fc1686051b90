"""pycaffe's ``caffe.pycaffe`` and ``caffe._caffe``: where scripts find what the package itself offers, too."""

from __future__ import annotations

from minicaffe.backend import set_device, set_mode_cpu, set_mode_gpu
from minicaffe.backend.random import seed as set_random_seed
from minicaffe.backend.ranks import set_multiprocess, set_solver_count, set_solver_rank, solver_count, solver_rank
from minicaffe.backend.timer import Timer
from minicaffe.blob import Blob
from minicaffe.glog import init_log, log
from minicaffe.layers import BlobVec
from minicaffe.layers import layer_types as layer_type_list
from minicaffe.layers.interface import Layer
from minicaffe.net import Net
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

__all__ = [
    "NCCL",
    "AdaDeltaSolver",
    "AdaGradSolver",
    "AdamSolver",
    "Blob",
    "BlobVec",
    "Layer",
    "NesterovSolver",
    "Net",
    "RMSPropSolver",
    "SGDSolver",
    "Solver",
    "Timer",
    "get_solver",
    "has_nccl",
    "init_log",
    "layer_type_list",
    "log",
    "set_device",
    "set_mode_cpu",
    "set_mode_gpu",
    "set_multiprocess",
    "set_random_seed",
    "set_solver_count",
    "set_solver_rank",
    "solver_count",
    "solver_rank",
]
