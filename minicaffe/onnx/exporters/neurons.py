"""Layers that apply one formula to every element."""

from __future__ import annotations

from minicaffe.layers.base import TRAIN
from minicaffe.onnx.writer import Writer, exports

UNARY = {
    "AbsVal": "Abs",
    "Arccos": "Acos",
    "BNLL": "Softplus",
    "Cosine": "Cos",
    "Sigmoid": "Sigmoid",
    "TanH": "Tanh",
}
"""Layers that are an operator without options."""


@exports(*UNARY)
def unary(w: Writer) -> str:
    return w.op(UNARY[w.layer.type], w.x[0])


def rectified(w: Writer, slope: float) -> str:
    """max(x, 0) + slope min(x, 0)."""
    return w.op("Relu", w.x[0]) if slope == 0 else w.op("LeakyRelu", w.x[0], alpha=slope)


@exports("ReLU")
def relu(w: Writer) -> str:
    return rectified(w, w.layer.negative_slope)


@exports("ReLU6")
def relu6(w: Writer) -> str:
    if w.layer.negative_slope == 0:
        return w.op("Clip", w.x[0], w.number(0), w.number(6))
    return w.op("Min", rectified(w, w.layer.negative_slope), w.number(6))


@exports("NegReLU")
def negative_relu(w: Writer) -> str:
    return w.op("Min", w.x[0], w.number(0))


@exports("PReLU")
def prelu(w: Writer) -> str:
    trailing = (1,) * (len(w.bottom[0]) - 2)
    return w.op("PRelu", w.x[0], w.param(0, (1,) if w.layer.channel_shared else (w.layer.channels, *trailing)))


@exports("ELU")
def elu(w: Writer) -> str:
    return w.op("Elu", w.x[0], alpha=w.layer.alpha)


@exports("SeLu")
def selu(w: Writer) -> str:
    scale, alpha = w.layer.options()
    return w.op("Selu", w.x[0], alpha=alpha, gamma=scale)


@exports("Clip")
def clip(w: Writer) -> str:
    return w.op("Max", w.op("Min", w.x[0], w.number(w.layer.max)), w.number(w.layer.min))


@exports("Truncation")
def truncation(w: Writer) -> str:
    return w.op("Clip", w.x[0], w.number(w.layer.lower_bound), w.number(w.layer.upper_bound))


@exports("Threshold")
def threshold(w: Writer) -> str:
    return w.as_float(w.op("Greater", w.x[0], w.number(w.layer.threshold)))


@exports("Swish")
def swish(w: Writer) -> str:
    return w.mul(w.x[0], w.op("Sigmoid", w.scaled(w.x[0], w.layer.beta)))


@exports("Mish")
def mish(w: Writer) -> str:
    return w.mul(w.x[0], w.op("Tanh", w.op("Softplus", w.x[0])))


@exports("HardSigmoid")
def hard_sigmoid(w: Writer) -> str:
    return w.op("HardSigmoid", w.x[0], alpha=w.layer.alpha, beta=w.layer.beta)


@exports("SoftTruncation")
def soft_truncation(w: Writer) -> str:
    return w.sub(w.number(1), w.op("Exp", w.div(w.x[0], w.number(-w.layer.c))))


@exports("Power")
def power(w: Writer) -> str:
    layer = w.layer
    if layer.factor == 0:
        return w.filled(w.x[0], layer.constant())
    base = w.shifted(w.scaled(w.x[0], layer.scale), layer.shift)
    return base if layer.power == 1 else w.op("Pow", base, w.number(layer.power))


@exports("Exp")
def exponential(w: Writer) -> str:
    inner, outer = w.layer.options()
    return w.scaled(w.op("Exp", w.scaled(w.x[0], inner)), outer)


@exports("Log")
def logarithm(w: Writer) -> str:
    scale, shift, factor = w.layer.options()
    return w.scaled(w.op("Log", w.shifted(w.scaled(w.x[0], scale), shift)), factor)


def refuse_to_draw(w: Writer, draws: bool) -> None:
    """An error if the layer draws random numbers."""
    if draws:
        when = "in TRAIN phase" if w.layer.phase == TRAIN else "with sample_weights_test"
        raise w.refuse(f"{when} it draws random numbers; export the TEST phase")


@exports("Dropout", "SpatialDropout")
def dropout(w: Writer) -> str:
    refuse_to_draw(w, w.layer.drops)
    return w.scaled(w.x[0], w.layer.factor)


@exports("Noise")
def noise(w: Writer) -> str:
    refuse_to_draw(w, w.layer.adds)
    return w.op("Identity", w.x[0])


@exports("Insanity")
def insanity(w: Writer) -> str:
    refuse_to_draw(w, w.layer.phase == TRAIN)
    return rectified(w, w.layer.mean_slope)


@exports("Softmax")
def softmax(w: Writer) -> str:
    layer = w.layer
    x = w.x[0] if layer.scaling_temperature == 1 else w.div(w.x[0], w.number(layer.scaling_temperature))
    return w.op("Softmax", x, axis=layer.axis)
