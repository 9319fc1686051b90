"""The primitives on the CPU: Numba where it pays, plain NumPy from ``reference`` elsewhere."""

from minicaffe.kernels.cpu.blas import single_threaded_blas  # noqa: F401
from minicaffe.kernels.reference import *  # noqa: F403
from minicaffe.kernels.reference import convolution_workspace  # noqa: F401
