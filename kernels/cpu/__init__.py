"""The primitives on the CPU: compiled by Numba where it pays, plain NumPy from ``reference`` elsewhere."""

from minicaffe.kernels.cpu.batch_norm import scale, scale_grad, standardize, standardize_grad
from minicaffe.kernels.cpu.bias import bias_add, bias_grad
from minicaffe.kernels.cpu.channel import channel_sum, channelwise
from minicaffe.kernels.cpu.conv.im2col import col2im, im2col
from minicaffe.kernels.cpu.conv.select import (
    convolution_form,
    convolution_workspace,
    convolve,
    convolve_data_grad,
    convolve_weight_grad,
)
from minicaffe.kernels.cpu.dot import dot, gradient_scale
from minicaffe.kernels.cpu.elementwise import elementwise
from minicaffe.kernels.cpu.focal_loss import focal_loss, focal_loss_grad
from minicaffe.kernels.cpu.labels import accuracy, check_labels, loss_normalizer
from minicaffe.kernels.cpu.loss import (
    contrastive_loss,
    contrastive_loss_grad,
    euclidean_loss,
    hinge_loss,
    hinge_loss_grad,
    infogain_loss,
    infogain_loss_grad,
    multinomial_loss,
    multinomial_loss_grad,
    sigmoid_loss,
    sigmoid_loss_grad,
)
from minicaffe.kernels.cpu.lrn import lrn, lrn_grad, lrn_within, lrn_within_grad
from minicaffe.kernels.cpu.lstm import lstm_unit, lstm_unit_grad
from minicaffe.kernels.cpu.matmul.gemm import gemm
from minicaffe.kernels.cpu.permute import permute
from minicaffe.kernels.cpu.pooling import (
    average_pool,
    average_pool_grad,
    max_pool,
    max_pool_grad,
    stochastic_pool,
    stochastic_pool_mean,
)
from minicaffe.kernels.cpu.roi import (
    position_sensitive_pool,
    position_sensitive_pool_grad,
    roi_pool,
    roi_pool_grad,
    roi_sample,
    roi_sample_grad,
)
from minicaffe.kernels.cpu.rows import copy_columns, gather_rows, scatter_rows
from minicaffe.kernels.cpu.runtime.blas import single_threaded_blas
from minicaffe.kernels.cpu.softmax import softmax, softmax_grad, softmax_loss, softmax_loss_grad
from minicaffe.kernels.cpu.solver_update import (
    adadelta_update,
    adagrad_update,
    adam_update,
    nesterov_update,
    rmsprop_update,
    sgd_update,
)
from minicaffe.kernels.cpu.unit_norm import unit_norm, unit_norm_grad
from minicaffe.kernels.reference import (
    euclidean_loss_grad,
    rescale,
)

__all__ = [
    "accuracy",
    "adadelta_update",
    "adagrad_update",
    "adam_update",
    "average_pool",
    "average_pool_grad",
    "bias_add",
    "bias_grad",
    "channel_sum",
    "channelwise",
    "check_labels",
    "col2im",
    "contrastive_loss",
    "contrastive_loss_grad",
    "convolution_form",
    "convolution_workspace",
    "convolve",
    "convolve_data_grad",
    "convolve_weight_grad",
    "copy_columns",
    "dot",
    "elementwise",
    "euclidean_loss",
    "euclidean_loss_grad",
    "focal_loss",
    "focal_loss_grad",
    "gather_rows",
    "gemm",
    "gradient_scale",
    "hinge_loss",
    "hinge_loss_grad",
    "im2col",
    "infogain_loss",
    "infogain_loss_grad",
    "loss_normalizer",
    "lrn",
    "lrn_grad",
    "lrn_within",
    "lrn_within_grad",
    "lstm_unit",
    "lstm_unit_grad",
    "max_pool",
    "max_pool_grad",
    "multinomial_loss",
    "multinomial_loss_grad",
    "nesterov_update",
    "permute",
    "position_sensitive_pool",
    "position_sensitive_pool_grad",
    "rescale",
    "rmsprop_update",
    "roi_pool",
    "roi_pool_grad",
    "roi_sample",
    "roi_sample_grad",
    "scale",
    "scale_grad",
    "scatter_rows",
    "sgd_update",
    "sigmoid_loss",
    "sigmoid_loss_grad",
    "single_threaded_blas",
    "softmax",
    "softmax_grad",
    "softmax_loss",
    "softmax_loss_grad",
    "standardize",
    "standardize_grad",
    "stochastic_pool",
    "stochastic_pool_mean",
    "unit_norm",
    "unit_norm_grad",
]
