"""The primitives on the CPU: compiled by Numba where it pays, plain NumPy from ``reference`` elsewhere."""

from minicaffe.kernels.cpu.bias import bias_add, bias_grad
from minicaffe.kernels.cpu.blas import single_threaded_blas
from minicaffe.kernels.cpu.elementwise import elementwise
from minicaffe.kernels.cpu.im2col import col2im, im2col
from minicaffe.kernels.cpu.loss import (
    accuracy,
    check_labels,
    contrastive_loss,
    contrastive_loss_grad,
    euclidean_loss,
    loss_normalizer,
    softmax_loss,
    softmax_loss_grad,
)
from minicaffe.kernels.cpu.pooling import (
    average_pool,
    average_pool_grad,
    max_pool,
    max_pool_grad,
    stochastic_pool,
    stochastic_pool_mean,
)
from minicaffe.kernels.cpu.softmax import softmax, softmax_grad
from minicaffe.kernels.cpu.update import clip_by_norm, dot, sgd_update
from minicaffe.kernels.reference import (
    convolution_workspace,
    convolve,
    convolve_data_grad,
    convolve_weight_grad,
    euclidean_loss_grad,
    gemm,
)

__all__ = [
    "accuracy",
    "average_pool",
    "average_pool_grad",
    "bias_add",
    "bias_grad",
    "check_labels",
    "clip_by_norm",
    "col2im",
    "contrastive_loss",
    "contrastive_loss_grad",
    "convolution_workspace",
    "convolve",
    "convolve_data_grad",
    "convolve_weight_grad",
    "dot",
    "elementwise",
    "euclidean_loss",
    "euclidean_loss_grad",
    "gemm",
    "im2col",
    "loss_normalizer",
    "max_pool",
    "max_pool_grad",
    "sgd_update",
    "single_threaded_blas",
    "softmax",
    "softmax_grad",
    "softmax_loss",
    "softmax_loss_grad",
    "stochastic_pool",
    "stochastic_pool_mean",
]
