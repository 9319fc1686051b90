"""Neurons that draw random numbers while training: SpatialDropout, Noise, Insanity."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, log, pi

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import TRAIN, Layer
from minicaffe.layers.neuron import Dropout


class SpatialDropout(Dropout):
    """Zero a random share of the channels while training (Tompson et al. 2015), and scale the rest to keep the mean.

    Bottom and top: (N, C, …).  As Dropout, but one number is drawn for each item and channel.  ``dropout_ratio`` is in
    ``spatial_dropout_param`` (ENet) or ``dropout_param`` (Intel Caffe).
    """

    type = "SpatialDropout"
    param = "spatial_dropout_param"
    capturable = False
    scale_train = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        given = self.layer_param.dropout_param
        if given.HasField("dropout_ratio") and not self.has("dropout_ratio"):
            self.dropout_ratio = given.dropout_ratio
            self.check_options()

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(len(x.shape) >= 2, f"the input must have channels; found {x.shape_string}", kind=ShapeError)
        super().reshape(bottom, top)
        self.planes = (1, x.span(0, 2), x.span(2))
        if self.drops:
            self.mask = self.scratch("mask", x.shape[:2])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if not self.drops:
            super().forward(bottom, top)
            return
        self.random.bernoulli(self.mask, 1 - self.dropout_ratio)
        self.mask *= self.dtype.type(self.factor)
        x, y = bottom[0].xdata.reshape(self.planes), top[0].xdata.reshape(self.planes)
        self.ops.scale(x, self.mask.reshape(-1), None, y, None)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not self.drops:
            super().backward(top, propagate_down, bottom)
        elif propagate_down[0]:
            dx, dy = bottom[0].xdiff.reshape(self.planes), top[0].xdiff.reshape(self.planes)
            self.ops.scale(dy, self.mask.reshape(-1), None, dx, None)


class Noise(Layer):
    """Add random numbers while training (happynear/caffe-windows).

    Bottom and top: one shape.  TRAIN: ``y = x + bias + n``, n drawn for each element at each forward, from N(0,
    ``gaussian_std``^2) or, if that is not given, from U[-``uniform_range``, ``uniform_range``].  TEST: y = x.
    There, with neither given, y = x in TRAIN, too.
    """

    type = "Noise"
    param = "noise_param"
    in_place = "always"
    reads_bottoms = reads_tops = ()
    gaussian_std: float
    uniform_range: float
    bias: float

    def check_options(self) -> None:
        for field in ("gaussian_std", "uniform_range"):
            value = getattr(self, field)
            self.require(0 <= value < inf, f"must not be negative, and finite; found {value:g}", field)

    @property
    def adds(self) -> bool:
        """Whether anything is added."""
        return self.phase == TRAIN and (self.has("gaussian_std") or self.has("uniform_range"))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape_like(bottom[0])
        if self.adds:
            self.drawn = self.scratch("drawn", bottom[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata, top[0].xdata
        if self.adds:
            self._draw()
            self.xp.add(x, self.drawn, out=y)
        elif top[0] is not bottom[0]:
            y[...] = x

    def _draw(self) -> None:
        """Fill ``drawn``; normal numbers by the method of Box and Muller (1958)."""
        self.random.uniform(self.drawn)
        if self.has("gaussian_std"):
            radius = self.xp.sqrt(-2 * self.xp.log(self.drawn))
            self.random.uniform(self.drawn)
            self.drawn[...] = radius * self.xp.cos(2 * pi * self.drawn) * self.gaussian_std + self.bias
        else:
            self.drawn[...] = (2 * self.drawn - 1) * self.uniform_range + self.bias

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0] and top[0] is not bottom[0]:
            bottom[0].xdiff[...] = top[0].xdiff


class Insanity(Layer):
    """A leaky ReLU whose slope is drawn anew for each element (randomized leaky ReLU, Xu et al. 2015).

    Bottom and top: one shape.  ``y = x`` for x > 0, else ``x / a``.  TRAIN: a is drawn from U[``lb``, ``ub``] at each
    forward.  TEST: 1 / a is the mean of such, ``(ln |ub| - ln |lb|) / (ub - lb)``.
    Source: happynear/caffe-windows; there backward in TEST takes the slopes that TRAIN has drawn.
    """

    type = "Insanity"
    param = "insanity_param"
    in_place = "always"
    reads_bottoms = reads_tops = ()
    lb: float
    ub: float

    def check_options(self) -> None:
        lb, ub = self.lb, self.ub
        self.require(-inf < lb < ub < inf and lb * ub > 0, f"needs lb < ub, of one sign; found {lb:g} and {ub:g}", "lb")

    @property
    def mean_slope(self) -> float:
        """The mean of 1 / a."""
        return log(self.ub / self.lb) / (self.ub - self.lb)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape_like(bottom[0])
        self.slopes = self.scratch("slopes", bottom[0].shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata, top[0].xdata
        if self.phase == TRAIN:
            self.random.uniform(self.slopes)
            self.slopes[...] = 1 / (self.lb + (self.ub - self.lb) * self.slopes)
        else:
            self.slopes.fill(self.mean_slope)
        self.slopes[x > 0] = 1
        self.xp.multiply(x, self.slopes, out=y)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            self.xp.multiply(top[0].xdiff, self.slopes, out=bottom[0].xdiff)
