"""Layers that normalise: LRN, BatchNorm, MVN."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import TEST, Layer


class LRN(Layer):
    r"""Local response normalisation (Krizhevsky, Sutskever, Hinton 2012).

    ACROSS_CHANNELS, with n = ``local_size`` (5, odd) channels around each one, zeros beyond the ends:

    .. math:: y_c = x_c \, s_c^{-\beta}, \qquad s_c = k + \frac{\alpha}{n} \sum_{c'} x_{c'}^2

    WITHIN_CHANNEL, with the n x n pixels around each one: :math:`s = 1 + \frac{\alpha}{n^2} \sum x^2`.
    Bottom and top: (N, C, H, W).
    Caffe: alpha is divided by the number of values; k (1) counts across channels only.
    """

    type = "LRN"
    param = "lrn_param"
    capturable = True
    by_image = True
    local_size: int
    alpha: float
    beta: float
    norm_region: int
    k: float

    ACROSS_CHANNELS, WITHIN_CHANNEL = range(2)

    def check_options(self) -> None:
        self.require(self.local_size % 2 == 1, f"must be odd; found {self.local_size}", "local_size")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(
            len(x.shape) == 4, f"the input must have 4 axes (N, C, H, W); found {x.shape_string}", kind=ShapeError
        )
        top[0].reshape_like(x)
        self.rows = (*x.shape[:2], x.span(2))
        self.scale = self.scratch_for_backward(x.shape)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        arrays = bottom[0].xdata, self.scale, top[0].xdata
        if self.norm_region == self.ACROSS_CHANNELS:
            rows = (a if a is None else a.reshape(self.rows) for a in arrays)
            self.ops.lrn(*rows, self.local_size, self.alpha, self.beta, self.k)
        else:
            self.ops.lrn_within(*arrays, self.local_size, self.alpha, self.beta)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        self.require_kept(self.scale)
        arrays = bottom[0].xdata, top[0].xdata, self.scale, top[0].xdiff, bottom[0].xdiff
        if self.norm_region == self.ACROSS_CHANNELS:
            rows = (a.reshape(self.rows) for a in arrays)
            self.ops.lrn_grad(*rows, self.local_size, self.alpha, self.beta)
        else:
            self.ops.lrn_within_grad(*arrays, self.local_size, self.alpha, self.beta)


class Standardized(Layer):
    """Base of layers that subtract the mean of groups of values, and divide by their deviation.

    ``rows`` (outer, groups, inner) is how x is seen; a group's values are those of all outer and inner places.
    """

    reads_tops = ()
    rows: tuple[int, int, int]

    def keep_rows(self, rows: tuple[int, int, int]) -> None:
        """Set ``rows``, and make memory for the statistics of each group."""
        self.rows = rows
        self.size = max(rows[0] * rows[2], 1)
        names = ("mean", "variance", "factor", "gradient_mean", "gradient_dot")
        self.mean, self.variance, self.factor, self.gradient_mean, self.gradient_dot = (
            self.scratch(name, rows[1:2]) for name in names
        )

    def measure(self, x: Any, variance: bool = True) -> None:
        """Mean, and variance, of each group of x."""
        self.mean.fill(0)
        self.ops.channel_sum(Standardized.same, (x,), (), (1 / self.size,), self.mean)
        if variance:
            self.variance.fill(0)
            self.ops.channel_sum(Standardized.square, (x,), (self.mean,), (1 / self.size,), self.variance)

    def standardized_gradient(self, x: Any, dy: Any, dx: Any) -> None:
        """The gradient through mean and deviation."""
        self.ops.standardize_grad(x, dy, self.mean, self.factor, self.gradient_mean, self.gradient_dot, dx)

    @staticmethod
    def same(x: float, weight: float) -> float:
        return x * weight

    @staticmethod
    def square(x: float, mean: float, weight: float) -> float:
        return (x - mean) * (x - mean) * weight

    @staticmethod
    def centred(x: float, mean: float) -> float:
        return x - mean

    @staticmethod
    def standard(x: float, mean: float, factor: float) -> float:
        return (x - mean) * factor

    @staticmethod
    def scaled(dy: float, factor: float) -> float:
        return dy * factor

    @staticmethod
    def inverse_deviation(variance: float, eps: float) -> float:
        return 1.0 / sqrt(variance + eps)


class BatchNorm(Standardized):
    r"""Batch normalisation (Ioffe, Szegedy 2015), by itself without scale and shift: put a Scale with ``bias_term``
    after it.

    .. math:: y = (x - \mu_c) / \sqrt{\sigma_c^2 + \epsilon}

    Bottom and top: (N, C, …).  While training, mean and variance are those of the batch, and the running ones are
    updated; with ``use_global_stats`` (default: in TEST phase) they are the running ones. Params, which no solver
    changes: sums of the means (C,) and of the variances (C,), and what to divide them by (1,): at each update all are
    multiplied by ``moving_average_fraction``, before the new mean, variance and 1 are added.
    Caffe: the running variance is corrected by m / (m - 1), that of the batch is not; a ``param`` must have ``lr_mult:
    0``.
    NVCaffe: with ``scale_bias``, or a ``scale_filler`` or ``bias_filler``, y is multiplied by a fourth param (C,), 1 at
    first, and a fifth (C,), 0 at first, is added; both are learned.
    """

    type = "BatchNorm"
    obeys = ("scale_bias", "scale_filler", "bias_filler")
    capturable = True
    by_image = True
    takes_halves = True
    param = "batch_norm_param"
    fixed = ("scale_bias", "scale_filler", "bias_filler")
    in_place = "always"
    use_global_stats: bool
    moving_average_fraction: float
    eps: float
    scale_bias: bool

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, options = bottom[0], self.layer_param.batch_norm_param
        self.require(len(x.shape) >= 2, f"the input must have at least 2 axes; found {x.shape_string}", kind=ShapeError)
        self.channels = x.shape[1]
        self.scales = self.scale_bias or self.has("scale_filler") or self.has("bias_filler")
        for shape in ((self.channels,), (self.channels,), (1,)):
            self.add_param(shape)
        if self.scales:
            filler = options.scale_filler if self.has("scale_filler") else proto.FillerParameter(value=1)
            self.add_param((self.channels,), filler)
            self.add_param((self.channels,), options.bias_filler)
        self.require(
            [blob.count for blob in self.blobs]
            == [self.channels, self.channels, 1] + 2 * self.scales * [self.channels],
            f"needs the blobs mean ({self.channels}), variance ({self.channels}) and factor (1)"
            + (f", scale and bias ({self.channels} each)" if self.scales else ""),
            "blobs",
            ShapeError,
        )
        specs = self.layer_param.param
        self.require(
            all(spec.lr_mult == 0 for spec in specs[:3]),
            "the running statistics are not learned: set lr_mult: 0 in each",
            "param",
        )
        for _ in range(3 - len(specs)):
            specs.add(lr_mult=0)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(
            x.shape[1:2] == (self.channels,),
            f"the input must keep {self.channels} channels; found {x.shape_string}",
            kind=ShapeError,
        )
        self.use_global_stats = self.given("use_global_stats", self.phase == TEST)
        self.only_by_image_if(self.use_global_stats)
        self.require(
            self.use_global_stats or x.count > 0,
            f"a batch without values has no mean and variance; found {x.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape_like(x)
        self.keep_rows((x.shape[0], self.channels, x.span(2)))
        self.reads_bottoms = () if self.use_global_stats or top[0] is bottom[0] else (0,)
        self.kept = None if self.use_global_stats else self.input_copy(bottom, top, self.rows)
        self.scaled_factor = self.scratch("scaled_factor", (self.channels,)) if self.use_global_stats else None
        if self.scales:
            self.unscaled, self.unscaled_diff = (
                self.scratch(name, self.rows) for name in ("unscaled", "unscaled_diff")
            )

    def statistics(self) -> Sequence[Blob]:
        return () if self.use_global_stats else self.blobs[:3]

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(top[0].count * (2 if self.use_global_stats else 8))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata.reshape(self.rows), top[0].xdata.reshape(self.rows)
        if self.use_global_stats:
            self.recall()
            self.ops.channelwise(Standardized.standard, (x,), (self.mean, self.factor), (), y)
        else:
            self.ops.standardize(x, self.eps, self.mean, self.variance, self.factor, y, self.kept)
            self.remember()
        if self.scales:
            self.ops.scale(y, self.blobs[3].xdata, self.blobs[4].xdata, y, self.unscaled)

    def recall(self) -> None:
        """Take the running mean and variance, and the factor that follows."""
        total = self.blobs[2].xdata
        for blob, out in ((self.blobs[0], self.mean), (self.blobs[1], self.variance)):
            flat = (1, 1, self.channels)
            self.ops.channelwise(BatchNorm.quotient, (blob.xdata.reshape(flat),), (total,), (), out.reshape(flat))
        self.ops.elementwise(BatchNorm.inverse_deviation, (self.variance,), (self.eps,), self.factor)

    def remember(self) -> None:
        """Add this batch's mean and variance to the running ones."""
        keep, unbiased = self.moving_average_fraction, self.size / (self.size - 1) if self.size > 1 else 1.0
        mean, variance, total = (blob.xdata for blob in self.blobs[:3])
        self.ops.elementwise(BatchNorm.counted, (total,), (keep,), total)
        self.ops.elementwise(BatchNorm.running, (mean.reshape(-1), self.mean), (keep, 1.0), mean)
        self.ops.elementwise(BatchNorm.running, (variance.reshape(-1), self.variance), (keep, unbiased), variance)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        dy = top[0].xdiff.reshape(self.rows)
        if self.scales:
            dv, db = (self.blobs[j].xdiff if self.param_propagate_down[j] else None for j in (3, 4))
            wanted = self.unscaled_diff if propagate_down[0] else None
            self.ops.scale_grad(self.unscaled, dy, self.blobs[3].xdata, wanted, dv, db)
            dy = wanted
        if not propagate_down[0]:
            return
        dx = bottom[0].xdiff.reshape(self.rows)
        if self.use_global_stats:
            self.ops.channelwise(Standardized.scaled, (dy,), (self.factor,), (), dx)
        else:
            self.standardized_gradient(self.input(bottom), dy, dx)

    def input(self, bottom: Sequence[Blob]) -> Any:
        """What forward read, as rows."""
        return bottom[0].xdata.reshape(self.rows) if self.kept is None else self.kept

    @staticmethod
    def quotient(total: float, count: float) -> float:
        return 0.0 if count == 0 else total / count

    @staticmethod
    def counted(total: float, keep: float) -> float:
        return total * keep + 1.0

    @staticmethod
    def running(total: float, new: float, keep: float, weight: float) -> float:
        return total * keep + new * weight


