"""Recurrent layers, unrolled over the steps of a batch: RNN, LSTM, LSTMUnit.

Sequences lie along the first axis: step t of sequence n is x[t, n].  ``cont[t, n]`` is 0 where a new sequence begins
and 1 where the one of step t - 1 goes on.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from math import tanh
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from minicaffe import fillers, proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError, SnapshotError
from minicaffe.layers.base import Layer
from minicaffe.layers.neuron import TanH


def _tanh_of_sum(a: float, b: float) -> float:
    return tanh(a + b)


def _scaled(h: float, cont: float) -> float:
    return h * cont


class Stateful(Layer):
    """Base of layers that go on from the state after the batch before, which is part of a snapshot."""

    hidden: list[Blob]
    """The state."""

    def reset(self) -> None:
        """Forget the state: the next batch begins from zero."""
        for blob in self.hidden:
            blob.data.fill(0)

    def state(self) -> dict[str, Any]:
        """The state after the last batch, for a snapshot."""
        values = [blob.peek_data().astype("<f8").tobytes() for blob in self.hidden]
        return {"hidden": [base64.b64encode(value).decode() for value in values]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``; SnapshotError if it is of another shape."""
        values = [np.frombuffer(base64.b64decode(text), "<f8") for text in state["hidden"]]
        if [value.size for value in values] != [blob.count for blob in self.hidden]:
            raise SnapshotError(
                str(self.error("the snapshot holds a hidden state of another shape; resume with the net that wrote it"))
            )
        for value, blob in zip(values, self.hidden, strict=True):
            blob.data[...] = value.reshape(blob.shape)


