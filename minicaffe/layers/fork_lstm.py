"""Lstm: the long short-term memory of Junhyuk Oh's fork, which nets that read text are made of."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count
from minicaffe.layers.recurrent import Stateful


class Lstm(Stateful):
    r"""Long short-term memory over sequences (Junhyuk Oh's caffe-lstm; caffe_ocr).

    .. math::
        (i, f, o, g)_t &= W x_t + U h_{t-1} + b \\
        c_t &= \sigma(f_t) \, c_{t-1} + \sigma(i_t) \tanh(g_t), \qquad h_t = \sigma(o_t) \tanh(c_t)

    Bottoms: x (T, N, I), or (T N, I) with ``batch_size`` N; optionally clip (T, N), or T N values: 0 where a sequence
    begins.  Top: h, (T, N, H) or (T N, H), H = ``num_output``.  Params: W (4H, I), U (4H, H), b (4H), in rows of i, f,
    o, g.  Without clip all sequences begin at the first step; with it a batch goes on from the state after the one
    before.  ``clipping_threshold``: what the gradients of gates, before their nonlinearities, are held to.
    The fork: the gradient of U counts h of the step before where a sequence begins, too.  With N > 1 its CPU code gives
    all sequences what comes from the state of the first; its GPU's, and this, each its own.
    """

    type = "Lstm"
    reads_bottoms = (0,)
    param = "lstm_param"
    bottoms: Count = (1, 2)
    differentiable = forcible = (0,)
    reads_tops = ()
    per_element = 24
    fixed = ("num_output", "weight_filler", "bias_filler")
    num_output: int
    clipping_threshold: float
    batch_size: int

    def check_options(self) -> None:
        self.require(self.num_output > 0, f"must be positive; found {self.num_output}", "num_output")
        limit = self.clipping_threshold
        self.require(
            isfinite(limit) and limit >= 0, f"must be positive, or 0 for none; found {limit:g}", "clipping_threshold"
        )
        self.require(not self.has("steps"), "is not supported; the steps are those of the bottom", "steps")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, width, options = bottom[0], 4 * self.num_output, self.layer_param.lstm_param
        self.require(len(x.shape) in (2, 3), f"must be (T, N, I) or (T N, I); found {x.shape_string}", kind=ShapeError)
        self.add_param((width, x.shape[-1]), options.weight_filler)
        self.add_param((width, self.num_output), options.weight_filler)
        self.add_param((width,), options.bias_filler)
        self.require(len(self.blobs) == 3, f"must be 3; found {len(self.blobs)}", "blobs", ShapeError)
        self.hidden = [Blob((0,), self.dtype) for _ in range(2)]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(len(x.shape) in (2, 3), f"must be (T, N, I) or (T N, I); found {x.shape_string}", kind=ShapeError)
        steps, num = x.shape[:2]
        if len(x.shape) == 2:
            num = max(self.batch_size, 1)
            self.require(x.shape[0] % num == 0, f"must divide the rows of {x.shape_string}; found {num}", "batch_size")
            steps = x.shape[0] // num
        width = 4 * self.num_output
        self.require_blobs((width, x.shape[-1]), (width, self.num_output), (width,))
        if len(bottom) > 1 and bottom[1].count != steps * num:
            raise self.error(
                f"clip must hold a value for each step of each sequence, {steps} x {num}; found "
                f"{bottom[1].shape_string}",
                kind=ShapeError,
            )
        for blob in self.hidden:
            if blob.shape != (num, self.num_output):
                blob.reshape(num, self.num_output)
                blob.data.fill(0)
        top[0].reshape(*x.shape[:-1], self.num_output)
        self.sequence, self.rows = (steps, num), steps * num
        self.cont = self.scratch("cont", self.sequence)
        self.gates, self.dgates = (self.scratch(name, (*self.sequence, width)) for name in ("gates", "dgates"))
        self.h, self.c = (self.scratch(name, (steps + 1, num, self.num_output)) for name in "hc")
        self.dh, self.dh_next, self.dc, self.kept = (
            self.scratch(name, (num, self.num_output)) for name in ("dh", "dh_next", "dc", "kept")
        )

    def products(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return 2.0 * self.rows * (self.blobs[0].count + self.blobs[1].count)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        w, u, b = (blob.xdata for blob in self.blobs)
        self._begin(bottom)
        flat = self.gates.reshape(self.rows, 4 * self.num_output)
        self.ops.gemm(bottom[0].xdata.reshape(self.rows, bottom[0].shape[-1]), w, flat, transpose_b=True)
        self.ops.bias_add(flat, b)
        for t in range(self.sequence[0]):
            self._continue(t, self.h[t], self.kept)
            self.ops.gemm(self.kept, u, self.gates[t], transpose_b=True, accumulate=True)
            self.ops.lstm_unit(self.c[t], self.gates[t], self.cont[t], self.c[t + 1], self.h[t + 1])
        top[0].xdata.reshape(self.h[1:].shape)[...] = self.h[1:]
        for blob, memory in zip(self.hidden, (self.h, self.c), strict=True):
            blob.xdata[...] = memory[-1]

    def _begin(self, bottom: Sequence[Blob]) -> None:
        """Set ``cont``, 0 where a sequence begins and else 1, and the state before the first step."""
        if len(bottom) > 1:
            self.ops.elementwise(self.goes_on, (bottom[1].xdata.reshape(self.sequence),), (), self.cont)
        else:
            self.cont.fill(1)
            self.cont[:1] = 0
        for blob, memory in zip(self.hidden, (self.h, self.c), strict=True):
            memory[0] = blob.xdata if len(bottom) > 1 else 0

    def _continue(self, t: int, h: Any, out: Any) -> None:
        """``out = h cont[t]``."""
        rows = (1, *h.shape)
        self.ops.channelwise(self.times, (h.reshape(rows),), (self.cont[t],), (), out.reshape(rows))

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        u, dy, limit = self.blobs[1].xdata, top[0].xdiff.reshape(self.h[1:].shape), self.clipping_threshold
        self.dc.fill(0)
        self.dh_next.fill(0)
        for t in reversed(range(self.sequence[0])):
            self.xp.add(dy[t], self.dh_next, out=self.dh)
            state = (self.c[t], self.gates[t], self.cont[t], self.c[t + 1])
            self.ops.lstm_unit_grad(*state, self.dc, self.dh, self.dc, self.dgates[t])
            if limit > 0:
                self.xp.clip(self.dgates[t], -limit, limit, out=self.dgates[t])
            self.ops.gemm(self.dgates[t], u, self.dh_next)
            self._continue(t, self.dh_next, self.dh_next)
        self._gather(bottom[0], propagate_down[0])

    def _gather(self, x: Blob, wanted: bool) -> None:
        """From the gradients of gates to those of params and of x."""
        flat, inputs = self.dgates.reshape(self.rows, 4 * self.num_output), x.xdata.reshape(self.rows, x.shape[-1])
        before = self.h[:-1].reshape(self.rows, self.num_output)
        for i, values in ((0, inputs), (1, before)):
            if self.param_propagate_down[i]:
                self.ops.gemm(flat, values, self.blobs[i].xdiff, transpose_a=True, accumulate=True)
        if self.param_propagate_down[2]:
            self.ops.bias_grad(flat, self.blobs[2].xdiff)
        if wanted:
            self.ops.gemm(flat, self.blobs[0].xdata, x.xdiff.reshape(inputs.shape))

    @staticmethod
    def goes_on(clip: float) -> float:
        return (1.0 if clip != 0 else 0.0) if clip == clip else clip

    @staticmethod
    def times(h: float, cont: float) -> float:
        return h * cont
