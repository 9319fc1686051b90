"""Layers that move data about without computing: Slice, Concat, Split, Flatten, Reshape, Silence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from minicaffe import proto
from minicaffe.blob import MAX_AXES, Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer, same
from minicaffe.layers.cost import Cost


class Sharing(Layer):
    """Base of layers whose tops can be the bottom's own memory: copies are made only of tops that later layers
    overwrite.

    Caffe: these share it too, so that a layer in place changes what other readers of the bottom find.
    """

    reads_bottoms = reads_tops = ()

    def share(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """In ``reshape``: let the tops be the memory of bottom 0."""
        for k, blob in enumerate(top):
            if k not in self.overwritten_tops:
                blob.share_data(bottom[0])

    def copy(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """In ``forward``: what is not shared."""
        for k in self.overwritten_tops:
            y = top[k].xdata.reshape(-1)
            self.ops.elementwise(same, (bottom[0].xdata.reshape(-1),), (), y)

    def forward_cost(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> Cost:
        cost = super().forward_cost(bottom, top)
        copied = sum(top[k].count for k in self.overwritten_tops) if not self.moves else 0
        return cost.plus(Cost(bytes=2 * copied * self.dtype.itemsize))


class Along(Sharing):
    """Base of Slice and Concat: one axis, by ``axis`` (default 1) or by its older name, which takes no
    negative number.
    """

    axis: int
    along: int
    older_name: str

    def check_options(self) -> None:
        self.require(
            not (self.has("axis") and self.has(self.older_name)),
            f"give either axis or {self.older_name}, not both",
            "axis",
        )

    def find_axis(self, blob: Blob) -> int:
        """The axis, counted from the front of ``blob``."""
        field = self.older_name if self.has(self.older_name) else "axis"
        return self.axis_of(blob, getattr(self, field), field)

    def starts(self, parts: Iterable[Blob]) -> Iterator[int]:
        """Where in a row of the whole, which is all that follows from ``axis`` on, each of its parts starts."""
        start = 0
        for blob in parts:
            yield start
            start += blob.span(self.along)

    def apart(self, whole: Blob, parts: Sequence[Blob]) -> Iterator[tuple[Blob, int]]:
        """The parts that are to be copied, and where each starts in a row of the whole: all that do not lie there.

        What lies elsewhere in the memory of the whole is given memory of its own, so that no copy writes over it.
        """
        rows = whole.span(0, self.along)
        for blob, start in zip(parts, self.starts(parts), strict=True):
            if not blob.overlaps(whole):
                yield blob, start
            elif rows != 1 or blob.data_offset != whole.data_offset + start:
                blob.unshare_data()
                yield blob, start

    def rows(self, blob: Blob, array: Any) -> Any:
        """The value or gradient of a blob as rows, each of which is all that follows from ``axis`` on."""
        return array.reshape(blob.span(0, self.along), blob.span(self.along))


class Slice(Along):
    """Cut the bottom into tops along ``axis`` (1; older name ``slice_dim``).

    ``slice_point`` lists where each top but the first begins; without it all tops are equally large.
    Backward: the tops' gradients, put together again.
    """

    type = "Slice"
    capturable = True
    by_image = True
    param = "slice_param"
    per_element = 0
    tops = (1, None)
    older_name = "slice_dim"
    slice_point: Sequence[int]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.along = self.find_axis(x)
        self.only_by_image_if(self.along > 0 and len(top) > 1)
        size, points = x.shape[self.along], list(self.slice_point)
        if points:
            self.require(
                len(points) == len(top) - 1,
                f"{len(top)} tops need {len(top) - 1} slice points; found {points}",
                "slice_point",
            )
            edges = [0, *points, size]
            sizes = [b - a for a, b in zip(edges, edges[1:])]
            self.require(
                min(sizes) > 0,
                f"must rise strictly between 0 and the size of the axis, {size}; found {points}",
                "slice_point",
            )
        else:
            self.require(
                size % len(top) == 0,
                f"{len(top)} tops must divide the axis' size {size}, or give slice_point",
                "slice_point",
                ShapeError,
            )
            sizes = [size // len(top)] * len(top)
        for blob, part in zip(top, sizes):
            blob.reshape(*x.shape[: self.along], part, *x.shape[self.along + 1 :])
        if len(top) == 1:
            self.share(bottom, top)
            top[0].share_diff(x)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if len(top) == 1:
            self.copy(bottom, top)
            return
        for blob, start in [*self.apart(bottom[0], top)]:
            self.ops.copy_columns(self.rows(bottom[0], bottom[0].xdata), start, self.rows(blob, blob.xdata), 0)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0] and len(top) > 1:
            dx = self.rows(bottom[0], bottom[0].xdiff)
            for blob, start in zip(top, self.starts(top)):
                self.ops.copy_columns(self.rows(blob, blob.xdiff), 0, dx, start)


class Concat(Along):
    """Put the bottoms one after the other along ``axis`` (1; older name ``concat_dim``); all other axes must agree.

    Bottoms: one or more.  Top: their sizes along the axis add up; of a single bottom it is that bottom's own memory.
    """

    type = "Concat"
    capturable = True
    by_image = True
    param = "concat_param"
    per_element = 0
    bottoms = (1, None)
    older_name = "concat_dim"

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        first = bottom[0].shape
        self.along = self.find_axis(bottom[0])
        self.only_by_image_if(self.along > 0 and len(bottom) > 1)
        for blob in bottom[1:]:
            same = len(blob.shape) == len(first) and all(
                a == b for i, (a, b) in enumerate(zip(blob.shape, first)) if i != self.along
            )
            if not same:
                found = ", ".join(b.shape_string for b in bottom)
                raise self.error(
                    f"all inputs must have the same shape, except along axis {self.along}; found {found}",
                    kind=ShapeError,
                )
        sizes = [blob.shape[self.along] for blob in bottom]
        top[0].reshape(*first[: self.along], sum(sizes), *first[self.along + 1 :])
        if len(bottom) == 1:
            self.share(bottom, top)
            top[0].share_diff(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if len(bottom) == 1:
            self.copy(bottom, top)
            return
        for blob, start in [*self.apart(top[0], bottom)]:
            self.ops.copy_columns(self.rows(blob, blob.xdata), 0, self.rows(top[0], top[0].xdata), start)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if len(bottom) > 1:
            dy = self.rows(top[0], top[0].xdiff)
            for blob, start, wanted in zip(bottom, self.starts(bottom), propagate_down, strict=True):
                if wanted:
                    self.ops.copy_columns(dy, start, self.rows(blob, blob.xdiff), 0)


class Split(Sharing):
    """Hand one blob to several readers: the tops share the bottom's value, and ``dx = sum(dy)`` over the tops.

    Nets insert it wherever a blob has more than one reader.
    """

    type = "Split"
    capturable = True
    takes_halves = True
    capturable_on_device = True
    per_element = 0
    moves = False
    tops = (1, None)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.capturable = len(top) > 1

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob in top:
            blob.reshape_like(bottom[0])
        self.share(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.copy(bottom, top)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if not propagate_down[0]:
            return
        dx = bottom[0].xdiff
        if len(top) == 1:
            self.ops.elementwise(same, (top[0].xdiff,), (), dx)
            return
        self.ops.elementwise(Split.total, (top[0].xdiff, top[1].xdiff), (), dx)
        for blob in top[2:]:
            self.ops.elementwise(Split.total, (dx, blob.xdiff), (), dx)

    def backward_cost(self, bottom: Sequence[Blob], top: Sequence[Blob], propagate_down: Sequence[bool]) -> Cost:
        if not propagate_down[0]:
            return Cost()
        count, itemsize = bottom[0].count, self.dtype.itemsize
        return Cost(0, (len(top) - 1) * count, (len(top) + 1) * count * itemsize)

    @staticmethod
    def total(a: float, b: float) -> float:
        return a + b


class View(Sharing):
    """Base of layers whose top is the bottom's memory in another shape."""

    per_element = 0
    moves = False

    def output_shape(self, bottom: Blob) -> Sequence[int]:
        """The top's shape."""
        raise NotImplementedError

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape(*self.output_shape(bottom[0]))
        self.share(bottom, top)
        top[0].share_diff(bottom[0])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.copy(bottom, top)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        pass