class Recurrent(Stateful):
    """Base of RNN and LSTM: the projection of the inputs, and the state that goes from step to step, batch to batch.

    Bottoms: x (T, N, K…); cont (T, N); optionally x_static (N, K…), the same at each step; with ``expose_hidden``, the
    state before the first step, one (1, N, D) a state.  Tops: the output (T, N, D), D = ``num_output``; with
    ``expose_hidden``, the state after the last step.  Params: ``input_weights`` (gates D, K) and bias (gates D,); if
    there is an x_static, its weights (gates D, K static); then those of the kind of layer.
    Caffe: without ``expose_hidden`` a batch goes on from the state after the one before.  No gradient leaves the batch
    through its state, exposed or not.  T cannot change.  The state is part of a snapshot here.
    """

    param = "recurrent_param"
    num_output: int
    expose_hidden: bool
    fixed = None
    states: int
    gates: int

    def __init__(self, layer_param: proto.LayerParameter, dtype: DTypeLike | None = None) -> None:
        super().__init__(layer_param, dtype)
        exposed = self.states if self.expose_hidden else 0
        self.most_bottoms = 3 + exposed
        self.bottoms, self.tops = (2 + exposed, self.most_bottoms), 1 + exposed
        self.differentiable = self.forcible = tuple(i for i in range(self.most_bottoms) if i != 1)

    def check_options(self) -> None:
        self.require(self.num_output > 0, f"must be positive; found {self.num_output}", "num_output")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(len(x.shape) >= 3, f"the input must be (T, N, K…); found {x.shape_string}", kind=ShapeError)
        self.has_static = len(bottom) == self.most_bottoms
        self.reads_bottoms = range(2 + self.has_static)
        self.steps, self.inputs = x.shape[0], x.span(2)
        self.require(self.steps > 0, f"needs at least one step; found {x.shape_string}", kind=ShapeError)
        options, width = self.layer_param.recurrent_param, self.gates * self.num_output
        self.add_param((width, self.inputs), options.weight_filler)
        self.add_param((width,), options.bias_filler)
        if self.has_static:
            self.static_inputs = bottom[2].span(1)
            self.add_param((width, self.static_inputs), options.weight_filler)
        shapes = self.recurrent_shapes()
        for shape in shapes:
            self.add_param(shape, options.weight_filler if len(shape) > 1 else options.bias_filler)
        if not self.blobs_given:
            self._draw_for_other_steps(shapes, options)
        self.require(
            len(self.blobs) == 2 + self.has_static + len(shapes),
            f"found {len(self.blobs)} given blobs",
            "blobs",
            ShapeError,
        )
        self.hidden = [Blob((0,), self.dtype) for _ in range(self.states)]

    def recurrent_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the params that each step uses."""
        raise NotImplementedError

    def _draw_for_other_steps(self, shapes: Sequence[tuple[int, ...]], options: Any) -> None:
        """Caffe fills these params anew for each step and keeps the first: draw as many random numbers."""
        unused = [
            (Blob(shape, self.dtype), options.weight_filler if len(shape) > 1 else options.bias_filler)
            for shape in shapes
        ]
        for _ in range(self.steps - 1):
            for blob, filler in unused:
                if filler.type != "constant":
                    fillers.fill(blob.data, filler)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, cont = bottom[:2]
        if x.shape[:1] != (self.steps,) or x.span(2) != self.inputs or len(x.shape) < 3:
            raise self.error(
                f"the input must keep {self.steps} steps of {self.inputs} values; found {x.shape_string}",
                kind=ShapeError,
            )
        if cont.shape != x.shape[:2]:
            raise self.error(
                f"cont must be (T, N), here {list(x.shape[:2])}; found {cont.shape_string}", kind=ShapeError
            )
        self.num = x.shape[1]
        if self.has_static and (bottom[2].shape[:1] != (self.num,) or bottom[2].span(1) != self.static_inputs):
            raise self.error(
                f"x_static must be ({self.num}, {self.static_inputs}); found {bottom[2].shape_string}", kind=ShapeError
            )
        state_shape = (1, self.num, self.num_output)
        for blob in self.exposed(bottom):
            self.require(
                blob.shape == state_shape,
                f"an initial state must have the shape {list(state_shape)}; found {blob.shape_string}",
                kind=ShapeError,
            )
        for blob in self.hidden:
            if blob.shape != state_shape:
                blob.reshape(*state_shape)
                blob.data.fill(0)
        top[0].reshape(self.steps, self.num, self.num_output)
        for blob in top[1:]:
            blob.reshape(*state_shape)
        sequence = (self.steps, self.num)
        self.wide = (self.steps * self.num, self.gates * self.num_output)
        self.flat = (self.steps * self.num, self.num_output)
        self.u = self.scratch("u", (*sequence, self.wide[1]))
        self.du = self.scratch("du", self.u.shape)
        self.h = self.scratch("h", (self.steps + 1, self.num, self.num_output))
        self.h_before = self.scratch("h_before", (*sequence, self.num_output))
        self.dh, self.dh_next = (self.scratch(name, (self.num, self.num_output)) for name in ("dh", "dh_next"))
        self.static_u = self.scratch("static_u", (self.num, self.wide[1]))

    def _products(self) -> tuple[float, float, float]:
        """FLOPs of the products with the inputs, with x_static, and with the state."""
        steps = 2.0 * self.steps * self.num
        static = 2.0 * self.num * self.blobs[2].count if self.has_static else 0.0
        of_state = self.blobs[2 + self.has_static :]
        return steps * self.blobs[0].count, static, steps * sum(w.count for w in of_state if len(w.shape) > 1)

    def products(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return sum(self._products())

    def gradient_products(self, bottom: Sequence[Blob], top: Sequence[Blob], propagate_down: Sequence[bool]) -> float:
        inputs, static, state = self._products()
        of_bottoms = propagate_down[0] * inputs + (self.has_static and propagate_down[2]) * static
        return any(self.param_propagate_down) * (inputs + static + state) + state + of_bottoms

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(self.per_element * self.steps * self.num * self.num_output)

    def exposed(self, bottom: Sequence[Blob]) -> Sequence[Blob]:
        """The bottoms that hold the state before the first step."""
        return bottom[len(bottom) - self.states :] if self.expose_hidden else []

    def project_inputs(self, bottom: Sequence[Blob]) -> None:
        """``u = x w^T + b``, and what comes from x_static: the part of each step that does not need the step before."""
        u = self.u.reshape(self.wide)
        self.ops.gemm(bottom[0].xdata.reshape(-1, self.inputs), self.blobs[0].xdata, u, transpose_b=True)
        self.ops.bias_add(u, self.blobs[1].xdata)
        if self.has_static:
            self.ops.gemm(
                bottom[2].xdata.reshape(-1, self.static_inputs), self.blobs[2].xdata, self.static_u, transpose_b=True
            )
            self.xp.add(self.u, self.static_u, out=self.u)

    def project_gradients(self, bottom: Sequence[Blob], propagate_down: Sequence[bool]) -> None:
        """From du to the gradients of the inputs and of their weights."""
        du, x = self.du.reshape(self.wide), bottom[0]
        flat = x.xdata.reshape(-1, self.inputs)
        if self.param_propagate_down[0]:
            self.ops.gemm(du, flat, self.blobs[0].xdiff, transpose_a=True, accumulate=True)
        if self.param_propagate_down[1]:
            self.ops.bias_grad(du, self.blobs[1].xdiff)
        if propagate_down[0]:
            self.ops.gemm(du, self.blobs[0].xdata, x.xdiff.reshape(flat.shape))
        if self.has_static:
            static = bottom[2].xdata.reshape(-1, self.static_inputs)
            self.xp.sum(self.du, axis=0, out=self.static_u)
            if self.param_propagate_down[2]:
                self.ops.gemm(self.static_u, static, self.blobs[2].xdiff, transpose_a=True, accumulate=True)
            if propagate_down[2]:
                self.ops.gemm(self.static_u, self.blobs[2].xdata, bottom[2].xdiff.reshape(static.shape))

    def continued(self, t: int, h: Any, cont: Any, out: Any) -> None:
        """``out = h cont[t]``, for h and out (N, D)."""
        rows = (1, self.num, self.num_output)
        self.ops.channelwise(_scaled, (h.reshape(rows),), (cont[t],), (), out.reshape(rows))


class RNN(Recurrent):
    r"""A recurrent net with one hidden layer and an output layer; see ``Recurrent`` for bottoms, tops and options.

    .. math:: h_t = \tanh(W_{hh} (cont_t \, h_{t-1}) + W_{xh} x_t + b_h), \qquad o_t = \tanh(W_{ho} h_t + b_o)

    The output is o; the state is h.  Params: W_xh (D, K), b_h, [W_xh_static], W_hh (D, D), W_ho (D, D), b_o (D,).
    """

    type = "RNN"
    reads_tops = (0,)
    per_element = 6
    states = 1
    gates = 1

    def recurrent_shapes(self) -> list[tuple[int, ...]]:
        d = self.num_output
        return [(d, d), (d, d), (d,)]

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        cont, h = bottom[1].xdata, self.h
        w_hh, w_ho, b_o = (blob.xdata for blob in self.blobs[-3:])
        self.project_inputs(bottom)
        h[:1] = (self.exposed(bottom) or self.hidden)[0].xdata
        for t in range(self.steps):
            self.continued(t, h[t], cont, self.h_before[t])
            self.ops.gemm(self.h_before[t], w_hh, self.dh, transpose_b=True)
            self.ops.elementwise(_tanh_of_sum, (self.u[t], self.dh), (), h[t + 1])
        self.hidden[0].xdata[...] = h[-1:]
        o = top[0].xdata.reshape(self.flat)
        self.ops.gemm(h[1:].reshape(self.flat), w_ho, o, transpose_b=True)
        self.ops.bias_add(o, b_o)
        self.ops.elementwise(TanH.value, (o,), (), o)
        for blob in top[1:]:
            blob.xdata[...] = h[-1:]

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        cont, h = bottom[1].xdata, self.h
        w_hh, w_ho, b_o = self.blobs[-3:]
        of_hh, of_ho, of_bias = self.param_propagate_down[-3:]
        dz = self.u.reshape(self.flat)
        self.ops.elementwise(TanH.gradient, (top[0].xdata, top[0].xdiff), (), dz)
        if of_ho:
            self.ops.gemm(dz, h[1:].reshape(self.flat), w_ho.xdiff, transpose_a=True, accumulate=True)
        if of_bias:
            self.ops.bias_grad(dz, b_o.xdiff)
        dh_next = self.dh_next
        dh_next.fill(0)
        for t in reversed(range(self.steps)):
            self.ops.gemm(self.u[t], w_ho.xdata, self.dh)
            self.dh += dh_next
            self.ops.elementwise(TanH.gradient, (h[t + 1], self.dh), (), self.du[t])
            self.ops.gemm(self.du[t], w_hh.xdata, dh_next)
            self.continued(t, dh_next, cont, dh_next)
        if of_hh:
            before = self.h_before.reshape(self.flat)
            self.ops.gemm(self.du.reshape(self.flat), before, w_hh.xdiff, transpose_a=True, accumulate=True)
        self.project_gradients(bottom, propagate_down)


class LSTM(Recurrent):
    r"""Long short-term memory (Hochreiter, Schmidhuber 1997; forget gates, no peepholes: Zaremba, Sutskever 2014).

    .. math::
        (i, f, o, g)_t &= W_{hc} (cont_t \, h_{t-1}) + W_{xc} x_t + b_c \\
        c_t &= cont_t \, \sigma(f_t) \, c_{t-1} + \sigma(i_t) \tanh(g_t), \qquad h_t = \sigma(o_t) \tanh(c_t)

    See ``Recurrent`` for bottoms, tops and options.  The output is h; the states are h and c.  Params: W_xc (4D, K),
    b_c, [W_xc_static], W_hc (4D, D), in rows of i, f, o, g.
    """

    type = "LSTM"
    reads_tops = ()
    per_element = 24
    states = 2
    gates = 4

    def recurrent_shapes(self) -> list[tuple[int, ...]]:
        return [(4 * self.num_output, self.num_output)]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.c = self.scratch("c", self.h.shape)
        self.dc = self.scratch("dc", self.dh.shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        cont, h, c, w = bottom[1].xdata, self.h, self.c, self.blobs[-1].xdata
        self.project_inputs(bottom)
        for memory, blob in zip((h, c), self.exposed(bottom) or self.hidden, strict=True):
            memory[:1] = blob.xdata
        for t in range(self.steps):
            self.continued(t, h[t], cont, self.h_before[t])
            self.ops.gemm(self.h_before[t], w, self.u[t], transpose_b=True, accumulate=True)
            self.ops.lstm_unit(c[t], self.u[t], cont[t], c[t + 1], h[t + 1])
        top[0].xdata[...] = h[1:]
        for memory, *blobs in zip((h, c), self.hidden, *([top[1:]] if self.expose_hidden else []), strict=True):
            for blob in blobs:
                blob.xdata[...] = memory[-1:]

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        cont, c, w, dy = bottom[1].xdata, self.c, self.blobs[-1], top[0].xdiff
        dc, dh_next = self.dc, self.dh_next
        dc.fill(0)
        dh_next.fill(0)
        for t in reversed(range(self.steps)):
            self.xp.add(dy[t], dh_next, out=self.dh)
            self.ops.lstm_unit_grad(c[t], self.u[t], cont[t], c[t + 1], dc, self.dh, dc, self.du[t])
            self.ops.gemm(self.du[t], w.xdata, dh_next)
            self.continued(t, dh_next, cont, dh_next)
        if self.param_propagate_down[-1]:
            before = self.h_before.reshape(self.flat)
            self.ops.gemm(self.du.reshape(self.wide), before, w.xdiff, transpose_a=True, accumulate=True)
        self.project_gradients(bottom, propagate_down)


class LSTMUnit(Layer):
    """One step of an LSTM, without its matrix products; see ``LSTM`` for the formulas.

    Bottoms: c of the step before (1, N, D); the gates i, f, o, g before their nonlinearities (1, N, 4D); cont (1, N).
    Tops: c and h (1, N, D).
    Caffe: both bottoms get their gradient if one is to get it; with cont neither 0 nor 1 that of f is not exact.
    """

    type = "LSTMUnit"
    reads_tops = (0,)
    per_element = 5
    bottoms = 3
    tops = 2
    differentiable = (0, 1)
    forcible = (0, 1)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        c, gates, cont = bottom
        fits = (
            len(c.shape) == 3
            and c.shape[0] == 1
            and gates.shape == (*c.shape[:2], 4 * c.shape[2])
            and cont.shape == c.shape[:2]
        )
        if not fits:
            found = ", ".join(blob.shape_string for blob in bottom)
            raise self.error(f"the bottoms must be (1, N, D), (1, N, 4D) and (1, N); found {found}", kind=ShapeError)
        for blob in top:
            blob.reshape_like(c)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        c_before, gates, cont, c, h = (blob.xdata[0] for blob in (*bottom, *top))
        self.ops.lstm_unit(c_before, gates, cont, c, h)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0] or propagate_down[1]:
            c_before, gates, cont, c = (blob.xdata[0] for blob in (*bottom, top[0]))
            dc, dh, dc_before, dgates = (blob.xdiff[0] for blob in (*top, *bottom[:2]))
            self.ops.lstm_unit_grad(c_before, gates, cont, c, dc, dh, dc_before, dgates)
