"""Every primitive in plain NumPy: the oracle of the tests, and the fallback of a backend.

Each module is a family of ops; ``kernels/cpu`` and ``kernels/cuda`` have modules of the same names.  ``transform`` is
not exported here: it belongs to the data transformer, not to layers.

The faster versions in ``kernels/cpu`` (Numba) and ``kernels/cuda`` (RawKernel) have the same names and signatures.
Arrays are C-contiguous and of one dtype, float32 or float64; integer arrays are int32.  A function writes into the
arrays it is given and returns nothing; "accumulates" means ``+=``, everything else overwrites.  A scalar result goes
into an array of shape ``()``, so that no backend has to wait for its device.  Shapes use N for the batch, C for
channels, ``*in`` and ``*out`` for the spatial axes of a window's input and output.
"""

from minicaffe.kernels.reference.arrays import FLT_MAX, FLT_MIN, Array
from minicaffe.kernels.reference.batch_norm import scale, scale_grad, standardize, standardize_grad
from minicaffe.kernels.reference.bias import bias_add, bias_grad
from minicaffe.kernels.reference.channel import channel_sum, channelwise
from minicaffe.kernels.reference.conv import (
    col2im,
    convolution_form,
    convolution_workspace,
    convolve,
    convolve_data_grad,
    convolve_weight_grad,
    im2col,
)
from minicaffe.kernels.reference.dot import dot, gradient_scale, rescale
from minicaffe.kernels.reference.elementwise import elementwise
from minicaffe.kernels.reference.focal_loss import focal_loss, focal_loss_grad
from minicaffe.kernels.reference.labels import BATCH_SIZE, FULL, NONE, VALID, accuracy, check_labels, loss_normalizer
from minicaffe.kernels.reference.loss import (
    LOG_FLOOR,
    contrastive_loss,
    contrastive_loss_grad,
    euclidean_loss,
    euclidean_loss_grad,
    hinge_loss,
    hinge_loss_grad,
    infogain_loss,
    infogain_loss_grad,
    multinomial_loss,
    multinomial_loss_grad,
    sigmoid_loss,
    sigmoid_loss_grad,
)
from minicaffe.kernels.reference.lrn import lrn, lrn_grad, lrn_within, lrn_within_grad
from minicaffe.kernels.reference.lstm import lstm_unit, lstm_unit_grad
from minicaffe.kernels.reference.matmul import gemm
from minicaffe.kernels.reference.permute import permute
from minicaffe.kernels.reference.pooling import (
    average_pool,
    average_pool_grad,
    max_pool,
    max_pool_grad,
    stochastic_pool,
    stochastic_pool_mean,
)
from minicaffe.kernels.reference.roi import (
    position_sensitive_pool,
    position_sensitive_pool_grad,
    roi_pool,
    roi_pool_grad,
    roi_sample,
    roi_sample_grad,
)
from minicaffe.kernels.reference.rows import copy_columns, gather_rows, scatter_rows
from minicaffe.kernels.reference.softmax import softmax, softmax_grad, softmax_loss, softmax_loss_grad
from minicaffe.kernels.reference.solver_update import (
    adadelta_update,
    adagrad_update,
    adam_update,
    nesterov_update,
    rmsprop_update,
    sgd_update,
)
from minicaffe.kernels.reference.unit_norm import unit_norm, unit_norm_grad

__all__ = [
    "Array",
    "BATCH_SIZE",
    "FLT_MAX",
    "FLT_MIN",
    "FULL",
    "LOG_FLOOR",
    "NONE",
    "VALID",
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
