"""BN: batch normalisation with scale and shift in one layer, as two families of forks have it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from numpy.typing import NDArray

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError, WeightsError
from minicaffe.layers.base import TEST, LayerClass
from minicaffe.layers.normalisation import Standardized

_PSPNET = ("slope_filler", "bias_filler", "momentum", "eps", "frozen")
_SEGNET = ("scale_filler", "shift_filler", "bn_mode")
_OLDER = ("var_eps", "moving_average", "decay", "axis")
_CHOICES = (
    f"BN is known as PSPNet has it ({', '.join(_PSPNET)}; 4 blobs) and as SegNet has it ({', '.join(_SEGNET)}; 2 blobs)"
)


class BN(Standardized):
    r"""Batch normalisation, then a scale and a shift for each channel, as PSPNet and TSN have it.

    .. math:: y = s_c (x - \mu_c) / \sqrt{\sigma_c^2 + \epsilon} + b_c

    Bottom and top: (N, C, …).  Params, each (1, C, 1, 1): s (``slope_filler``, default: 1); b (``bias_filler``); and
    the running mean and variance, which no solver changes.  While training, mean and variance are those of the batch,
    and the running ones become ``momentum`` (0.9) times themselves plus the rest of the new; in TEST phase, and with
    ``frozen``, they are the running ones, and ``frozen`` gives no gradient of params.
    PSPNet: the running variance is not corrected, and 0 at first (1 if frozen).
    SegNet's BN, with 2 params, is ``SegNetBN``, and that of happynear, ``HappynearBN``: see ``dialect``.
    """

    type = "BN"
    capturable = True
    param = "bn_param"
    fixed: ClassVar[Collection[str] | None] = ("slope_filler", "bias_filler", "frozen")
    in_place = "always"
    dialects: ClassVar[Sequence[str]] = ("PSPNet", "happynear")
    momentum: float
    eps: float
    frozen: bool

    foreign: ClassVar[Sequence[str]] = _SEGNET
    """Fields of the other dialect."""
    blob_count: ClassVar[int] = 4

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        """SegNet's BN if a field or top that only it has is given, or its two blobs; else PSPNet's, or ``fork``'s."""
        if layer_param.fork == "happynear":
            return HappynearBN
        given = {field.name for field, _ in layer_param.bn_param.ListFields()}
        segnet = not given.isdisjoint(_SEGNET) or len(layer_param.top) > 1 or len(layer_param.blobs) == 2
        return SegNetBN if segnet and given.isdisjoint(_PSPNET) else BN

    def check_options(self) -> None:
        for field in (*self.foreign, *_OLDER):
            self.require(not self.has(field), f"is of another BN: {_CHOICES}", field)
        self.require(self.eps >= 0, f"must not be negative; found {self.eps:g}", "eps")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(len(x.shape) >= 2, f"the input must have at least 2 axes; found {x.shape_string}", kind=ShapeError)
        self.channels = x.shape[1]
        self.make_params()
        wrong = [blob.shape_string for blob in self.blobs if blob.count != self.channels]
        self.require(
            len(self.blobs) == self.blob_count and not wrong,
            f"needs {self.blob_count} blobs of {self.channels} values; found {len(self.blobs)}, {wrong}",
            "blobs",
            ShapeError,
        )

    def adapted(self, index: int, values: NDArray) -> NDArray | None:
        if values.shape == (1, self.channels):
            raise WeightsError(
                f"its blobs are (1, {self.channels}), as happynear's BN has them; if it is that, say fork: "
                '"happynear" in the layer'
            )
        return None

    def make_params(self) -> None:
        """In ``setup``: scale, shift and running statistics."""
        running = proto.FillerParameter(value=float(self.frozen))
        slope = self.given("slope_filler", proto.FillerParameter(value=1))
        for filler in (slope, self.given("bias_filler", None), None, running):
            self.add_param(self.param_shape(), filler)
        specs = self.layer_param.param
        while len(specs) < 4:
            specs.add()
        for spec in specs[2:]:
            spec.lr_mult = spec.decay_mult = 0

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(
            x.shape[1:2] == (self.channels,),
            f"the input must keep {self.channels} channels; found {x.shape_string}",
            kind=ShapeError,
        )
        self.measured = self.measures()
        self.require(
            not self.measured or x.count > 0,
            f"a batch without values has no mean and variance; found {x.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape_like(x)
        self.keep_rows((x.shape[0], self.channels, x.span(2)))
        self.reads_bottoms = () if top[0] is bottom[0] else (0,)
        self.kept = self.input_copy(bottom, top, self.rows)
        self.slope = self.scratch("slope", (self.channels,))

    def param_shape(self) -> tuple[int, ...]:
        return (1, self.channels, 1, 1)

    def measures(self) -> bool:
        """Whether mean and variance are those of the batch."""
        return self.phase != TEST and not self.frozen

    def statistics(self) -> Sequence[Blob]:
        return self.blobs[2:] if self.measured else ()

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(top[0].count * (10 if self.measured else 4))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata.reshape(self.rows), top[0].xdata.reshape(self.rows)
        scale, shift = (blob.xdata.reshape(-1) for blob in self.blobs[:2])
        if self.measured:
            how = (self.mean, self.variance, self.factor)
            self.ops.standardize(x, self.eps, *how, y, self.kept, scale, shift)
            self.remember(top)
            return
        self.recall()
        self.ops.elementwise(BN.product, (self.factor, scale), (), self.slope)
        self.ops.scale(x, self.slope, shift, y, self.kept, self.mean)

    def recall(self) -> None:
        """Set ``mean`` and ``factor`` to what the running statistics say."""
        mean, variance = (blob.xdata.reshape(-1) for blob in self.blobs[2:4])
        self.ops.elementwise(Standardized.inverse_deviation, (variance,), (self.eps,), self.factor)
        self.ops.elementwise(Standardized.same, (mean,), (1.0,), self.mean)

    def remember(self, top: Sequence[Blob]) -> None:
        """Mix this batch's mean and variance into the running ones."""
        self.mix(self.mean, self.variance)

    def mix(self, *statistics: Any) -> None:
        """Mix this batch's statistics into the running ones."""
        for blob, new in zip(self.blobs[2:], statistics, strict=True):
            old = blob.xdata.reshape(-1)
            self.ops.elementwise(BN.mixed, (old, new), (self.momentum,), old)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        x = bottom[0].xdata.reshape(self.rows) if self.kept is None else self.kept
        dy = top[0].xdiff.reshape(self.rows)
        dx = bottom[0].xdiff.reshape(self.rows) if propagate_down[0] else None
        scale = self.blobs[0].xdata.reshape(-1)
        dv, db = (
            blob.xdiff.reshape(-1) if wanted and not self.frozen else None
            for blob, wanted in zip(self.blobs[:2], self.param_propagate_down, strict=False)
        )
        if self.measured and dx is not None:
            means = (self.gradient_mean, self.gradient_dot)
            self.ops.standardize_grad(x, dy, self.mean, self.factor, *means, dx, None, scale, dv, db)
            return
        if dv is not None:
            self.ops.channel_sum(BN.along, (x, dy), (self.mean, self.factor), (), dv)
        if db is not None:
            self.ops.channel_sum(Standardized.same, (dy,), (), (1.0,), db)
        if dx is not None:
            self.ops.channelwise(BN.scaled_back, (dy,), (self.factor, scale), (), dx)

    @staticmethod
    def product(factor: float, scale: float) -> float:
        return factor * scale

    @staticmethod
    def mixed(old: float, new: float, momentum: float) -> float:
        return old * momentum + new * (1.0 - momentum)

    @staticmethod
    def along(x: float, dy: float, mean: float, factor: float) -> float:
        return dy * (x - mean) * factor

    @staticmethod
    def scaled_back(dy: float, factor: float, scale: float) -> float:
        return dy * factor * scale


class HappynearBN(BN):
    """BN of happynear/caffe-windows, said by ``fork: "happynear"``: as PSPNet's, but for what it remembers.

    Params, each (1, C): scale, shift, and the running means of the mean and of 1 / deviation (with ``eps``).
    """

    type = ""
    capturable = True
    fixed = BN.fixed

    def adapted(self, index: int, values: NDArray) -> NDArray | None:
        return None

    def param_shape(self) -> tuple[int, ...]:
        return (1, self.channels)

    def recall(self) -> None:
        for blob, values in ((self.blobs[2], self.mean), (self.blobs[3], self.factor)):
            self.ops.elementwise(Standardized.same, (blob.xdata.reshape(-1),), (1.0,), values)

    def remember(self, top: Sequence[Blob]) -> None:
        self.mix(self.mean, self.factor)


class SegNetBN(BN):
    r"""Batch normalisation, then a scale and a shift for each channel, as SegNet has it.

    Bottom and top: (N, C, …); further tops (1, C, 1, 1), for ``bn_mode: LEARN``: the batch's mean, and its variance.
    Params, each (1, C, 1, 1): scale (``scale_filler``, default: 0) and shift (``shift_filler``).  LEARN, the default,
    takes mean and variance of the batch in both phases; ``INFERENCE`` only scales and shifts: fold the statistics of
    the training set into the weights before (SegNet's compute_bn_statistics.py).  SegNet: epsilon is 1e-9; its
    gradients of params replace what was there, here they are added.
    """

    type = ""
    capturable = True
    fixed = ("scale_filler", "shift_filler", "bn_mode")
    tops = (1, 3)
    bn_mode: int

    LEARN, INFERENCE = range(2)
    foreign = _PSPNET
    blob_count = 2
    dialects = ("SegNet",)

    def make_params(self) -> None:
        for name in ("scale_filler", "shift_filler"):
            self.add_param((1, self.channels, 1, 1), self.given(name, None))
        self.eps = 1e-9

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.require(self.measured or len(top) == 1, "INFERENCE makes no mean and variance; it has one top", "bn_mode")
        for blob in top[1:]:
            blob.reshape(1, self.channels, 1, 1)

    def measures(self) -> bool:
        return self.bn_mode == self.LEARN

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.measured:
            super().forward(bottom, top)
        else:
            x, y = bottom[0].xdata.reshape(self.rows), top[0].xdata.reshape(self.rows)
            scale, shift = (blob.xdata.reshape(-1) for blob in self.blobs)
            self.mean.fill(0)
            self.factor.fill(1)
            self.ops.scale(x, scale, shift, y, self.kept)

    def remember(self, top: Sequence[Blob]) -> None:
        for blob, values in zip(top[1:], (self.mean, self.variance), strict=False):
            self.ops.elementwise(Standardized.same, (values,), (1.0,), blob.xdata.reshape(-1))