class MVN(Standardized):
    """Subtract the mean of each channel of each image, and divide by its deviation if ``normalize_variance`` (default).

    Bottom: at most 4 axes.  Top: (N, C, H, W), missing axes being 1.  ``across_channels``: one mean and deviation an
    image.
    Caffe: ``eps`` (1e-9) is added to the deviation, not to the variance.
    """

    type = "MVN"
    capturable_on_device = True
    param = "mvn_param"
    in_place = "forward"
    normalize_variance: bool
    across_channels: bool
    eps: float

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.reads_bottoms = (0,) if self.normalize_variance else ()
        self.require(len(x.shape) <= 4, f"the input must have at most 4 axes; found {x.shape_string}", kind=ShapeError)
        top[0].reshape(x.num, x.channels, x.height, x.width)
        groups = x.num if self.across_channels else x.num * x.channels
        self.keep_rows((1, groups, x.count // max(groups, 1)))

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(top[0].count * (8 if self.normalize_variance else 3))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata.reshape(self.rows), top[0].xdata.reshape(self.rows)
        self.measure(x, self.normalize_variance)
        if self.normalize_variance:
            self.ops.elementwise(MVN.inverse_deviation, (self.variance,), (self.eps,), self.factor)
            self.ops.channelwise(Standardized.standard, (x,), (self.mean, self.factor), (), y)
        else:
            self.ops.channelwise(Standardized.centred, (x,), (self.mean,), (), y)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        x, dy, dx = (a.reshape(self.rows) for a in (bottom[0].xdata, top[0].xdiff, bottom[0].xdiff))
        if self.normalize_variance:
            self.standardized_gradient(x, dy, dx)
        else:
            self.measure(dy, variance=False)
            self.ops.channelwise(Standardized.centred, (dy,), (self.mean,), (), dx)

    @staticmethod
    def inverse_deviation(variance: float, eps: float) -> float:
        return 1.0 / (sqrt(variance) + eps)
