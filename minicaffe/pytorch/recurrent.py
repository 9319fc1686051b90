"""Recurrent layers: RNN, LSTM, LSTMUnit."""

from __future__ import annotations

from minicaffe.pytorch.writer import Writer, exports


@exports("RNN", "LSTM")
def recurrent(w: Writer) -> str:
    layer, width = w.layer, w.layer.gates * w.layer.num_output
    x, cont, *more = w.x
    sizes, given = [layer.inputs, layer.num_output], [x, cont]
    blobs = {"weight_ih": (width, layer.inputs), "bias_ih": (width,)}
    if layer.has_static:
        blobs["weight_static"] = (width, layer.static_inputs)
        sizes.append(layer.static_inputs)
        given.append(more.pop(0))
    blobs |= dict(zip(("weight_hh", "weight_ho", "bias_ho"), layer.recurrent_shapes(), strict=False))
    constructor = f"{w.helper(layer.type)}({', '.join(map(str, sizes))})"
    places = {key: (j, shape) for j, (key, shape) in enumerate(blobs.items())}
    held = w.module(constructor, **places)
    w.has_state = True
    if layer.expose_hidden:
        given.append(f"state=[{', '.join(more)}]")
    called = f"{held}({', '.join(given)})"
    return called if layer.expose_hidden else f"{called}[0]"


@exports("LSTMUnit")
def unit(w: Writer) -> str:
    c, gates, cont = w.x
    return f"{w.helper('lstm_unit')}({c}, {gates}, {cont}.detach()[..., None])"
