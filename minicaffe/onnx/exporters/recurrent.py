"""Recurrent layers, unrolled over their steps."""

from __future__ import annotations

from collections.abc import Callable

from minicaffe.layers.recurrent import Recurrent
from minicaffe.onnx.sizes import number
from minicaffe.onnx.writer import Writer, exports

_STATELESS = "begins each run from a state of zeros; with expose_hidden the state would be inputs and outputs"


def lstm_unit(w: Writer, gates: str, cont: str | None, c: str | None, axis: int = -1) -> tuple[str, str]:
    """One step: gates (…, 4D) i, f, o, g before their nonlinearities, cont (…, 1) and c before; c and h after.

    Without c there is nothing before.
    """
    i, f, o, g = w.ops("Split", 4, gates, axis=axis, num_outputs=4)
    new = w.mul(w.op("Sigmoid", i), w.op("Tanh", g))
    if c is not None:
        kept = w.mul(w.op("Sigmoid", f), c)
        new = w.add(kept if cont is None else w.mul(cont, kept), new)
    return new, w.mul(w.op("Sigmoid", o), w.op("Tanh", new))


@exports("LSTMUnit")
def unit(w: Writer) -> list[str]:
    return list(lstm_unit(w, w.x[1], w.unsqueeze(w.x[2], 2), w.x[0]))


def _steps(w: Writer, x: str, count: int) -> list[str]:
    """The parts of x along its first axis, without it."""
    parts = [x] if count == 1 else w.ops("Split", count, x, axis=0, num_outputs=count)
    return [w.op("Squeeze", part, w.ints([0])) for part in parts]


def _stacked(w: Writer, parts: list[str]) -> str:
    return w.op("Concat", *(w.unsqueeze(part, 0) for part in parts), axis=0)


def _product(w: Writer, x: str, j: int, bias: str | None = None) -> str:
    """x times learnable blob ``j``, (out, in), transposed."""
    given = [] if bias is None else [bias]
    return w.op("Gemm", x, w.param(j), *given, transB=1)


def _inputs(w: Writer, layer: Recurrent) -> list[str]:
    """What each step has from the inputs, (N, gates D)."""
    x = w.bottom[0]
    steps, width = x[0].number, layer.gates * layer.num_output
    flat = w.reshape(w.x[0], [x.span(0, 2), x.span(2)], x)
    u = w.reshape(_product(w, flat, 0, w.param(1)), [steps, x[1], width])
    if layer.has_static:
        shape = w.bottom[2]
        u = w.add(u, _product(w, w.reshape(w.x[2], [shape[0], shape.span(1)], shape), 2))
    return _steps(w, u, steps)


def _unrolled(w: Writer, step: Callable[[str, str, list[str]], list[str]], first: Callable[[str], list[str]]) -> list:
    """All states after each step, by ``step`` (inputs, cont (N, 1), states before); ``first`` has zeros before it."""
    layer = w.layer
    inputs = _inputs(w, layer)
    goes_on = [w.unsqueeze(cont, 1) for cont in _steps(w, w.x[1], len(inputs))]
    states: list[list[str]] = []
    if layer.expose_hidden:
        before = [w.op("Squeeze", x, w.ints([0])) for x in w.x[len(w.x) - layer.states :]]
        states.append(step(inputs[0], goes_on[0], before))
    else:
        w.notes.append(_STATELESS)
        states.append(first(inputs[0]))
    for u, cont in zip(inputs[1:], goes_on[1:], strict=True):
        states.append(step(u, cont, states[-1]))
    return states


def _last(w: Writer, states: list[list[str]]) -> list[str]:
    """The exposed states after the last step."""
    return [w.unsqueeze(state, 0) for state in states[-1]] if w.layer.expose_hidden else []


@exports("RNN")
def rnn(w: Writer) -> list[str]:
    of_state = 2 + w.layer.has_static

    def step(u: str, cont: str, before: list[str]) -> list[str]:
        return [w.op("Tanh", _product(w, w.mul(before[0], cont), of_state, u))]

    states = _unrolled(w, step, lambda u: [w.op("Tanh", u)])
    outputs = [w.op("Tanh", _product(w, h, of_state + 1, w.param(of_state + 2))) for (h,) in states]
    return [_stacked(w, outputs), *_last(w, states)]


@exports("LSTM")
def lstm(w: Writer) -> list[str]:
    of_state = 2 + w.layer.has_static

    def step(u: str, cont: str, before: list[str]) -> list[str]:
        h, c = before
        c, h = lstm_unit(w, _product(w, w.mul(h, cont), of_state, u), cont, c)
        return [h, c]

    states = _unrolled(w, step, lambda u: list(reversed(lstm_unit(w, u, None, None))))
    return [_stacked(w, [h for h, _ in states]), *_last(w, states)]


@exports("Lstm")
def fork_lstm(w: Writer) -> str:
    layer, x = w.layer, w.bottom[0]
    num = x[1] if len(x) == 3 else max(layer.batch_size, 1)
    steps = number(x[0]) if len(x) == 3 else number(x[0]) // number(num)
    rows = w.reshape(w.x[0], [x.span(0, -1), x[-1]], x)
    inputs = _steps(w, w.reshape(_product(w, rows, 0, w.param(2)), [steps, num, 4 * layer.num_output]), steps)
    goes_on: list[str | None] = [None] * steps
    if len(w.x) > 1:
        w.notes.append(_STATELESS)
        clip = w.op("Not", w.op("Equal", w.reshape(w.x[1], [steps, num, 1]), w.number(0)))
        goes_on = list(_steps(w, w.as_float(clip), steps))
    c, h = lstm_unit(w, inputs[0], None, None)
    outputs = [h]
    for u, cont in zip(inputs[1:], goes_on[1:], strict=True):
        kept = h if cont is None else w.mul(h, cont)
        c, h = lstm_unit(w, _product(w, kept, 1, u), cont, c)
        outputs.append(h)
    return w.like_top(_stacked(w, outputs), [steps, num, layer.num_output])