class Flatten(View):
    """Join the axes ``axis`` (1) to ``end_axis`` (-1), both included, into one."""

    type = "Flatten"
    capturable = True
    param = "flatten_param"
    axis: int
    end_axis: int

    def output_shape(self, x: Blob) -> Sequence[int]:
        start, end = self.axis_of(x, self.axis), self.axis_of(x, self.end_axis, "end_axis")
        self.require(end >= start - 1, f"must not come before axis {start}; found {self.end_axis}", "end_axis")
        return (*x.shape[:start], x.span(start, end + 1), *x.shape[end + 1 :])


class Reshape(View):
    """Replace the axes ``axis`` (0) to ``axis + num_axes`` by ``shape``; num_axes -1 (the default) means all that
    follow.

    In ``shape``, 0 copies the bottom's axis at the same place and one -1 takes what is left over.
    Caffe: a negative ``axis`` counts from one past the end, so -1 appends.
    """

    type = "Reshape"
    capturable = True
    param = "reshape_param"
    fixed = ("shape",)
    shape: proto.BlobShape
    axis: int
    num_axes: int

    def output_shape(self, x: Blob) -> Sequence[int]:
        axes = len(x.shape)
        start = self.axis if self.axis >= 0 else axes + self.axis + 1
        self.require(
            0 <= start <= axes,
            f"axis {self.axis} out of range for {axes}-D Blob with shape {x.shape_string}",
            "axis",
            ShapeError,
        )
        self.require(self.num_axes >= -1, f"must be -1 or more; found {self.num_axes}", "num_axes")
        end = axes if self.num_axes == -1 else start + self.num_axes
        self.require(
            end <= axes,
            f"axis {start} and num_axes {self.num_axes} go beyond shape {x.shape_string}",
            "num_axes",
            ShapeError,
        )
        dims = list(self.shape.dim)
        self.require(len(dims) <= MAX_AXES, f"a blob has at most {MAX_AXES} axes; found {len(dims)}", "shape")
        self.require(dims.count(-1) <= 1, f"at most one dimension can be -1; found {dims}", "shape")
        self.require(min(dims, default=0) >= -1, f"dimensions must be -1 or more; found {dims}", "shape")
        for i, dim in enumerate(dims):
            if dim == 0:
                self.require(
                    start + i < axes,
                    f"dim 0 at place {i} copies axis {start + i}, which {x.shape_string} lacks",
                    "shape",
                    ShapeError,
                )
                dims[i] = x.shape[start + i]
        if -1 in dims:
            i = dims.index(-1)
            known = math.prod(dims[:i] + dims[i + 1 :]) * x.span(0, start) * x.span(end)
            self.require(
                known > 0 and x.count % known == 0,
                f"bottom count {x.count} is no multiple of the other dimensions ({known})",
                "shape",
                ShapeError,
            )
            dims[i] = x.count // known
        shape = (*x.shape[:start], *dims, *x.shape[end:])
        self.require(
            math.prod(shape) == x.count,
            f"output count must match input count {x.count}; found shape {list(shape)}",
            "shape",
            ShapeError,
        )
        return shape


class Silence(Layer):
    """Read bottoms of any shape that nothing else reads, so that they are no outputs of the net.  Backward:
    ``dx = 0``.
    """

    type = "Silence"
    capturable_on_device = True
    reads_bottoms = ()
    per_element = 0
    moves = False
    bottoms = (1, None)
    tops = 0

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        pass

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        pass

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        for i, blob in enumerate(bottom):
            if propagate_down[i]:
                blob.xdiff.fill(0)
