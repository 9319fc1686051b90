"""Layers of Caffe's forks that read images between their pixels: FlowWarp, Transformer, Resize, Resample, Accum."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan
from typing import Any

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count, Layer


class Sampled(Layer):
    """Base: the value of an image (N, C, H, W) at a place for each of its pixels, between the four nearest."""

    bottoms = 2
    reads_bottoms: Sequence[int] = (0,)
    reads_tops = ()
    per_element = 12

    CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        if len(x.shape) != 4:
            raise self.error(f"the image must have 4 axes (N, C, H, W); found {x.shape_string}", kind=ShapeError)
        num, channels, height, width = x.shape
        top[0].reshape_like(x)
        self.size, self.count = (height, width), height * width
        places = (num, self.count)
        self.at_y, self.at_x = self.scratch("at_y", places), self.scratch("at_x", places)
        self.low, self.inside = self.scratch("low", places), self.scratch("inside", places)
        self.index, self.share = self.scratch("index", (4, *places)), self.scratch("share", (4, *places))
        self.pixels, self.values, self.corner = (
            self.scratch(name, (self.count, channels)) for name in ("pixels", "values", "corner")
        )
        self.slope_y, self.slope_x = self.scratch("slope_y", places), self.scratch("slope_x", places)
        self.along = self.scratch("along", (4, self.count))

    def find(self) -> None:
        """From ``at_y``, ``at_x`` and ``inside``: the four pixels around and their shares; ``at_*`` become how far the
        place is beyond the upper left one."""
        xp, elementwise = self.xp, self.ops.elementwise
        for k in range(4):
            self.index[k] = 0
        for at, stride, last, side in (
            (self.at_y, self.size[1], self.size[0] - 1, 0),
            (self.at_x, 1, self.size[1] - 1, 1),
        ):
            elementwise(Sampled.known, (at, self.inside), (), at)
            xp.floor(at, out=self.low)
            at -= self.low
            for k, corner in enumerate(self.CORNERS):
                elementwise(Sampled.place, (self.index[k], self.low), (corner[side], last, stride), self.index[k])
        for k, (down, right) in enumerate(self.CORNERS):
            elementwise(Sampled.where, (self.index[k], self.inside), (), self.index[k])
            elementwise(Sampled.part, (self.at_y, self.at_x), (down, right), self.share[k])

    def sample(self, x: Any, y: Any) -> None:
        """``y`` becomes the values of ``x`` at the places; 0 outside, NaN where the place is NaN."""
        for n in range(len(x)):
            self.pixels[...] = x[n].reshape(-1, self.count).T
            self.values[...] = 0
            for k in range(4):
                self.ops.gather_rows(self.pixels, self.index[k, n], self.corner)
                self.corner *= self.share[k, n][:, None]
                self.values += self.corner
            y[n].reshape(-1, self.count)[...] = self.values.T

    def spread(self, dy: Any, dx: Any) -> None:
        """The transpose of ``sample``."""
        for n in range(len(dy)):
            self.values[...] = dy[n].reshape(-1, self.count).T
            self.pixels[...] = 0
            for k in range(4):
                self.xp.multiply(self.values, self.share[k, n][:, None], out=self.corner)
                self.ops.scatter_rows(self.corner, self.index[k, n], self.pixels)
            dx[n].reshape(-1, self.count)[...] = self.pixels.T

    def lean(self, x: Any, dy: Any) -> None:
        """``slope_y`` and ``slope_x``: the gradient of the places."""
        for n in range(len(x)):
            self.pixels[...] = x[n].reshape(-1, self.count).T
            self.values[...] = dy[n].reshape(-1, self.count).T
            for k in range(4):
                self.ops.gather_rows(self.pixels, self.index[k, n], self.corner)
                self.corner *= self.values
                self.xp.sum(self.corner, axis=1, out=self.along[k])
            a, b, c, d = (self.along[k] for k in range(4))
            self.ops.elementwise(Sampled.between, (a, c, b, d, self.at_x[n]), (), self.slope_y[n])
            self.ops.elementwise(Sampled.between, (a, b, c, d, self.at_y[n]), (), self.slope_x[n])

    @staticmethod
    def known(at: float, inside: float) -> float:
        return at if inside > 0.5 else at if at != at else 0.0

    @staticmethod
    def place(index: float, low: float, step: float, last: float, stride: float) -> float:
        return index + stride * (last if low + step > last else low + step)

    @staticmethod
    def where(index: float, inside: float) -> float:
        return index if inside > 0.5 else -1.0

    @staticmethod
    def part(y: float, x: float, down: float, right: float) -> float:
        return (y if down > 0.5 else 1.0 - y) * (x if right > 0.5 else 1.0 - x)

    @staticmethod
    def between(a: float, b: float, c: float, d: float, at: float) -> float:
        return (b - a) * (1.0 - at) + (d - c) * at


class FlowWarp(Sampled):
    """Bring an image back along a flow: each pixel takes the value from where the flow points (FlowNet2).

    Bottoms: image (N, C, H, W); flow (N, 2, H, W), pixels to the right and down.  Top: as the image.  What comes from
    outside is 0, or NaN with ``flow_warp_param { fill_value: NOT_A_NUMBER }``.
    FlowNet2: inside ends at H and W, where the last pixel is taken, and on a pixel the gradient of the flow is that
    toward the right and down.
    """

    type = "FlowWarp"
    param = "flow_warp_param"
    fill_value: int

    ZERO, NOT_A_NUMBER = 1, 2

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        x, flow = bottom
        self.require(
            flow.shape == (x.shape[0], 2, *x.shape[2:]),
            f"the flow must have 2 channels and the size of the image; found {x.shape_string} and {flow.shape_string}",
            kind=ShapeError,
        )
        self.base = self.scratch("base", (2, self.count))
        height, width = self.size
        self.base.reshape(2, height, width)[0] = self.xp.arange(height, dtype=self.dtype)[:, None]
        self.base.reshape(2, height, width)[1] = self.xp.arange(width, dtype=self.dtype)
        self.fill = self.scratch("fill", (x.shape[0], self.count))

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        flow = bottom[1].xdata.reshape(-1, 2, self.count)
        self.xp.add(flow[:, 1], self.base[0], out=self.at_y)
        self.xp.add(flow[:, 0], self.base[1], out=self.at_x)
        self.ops.elementwise(FlowWarp.is_inside, (self.at_y, self.at_x), self.size, self.inside)
        self.find()
        self.sample(bottom[0].xdata, top[0].xdata)
        if self.fill_value == self.NOT_A_NUMBER:
            self.ops.elementwise(FlowWarp.filling, (self.inside,), (nan,), self.fill)
            y = top[0].xdata.reshape(*top[0].shape[:2], self.count)
            y += self.fill[:, None]

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            self.spread(top[0].xdiff, bottom[0].xdiff)
        if propagate_down[1]:
            self.lean(bottom[0].xdata, top[0].xdiff)
            gradient = bottom[1].xdiff.reshape(-1, 2, self.count)
            gradient[:, 0], gradient[:, 1] = self.slope_x, self.slope_y

    @staticmethod
    def is_inside(y: float, x: float, height: float, width: float) -> float:
        return (1.0 if 0 <= x < width else 0.0) if 0 <= y < height else 0.0

    @staticmethod
    def filling(inside: float, value: float) -> float:
        return 0.0 if inside > 0.5 else value


class Transformer(Sampled):
    r"""Turn, stretch and move images: a spatial transformer (Jaderberg et al. 2015; happynear/caffe-windows).

    .. math:: (r, c) = \theta_n \, (2 i / H - 1, \; 2 j / W - 1, \; 1)

    Pixel (i, j) of the top is the image at row :math:`(r + 1) H / 2` and column :math:`(c + 1) W / 2`, 0 outside.
    Bottoms: images (N, C, H, W); theta (N, 6), which is two rows of three: of rows, of columns.  Top: as the images.
    happynear: (i, j) are kept at ``i H + j``, so that what is said here is true of square images only; and a place that
    is just on a row or column of pixels gets no gradient across it.
    """

    type = "Transformer"
    per_element = 16

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        x, theta = bottom
        self.require(
            len(theta.shape) >= 2 and theta.shape[0] == x.shape[0] and theta.span(1) == 6,
            f"theta must hold 6 values for each image; found {x.shape_string} and {theta.shape_string}",
            kind=ShapeError,
        )
        height, width = self.size
        self.target = self.scratch("target", (3, self.count))
        self._fill_target(height, width)
        self.source = self.scratch("source", (x.shape[0], 2, self.count))

    def _fill_target(self, height: int, width: int) -> None:
        self.target[...] = 0
        flat = self.target.reshape(-1)
        across = self.xp.arange(width, dtype=self.dtype) / max(1, width) * 2 - 1
        for i in range(height):
            for row, values in enumerate((i / height * 2 - 1, across, 1)):
                place = flat[row * self.count + i * height :][:width]
                place[...] = values[: place.size] if row == 1 else values

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        theta = bottom[1].xdata.reshape(-1, 2, 3)
        self.xp.matmul(theta, self.target, out=self.source)
        for at, row, size in ((self.at_y, 0, self.size[0]), (self.at_x, 1, self.size[1])):
            self.xp.multiply(self.source[:, row], size, out=at)
            at /= 2
            at += size / 2
        limits = (self.size[0] - 1, self.size[1] - 1)
        self.ops.elementwise(Transformer.is_inside, (self.at_y, self.at_x), limits, self.inside)
        self.find()
        self.sample(bottom[0].xdata, top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            self.spread(top[0].xdiff, bottom[0].xdiff)
        if propagate_down[1]:
            self.lean(bottom[0].xdata, top[0].xdiff)
            height, width = self.size
            self.ops.elementwise(Transformer.across, (self.slope_y, self.at_y), (height / 2,), self.slope_y)
            self.ops.elementwise(Transformer.across, (self.slope_x, self.at_x), (width / 2,), self.slope_x)
            self.source[:, 0], self.source[:, 1] = self.slope_y, self.slope_x
            self.xp.matmul(self.source, self.target.T, out=bottom[1].xdiff.reshape(-1, 2, 3))

    @staticmethod
    def is_inside(y: float, x: float, last_y: float, last_x: float) -> float:
        return (1.0 if 0 <= x <= last_x else 0.0) if 0 <= y <= last_y else 0.0

    @staticmethod
    def across(slope: float, at: float, scale: float) -> float:
        return 0.0 if at <= 0 else slope * scale


class Resize(Layer):
    """Images of another size, between the four nearest pixels (happynear/caffe-windows).

    Bottom: (N, C, H, W).  Top: (N, C, ``height``, ``width``); with ``is_pyramid_test`` sizes are those of the bottom
    times ``out_height_scale`` and ``out_width_scale``, cut to integers.  Row i of the top is row i H / height of the
    bottom; what would be a row or column beyond the last is taken for 0.
    """

    type = "Resize"
    param = "resize_param"
    bottoms: Count = 1
    differentiable: tuple[int, ...] | None = None
    reads_bottoms = reads_tops = ()
    per_element = 8
    height: int
    width: int
    is_pyramid_test: bool
    out_height_scale: float
    out_width_scale: float

    def check_options(self) -> None:
        fields = ("out_height_scale", "out_width_scale") if self.is_pyramid_test else ("height", "width")
        for field in fields:
            value = getattr(self, field)
            self.require(0 < value < inf, f"must be positive; found {value:g}", field)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(
            len(x.shape) == 4, f"the input must have 4 axes (N, C, H, W); found {x.shape_string}", kind=ShapeError
        )
        num, channels, height, width = x.shape
        self.require(height > 0 and width > 0, f"the input has no pixels; found {x.shape_string}", kind=ShapeError)
        size = self.new_size(bottom)
        top[0].reshape(num, channels, *size)
        self.down = self.scratch("down", (size[0], height))
        self.right = self.scratch("right", (size[1], width))
        self.fill()
        self.between = self.scratch("between", (num, channels, height, size[1]))

    def new_size(self, bottom: Sequence[Blob]) -> tuple[int, int]:
        """Height and width of the top."""
        if not self.is_pyramid_test:
            return self.height, self.width
        height, width = bottom[0].shape[2:]
        return int(self.out_height_scale * height), int(self.out_width_scale * width)

    def fill(self) -> None:
        """The matrices ``down`` and ``right``: how much of each of the old rows is in each of the new ones."""
        for matrix in (self.down, self.right):
            self._tents(matrix)

    def _tents(self, matrix: Any) -> None:
        """What is left of 1 at the distance of an old row from a new one."""
        xp, (new, old) = self.xp, matrix.shape
        if new:
            matrix[...] = xp.arange(new, dtype=self.dtype)[:, None] * (old / new) - xp.arange(old, dtype=self.dtype)
            matrix[...] = xp.maximum(1 - xp.abs(matrix), 0)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.xp.matmul(bottom[0].xdata, self.right.T, out=self.between)
        self.xp.matmul(self.down, self.between, out=top[0].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            self.xp.matmul(self.down.T, top[0].xdiff, out=self.between)
            self.xp.matmul(self.between, self.right, out=bottom[0].xdiff)


class Resample(Resize):
    r"""Images of another size, each pixel a mean over its surroundings (FlowNet2).

    .. math:: y_p = \sum_q k(a (p f + o - q)) \, x_q \, / \sum_q k(a (p f + o - q))

    along each axis, with f the old size over the new one.  Bottom: (N, C, H, W); a second one gives the size of the top
    and nothing else.  Top: (N, C, ``height``, ``width``) or the second bottom's size.  ``type``: LINEAR (k a triangle,
    the default), CUBIC, or NEAREST, which takes the pixel at the rounded place.  a is 1, or 1 / f where the image
    becomes smaller along an axis and ``antialias`` is on (the default).  ``factor`` has no effect, as there.
    FlowNet2: o is half of the *other* axis' f, less a half, so that only images whose proportions stay are centred.
    There is no backward pass.
    """

    type = "Resample"
    param = "resample_param"
    bottoms: Count = (1, 2)
    differentiable = ()
    antialias: bool

    NEAREST, LINEAR, CUBIC, AREA = 1, 2, 3, 4

    def check_options(self) -> None:
        self.kernel = self.layer_param.resample_param.type
        self.require(self.kernel != self.AREA, "AREA is not in FlowNet2; take NEAREST, LINEAR or CUBIC", "type")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if len(bottom) == 1:
            for field in ("height", "width"):
                self.require(getattr(self, field) > 0, "must be positive without a second bottom; found 0", field)
        elif len(bottom[1].shape) != 4:
            raise self.error(f"bottom 1 must have 4 axes; found {bottom[1].shape_string}", kind=ShapeError)
        super().reshape(bottom, top)

    def new_size(self, bottom: Sequence[Blob]) -> tuple[int, int]:
        return (bottom[1].shape[2], bottom[1].shape[3]) if len(bottom) > 1 else (self.height, self.width)

    def fill(self) -> None:
        steps = [old / max(1, new) for new, old in (self.down.shape, self.right.shape)]
        sharper = self.antialias and max(steps) > 1
        for matrix, step, other in ((self.down, *steps), (self.right, *reversed(steps))):
            if matrix.shape[0]:
                self._fill(matrix, step, other / 2 - 0.5, 1 / step if sharper else 1.0)

    def _fill(self, matrix: Any, step: float, offset: float, scale: float) -> None:
        xp, (new, old) = self.xp, matrix.shape
        places, pixels = xp.arange(new, dtype=self.dtype)[:, None] * step + offset, xp.arange(old, dtype=self.dtype)
        if self.kernel == self.NEAREST:
            matrix[...] = xp.clip(xp.floor(places + 0.5), 0, old - 1) == pixels
            return
        matrix[...] = xp.abs(places - pixels) * scale
        formula = Resample.cubic if self.kernel == self.CUBIC else Resample.triangle
        self.ops.elementwise(formula, (matrix,), (), matrix)
        sums = xp.sum(matrix, axis=1, keepdims=True)
        matrix /= sums + (sums == 0)

    @staticmethod
    def triangle(x: float) -> float:
        return 1.0 - x if x < 1 else 0.0

    @staticmethod
    def cubic(x: float) -> float:
        return x * x * (1.5 * x - 2.5) + 1.0 if x <= 1 else x * (x * (-0.5 * x + 2.5) - 4.0) + 2.0 if x < 2 else 0.0


class Accum(Layer):
    """Enlarge inputs to one size, between pixels and from corner to corner, and join their channels (FlowNet2).

    Bottoms: (N, C_i, H_i, W_i).  Top: (N, sum of C_i, H, W), the largest of their heights and widths; or ``top_height``
    x ``top_width`` if both are larger, or those rounded up to multiples of ``size_divisible_by``.  With
    ``have_reference`` the last bottom gives the size and nothing else.
    """

    type = "Accum"
    param = "accum_param"
    bottoms = (1, None)
    reads_bottoms = reads_tops = ()
    per_element = 8
    top_height: int
    top_width: int
    size_divisible_by: int
    have_reference: bool

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require(
            len(bottom) > self.have_reference, "needs another bottom beside that of the size", "have_reference"
        )
        self.differentiable = tuple(range(len(bottom) - self.have_reference))

    fixed = ("have_reference",)

    def check_options(self) -> None:
        self.require(
            not self.has("size_divisible_by") or self.size_divisible_by > 0, "must be positive; found 0",
            "size_divisible_by",
        )  # fmt: skip

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob in bottom:
            if len(blob.shape) != 4 or blob.shape[0] != bottom[0].shape[0] or 0 in blob.shape[1:]:
                found = " and ".join(blob.shape_string for blob in bottom)
                raise self.error(f"bottoms must be (N, C, H, W) with one N; found {found}", kind=ShapeError)
        joined = bottom[: len(bottom) - self.have_reference]
        height, width = self._size(bottom)
        top[0].reshape(bottom[0].shape[0], sum(blob.shape[1] for blob in joined), height, width)
        self.parts = []
        begin = 0
        for i, blob in enumerate(joined):
            num, channels, rows, columns = blob.shape
            down, right = self.scratch(f"down_{i}", (height, rows)), self.scratch(f"right_{i}", (width, columns))
            for matrix in (down, right):
                self._fill(matrix)
            between = self.scratch(f"between_{i}", (num, channels, rows, width))
            enlarged = self.scratch(f"enlarged_{i}", (num, channels, height, width))
            self.parts.append((slice(begin, begin + channels), down, right, between, enlarged))
            begin += channels

    def _size(self, bottom: Sequence[Blob]) -> tuple[int, int]:
        if self.have_reference:
            return bottom[-1].shape[2], bottom[-1].shape[3]
        height, width = (max(blob.shape[axis] for blob in bottom) for axis in (2, 3))
        asked = (self.top_height, self.top_width)
        if self.has("size_divisible_by"):
            by = self.size_divisible_by
            asked = (-(-height // by) * by, -(-width // by) * by)
        return asked if asked[0] > height and asked[1] > width else (height, width)

    def _fill(self, matrix: Any) -> None:
        xp, (new, old) = self.xp, matrix.shape
        step = (old - 1) / max(1, new - 1)
        matrix[...] = xp.arange(new, dtype=self.dtype)[:, None] * step - xp.arange(old, dtype=self.dtype)
        matrix[...] = xp.maximum(1 - xp.abs(matrix), 0)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, (channels, down, right, between, enlarged) in zip(bottom, self.parts, strict=False):
            self.xp.matmul(blob.xdata, right.T, out=between)
            self.xp.matmul(down, between, out=enlarged)
            top[0].xdata[:, channels] = enlarged

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for i, (channels, down, right, between, enlarged) in enumerate(self.parts):
            if propagate_down[i]:
                enlarged[...] = top[0].xdiff[:, channels]
                self.xp.matmul(down.T, enlarged, out=between)
                self.xp.matmul(between, right, out=bottom[i].xdiff)
