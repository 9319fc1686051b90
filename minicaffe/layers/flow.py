"""Layers of FlowNet2's Caffe: ChannelNorm, Mean, Correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minicaffe import proto
from minicaffe.blob import Blob
from minicaffe.errors import DataError, ShapeError
from minicaffe.layers.base import Count, Layer
from minicaffe.proto.files import read_binary


class ChannelNorm(Layer):
    r"""The length over channels at each position (FlowNet2).

    .. math:: y_{nhw} = \sqrt{\sum_c x_{nchw}^2}, \qquad dx = dy \, x / (y + 10^{-9})

    Bottom: (N, C, H, W).  Top: (N, 1, H, W).
    """

    type = "ChannelNorm"
    reads_bottoms = reads_tops = (0,)
    per_element = 3

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(len(x.shape) >= 2, f"the input must have channels; found {x.shape_string}", kind=ShapeError)
        top[0].reshape(x.shape[0], 1, *x.shape[2:])
        self.planes = (*x.shape[:2], x.span(2))
        self.product = self.scratch("product", self.planes)
        self.shares = self.scratch("shares", (x.shape[0], 1, x.span(2)))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, y = bottom[0].xdata.reshape(self.planes), top[0].xdata.reshape(self.shares.shape)
        self.xp.multiply(x, x, out=self.product)
        self.xp.sum(self.product, axis=1, keepdims=True, out=y)
        self.xp.sqrt(y, out=y)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            y, dy = (array.reshape(self.shares.shape) for array in (top[0].xdata, top[0].xdiff))
            self.ops.elementwise(ChannelNorm.share, (y, dy), (), self.shares)
            x, dx = bottom[0].xdata.reshape(self.planes), bottom[0].xdiff.reshape(self.planes)
            self.xp.multiply(x, self.shares, out=dx)

    @staticmethod
    def share(y: float, dy: float) -> float:
        return dy / (y + 1e-9)


class Mean(Layer):
    """Add a mean or take it away: ``output_scale (input_scale x + mean_scale m)``, with ``-m`` for SUBTRACT (FlowNet2).

    Bottoms: any number of x (N, C, …).  Tops: as many, each like its bottom.  ``value``: one number a channel, in turn
    if there are more channels; or ``file``, a BlobProto (1, c, H, W), again in turn.  There is no backward pass.
    """

    type = "Mean"
    param = "mean_param"
    bottoms: Count = (1, None)
    tops: Count = (1, None)
    differentiable = ()
    reads_bottoms = reads_tops = ()
    operation: int
    file: str
    value: Sequence[float]
    mean_scale: float
    input_scale: float
    output_scale: float

    ADD, SUBTRACT = 1, 4

    fixed = ("file",)

    def check_options(self) -> None:
        self.require(bool(self.value) or self.file != "", "give one number for each channel, or a file", "value")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require(len(top) == len(bottom), f"needs as many tops as bottoms; found {len(top)}", "top")
        self.mean = Blob.from_proto(self._read(), self.dtype) if self.file else None

    def _read(self) -> proto.BlobProto:
        try:
            return read_binary(self.find_file(self.file), proto.BlobProto, "mean", DataError)
        except DataError as error:
            raise self.data_error(error, "file") from None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scale = self.mean_scale * (-1 if self.operation == self.SUBTRACT else 1)
        self.means = []
        for i, (x, y) in enumerate(zip(bottom, top, strict=True)):
            self.require(len(x.shape) >= 2, f"inputs must have channels; found {x.shape_string}", kind=ShapeError)
            y.reshape_like(x)
            size, inner = x.span(1), x.span(2)
            period = self.mean.count if self.mean else len(self.value) * inner
            self.require(
                (self.mean is None or self.mean.span(-2) == inner) and (size == 0 or period > 0 and size % period == 0),
                f"the mean does not fit into {x.shape_string}",
                "file" if self.mean else "value",
                ShapeError,
            )
            mean = self.scratch(f"mean_{i}", (1, size))
            if size and self.mean:
                mean.reshape(-1, period)[...] = self.mean.xdata.reshape(-1)
            for c, value in enumerate(self.value if size and not self.mean else ()):
                mean.reshape(-1, len(self.value), inner)[:, c] = value
            mean *= scale
            self.means.append(mean)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for x, y, mean in zip(bottom, top, self.means, strict=True):
            out = y.xdata.reshape(-1, mean.size) if mean.size else y.xdata
            if mean.size:
                self.xp.multiply(x.xdata.reshape(out.shape), self.input_scale, out=out)
                out += mean
                out *= self.output_scale


class Correlation(Layer):
    r"""How like two inputs are, at each position and each of many displacements (FlowNet, Dosovitskiy et al. 2015).

    .. math:: y_{n,(p,q),i,j} = \frac{1}{K^2 C} \sum_{c, \, k \in K \times K} a_{nc,k+(i,j)s_1+d} \;
        b_{nc,k+(i,j)s_1+d+(p,q)s_2}

    for p and q in -r .. r, r being d over s2, with d = ``max_displacement``, K = ``kernel_size`` (odd), s1 =
    ``stride_1`` and s2 = ``stride_2``.  Bottoms: a and b (N, C, H, W), padded by ``pad`` zeros.  Top: (N, (2r + 1)^2,
    …), of as many positions as fit.  ``correlation_type: SUBTRACT``: absolute differences instead of products; their
    gradient is the true one, where FlowNet2's reads the inputs at other positions.  ``do_abs`` has no effect, as
    there; ``single_direction`` is refused.
    """

    type = "Correlation"
    param = "correlation_param"
    bottoms = 2
    reads_tops = ()
    pad: int
    kernel_size: int
    max_displacement: int
    stride_1: int
    stride_2: int
    single_direction: int
    correlation_type: int

    MULTIPLY, SUBTRACT = range(2)

    def check_options(self) -> None:
        self.require(self.kernel_size % 2 == 1, f"must be odd; found {self.kernel_size}", "kernel_size")
        self.require(self.has("max_displacement"), "must be given", "max_displacement")
        for field in ("stride_1", "stride_2"):
            self.require(getattr(self, field) > 0, f"must be positive; found {getattr(self, field)}", field)
        self.require(
            self.single_direction == 0, "is of Correlation1D only, which minicaffe does not have", "single_direction"
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        a, b = bottom
        if len(a.shape) != 4 or a.shape != b.shape:
            found = f"{a.shape_string} and {b.shape_string}"
            raise self.error(f"bottoms must have one shape (N, C, H, W); found {found}", kind=ShapeError)
        num, channels, height, width = a.shape
        border = self.max_displacement + (self.kernel_size - 1) // 2
        room = [size + 2 * self.pad - 2 * border for size in (height, width)]
        self.require(
            min(room) > 0 and channels > 0,
            f"kernel and displacements do not fit into {a.shape_string} with pad {self.pad}",
            "max_displacement",
            ShapeError,
        )
        tops = [-(-size // self.stride_1) for size in room]
        radius = self.max_displacement // self.stride_2
        steps = range(-radius, radius + 1)
        self.displacements = [(p * self.stride_2, q * self.stride_2) for p in steps for q in steps]
        top[0].reshape(num, len(self.displacements), *tops)
        padded = (num, channels, height + 2 * self.pad, width + 2 * self.pad)
        names = ("a_padded", "b_padded", "a_slope", "b_slope")
        self.padded = [self.scratch(name, padded) for name in names]
        for array in self.padded[:2]:
            array[...] = 0
        self.extent = [(size - 1) * self.stride_1 + self.kernel_size for size in tops]
        self.product = self.scratch("product", (num, channels, *self.extent))
        self.likeness = self.scratch("likeness", (num, *self.extent))
        self.inside = (..., *(slice(self.pad, self.pad + size) for size in (height, width)))
        reach = [(size - 1) * self.stride_1 + 1 for size in tops]
        self.kernel = [
            (slice(None), slice(i, i + reach[0], self.stride_1), slice(j, j + reach[1], self.stride_1))
            for i in range(self.kernel_size)
            for j in range(self.kernel_size)
        ]

    def products(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return 2.0 * self.product.size * len(self.displacements)

    def _at(self, array: Any, shift: tuple[int, int] = (0, 0)) -> Any:
        """What of a padded input meets all positions, at a displacement."""
        rows, columns = (
            slice(self.max_displacement + by, self.max_displacement + by + size)
            for by, size in zip(shift, self.extent, strict=True)
        )
        return array[:, :, rows, columns]

    def _pad(self, bottom: Sequence[Blob]) -> None:
        for blob, array in zip(bottom, self.padded, strict=False):
            array[self.inside] = blob.xdata

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self._pad(bottom)
        a, b, y = self._at(self.padded[0]), self.padded[1], top[0].xdata
        for k, shift in enumerate(self.displacements):
            if self.correlation_type == self.SUBTRACT:
                self.xp.subtract(a, self._at(b, shift), out=self.product)
                self.xp.abs(self.product, out=self.product)
            else:
                self.xp.multiply(a, self._at(b, shift), out=self.product)
            self.xp.sum(self.product, axis=1, out=self.likeness)
            y[:, k] = self.likeness[self.kernel[0]]
            for place in self.kernel[1:]:
                y[:, k] += self.likeness[place]
        y /= self.kernel_size**2 * bottom[0].shape[1]

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        self._pad(bottom)
        a, b, da, db = self.padded
        da[...] = 0
        db[...] = 0
        for k, shift in enumerate(self.displacements):
            self.likeness[...] = 0
            for place in self.kernel:
                self.likeness[place] += top[0].xdiff[:, k]
            slope = self.likeness[:, None]
            if self.correlation_type == self.SUBTRACT:
                self.xp.subtract(self._at(a), self._at(b, shift), out=self.product)
                self.xp.sign(self.product, out=self.product)
                self.product *= slope
                self._at(da)[...] += self.product
                self._at(db, shift)[...] -= self.product
                continue
            if propagate_down[0]:
                self.xp.multiply(self._at(b, shift), slope, out=self.product)
                self._at(da)[...] += self.product
            if propagate_down[1]:
                self.xp.multiply(self._at(a), slope, out=self.product)
                self._at(db, shift)[...] += self.product
        for i, slope in self.wanted(propagate_down, (0, da), (1, db)):
            self.xp.divide(slope[self.inside], self.kernel_size**2 * a.shape[1], out=bottom[i].xdiff)
