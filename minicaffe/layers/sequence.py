"""Layers that turn sequences round and mark where they begin: Reverse, ReverseTime, ContinuationIndicator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count, Layer


class Reverse(Layer):
    """The other way round along ``axis`` (0), which may be counted from the end (DeepDetect).

    Bottom and top: one shape.
    """

    type = "Reverse"
    param = "reverse_param"
    reads_bottoms = reads_tops = ()
    per_element = 0
    axis: int

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        axis = self.axis_of(bottom[0], self.axis)
        self.turned = (*(slice(None),) * axis, slice(None, None, -1))
        top[0].reshape_like(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].xdata[...] = bottom[0].xdata[self.turned]

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            bottom[0].xdiff[...] = top[0].xdiff[self.turned]


class ReverseTime(Layer):
    """Each sequence of a batch the other way round (caffe_ocr).

    Bottoms: x (T, N, …); lengths (N), integers in 0 .. T.  Top: as x.  The first ``lengths[n]`` steps of sequence n
    change places; the others are 0, or as they are with ``copy_remaining``.
    """

    type = "ReverseTime"
    param = "reverse_time_param"
    bottoms = 2
    reads_bottoms = reads_tops = ()
    differentiable = forcible = (0,)
    per_element = 0
    copy_remaining: bool

    MOST_ROWS = 1 << 24
    """Up to which float32 counts."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, lengths = bottom
        self.require(
            len(x.shape) >= 2 and lengths.shape == x.shape[1:2],
            f"must be (T, N, …) and (N); found {x.shape_string} and {lengths.shape_string}",
            kind=ShapeError,
        )
        steps, sequences = x.shape[:2]
        self.require(
            steps * sequences <= self.MOST_ROWS,
            f"can turn round at most {self.MOST_ROWS} steps; found {x.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape_like(x)
        self.rows = (steps * sequences, x.span(2))
        self.step, self.sequence, self.length, self.source = (
            self.scratch(name, (steps, sequences)) for name in ("step", "sequence", "length", "source")
        )
        self.step[...] = self.xp.arange(steps, dtype=self.dtype)[:, None]
        self.sequence[...] = self.xp.arange(sequences, dtype=self.dtype)
        self.bad_length = self.flag("bad_length")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        steps, sequences = bottom[0].shape[:2]
        self.check_indices(bottom[1].xdata, steps + 1, self.bad_length, hint=" among the lengths of sequences")
        self.length[...] = bottom[1].xdata
        places = (self.step, self.sequence, self.length)
        self.ops.elementwise(self.turned, places, (sequences, float(self.copy_remaining)), self.source)
        self._gather(bottom[0].xdata, top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:  # turned round twice, all is as it was
            self._gather(top[0].xdiff, bottom[0].xdiff)

    def _gather(self, x: Any, y: Any) -> None:
        self.ops.gather_rows(x.reshape(self.rows), self.source.reshape(-1), y.reshape(self.rows))

    @staticmethod
    def turned(step: float, sequence: float, length: float, sequences: float, copies: float) -> float:
        return (
            (length - 1 - step) * sequences + sequence
            if step < length
            else (step * sequences + sequence if copies > 0.5 else -1.0)
        )


class ContinuationIndicator(Layer):
    """Where sequences go on, as recurrent layers want to know it: 0 at the first step, then 1 (DeepDetect).

    Bottom: none, with ``batch_size``; or what has the N sequences on ``axis`` (0).  Top: (``time_step``, N).
    """

    type = "ContinuationIndicator"
    param = "continuation_indicator_param"
    bottoms: Count = (0, 1)
    reads_bottoms = reads_tops = ()
    differentiable = ()
    per_element = 0
    time_step: int
    batch_size: int
    axis: int

    def check_options(self) -> None:
        self.require(self.time_step > 0, f"must be positive; found {self.time_step}", "time_step")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if bottom:
            sequences = bottom[0].shape[self.axis_of(bottom[0], self.axis)]
        else:
            self.require(self.batch_size > 0, "must be given, and positive, without a bottom", "batch_size")
            sequences = self.batch_size
        top[0].reshape(self.time_step, sequences)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].xdata.fill(1)
        top[0].xdata[:1] = 0
