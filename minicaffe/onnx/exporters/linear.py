"""Layers that multiply by learned matrices, and add or multiply learned values."""

from __future__ import annotations

from minicaffe.layers.inner_product import NormalizedInnerProduct
from minicaffe.onnx.writer import Writer, exports


def rows(w: Writer, k: int = 0, axis: int = 1) -> str:
    """Bottom ``k`` as a matrix, the axes from ``axis`` on flattened."""
    shape = w.bottom[k]
    return w.reshape(w.x[k], [shape.span(0, w.axis(axis, k)), shape.span(w.axis(axis, k))], shape)


@exports("InnerProduct")
def inner_product(w: Writer) -> str:
    layer = w.layer
    if isinstance(layer, NormalizedInnerProduct):
        raise w.refuse("it scales its weights before each pass; leave normalize out once one has")
    bias = [w.param(1)] if layer.bias_term else []
    y = w.op("Gemm", rows(w, axis=layer.axis), w.param(0), *bias, transB=int(not layer.transpose))
    return y if len(w.top[0]) == 2 else w.like_top(y)


@exports("Embed")
def embed(w: Writer) -> str:
    y = w.op("Gather", w.param(0), w.as_int(w.x[0]))
    return w.add(y, w.param(1)) if w.layer.bias_term else y


def operand(w: Writer, j: int = 0) -> str:
    """What Bias adds and Scale multiplies by: bottom 1, or else learnable blob ``j``; with axes of size 1 behind its
    own, so that these stand where the layer says.
    """
    given = len(w.x) > 1 and j == 0
    axes = len(w.bottom[1]) if given else w.params[j].ndim
    trailing = len(w.bottom[0]) - w.axis(w.layer.axis) - axes if axes else 0
    if not given:
        return w.param(j, (*w.params[j].shape, *(1,) * trailing))
    return w.unsqueeze(w.x[1], *range(axes, axes + trailing)) if trailing else w.x[1]


@exports("Bias")
def bias(w: Writer) -> str:
    return w.add(w.x[0], operand(w))


@exports("EltwiseAffine", "Scale")
def scale(w: Writer) -> str:
    y = w.mul(w.x[0], operand(w))
    return w.add(y, operand(w, -1)) if w.layer.bias_term else y
