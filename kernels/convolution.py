"""What a convolution layer asks for, by the names that layers and all kernels use."""

FORWARD, DATA_GRAD, WEIGHT_GRAD = KINDS = ("Forward", "DataGrad", "WeightGrad")
"""The convolution, and its gradients with respect to the data and to the weights."""
