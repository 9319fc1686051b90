"""Layers that slide filters over space: Convolution, Deconvolution, Im2col."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar

from minicaffe import backend, proto
from minicaffe.backend import generation
from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.kernels.convolution import DATA_GRAD, FORWARD, WEIGHT_GRAD
from minicaffe.kernels.window import MOST_PIXELS, Window
from minicaffe.layers.base import Count, Layer


class Windowed(Layer):
    """Base of layers with a kernel, stride, pad and dilation along each spatial axis, from ``convolution_param``.

    Each of the four is given once for all spatial axes or once for each; for two axes also as ``*_h`` and ``*_w``
    (dilation in yjxiong's Caffe).  Defaults: stride 1, pad 0, dilation 1.  DeepLab's ``hole``, ``hole_h``, ``hole_w``
    are names of the dilation, as is naibaf7's ``kstride``.
    """

    param = "convolution_param"
    obeys: ClassVar[Collection[str]] = ("hole", "hole_h", "hole_w", "dilation_h", "dilation_w", "kstride")
    reads_tops = ()
    fixed = ("axis", "weight_filler", "bias_filler")
    axis: int
    dilation: Sequence[int]
    kstride: Sequence[int]
    hole: int
    hole_h: int
    hole_w: int

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.channel_axis = self.axis_of(bottom[0], self.axis)
        self.axes = len(bottom[0].shape)
        self.in_channels = bottom[0].shape[self.channel_axis]
        self._read_window()

    def _read_window(self) -> None:
        """The window from the options, as they are now."""
        spatial = self.axes - self.channel_axis - 1
        self.window = Window(
            kernel=self._sizes("kernel_size", "kernel", spatial, None),
            stride=self._sizes("stride", "stride", spatial, 1),
            pad=self._sizes("pad", "pad", spatial, 0),
            dilation=self._dilation(spatial),
        )
        for field, values, least in (
            ("kernel_size", self.window.kernel, 1),
            ("stride", self.window.stride, 1),
            ("dilation", self.window.dilation, 1),
        ):
            self.require(all(v >= least for v in values), f"must be positive; found {list(values)}", field)

    def _dilation(self, spatial: int) -> tuple[int, ...]:
        holes = [field for field in ("hole", "hole_h", "hole_w") if self.has(field)]
        if self.kstride:
            self.require(not (self.dilation or holes), "is another name of dilation; give one", "kstride")
            return self._sizes("kstride", None, spatial, 1)
        if not holes:
            return self._sizes("dilation", "dilation", spatial, 1)
        others = [*self.dilation, *(field for field in ("dilation_h", "dilation_w") if self.has(field))]
        self.require(
            not others and len(holes) == (1 if self.has("hole") else 2),
            "give either hole, or hole_h and hole_w, or dilation",
            holes[0],
        )
        sizes = (self.hole,) * spatial if self.has("hole") else (self.hole_h, self.hole_w)
        self.require(len(sizes) == spatial, f"hole_h and hole_w need 2 spatial axes; found {spatial}", "hole_h")
        self.require(min(sizes, default=1) > 0, f"must be positive; found {list(sizes)}", holes[0])
        return sizes

    def _sizes(self, field: str, prefix: str | None, spatial: int, default: int | None) -> tuple[int, ...]:
        values = tuple(getattr(self, field))
        if prefix is not None and (self.has(f"{prefix}_h") or self.has(f"{prefix}_w")):
            self.require(spatial == 2, f"{prefix}_h and {prefix}_w need 2 spatial axes; found {spatial}", f"{prefix}_h")
            self.require(not values, f"give either {field} or {prefix}_h and {prefix}_w, not both", field)
            for part in ("h", "w"):
                if not self.has(f"{prefix}_{part}") and default != 0:
                    raise self.error(f"{prefix}_h and {prefix}_w must be given together", f"{prefix}_{part}")
            return getattr(self, f"{prefix}_h"), getattr(self, f"{prefix}_w")
        if not values and default is not None:
            return (default,) * spatial
        if len(values) not in (1, spatial):
            raise self.error(
                f"must be given once, or once for each of the {spatial} spatial axes; found {len(values)} values", field
            )
        return values * spatial if len(values) == 1 else values

    def check_input(self, bottom: Sequence[Blob]) -> None:
        """Bottoms must agree in shape, and keep the number of axes and channels they had at set-up.  The window is
        that of the options now.
        """
        self._read_window()
        self.require_same_shape(*bottom)
        x = bottom[0]
        if len(x.shape) != self.axes or x.shape[self.channel_axis] != self.in_channels:
            raise self.error(
                f"the input must keep {self.axes} axes and {self.in_channels} channels; found {x.shape_string}",
                kind=ShapeError,
            )

    def check_padded(self, spatial: tuple[int, ...]) -> None:
        """Raise a ShapeError if the image that the window moves over, with its padding, is too large for the
        kernels.
        """
        padded = [size + 2 * p for size, p in zip(spatial, self.window.pad, strict=True)]
        self.require(
            max(padded, default=0) <= MOST_PIXELS,
            f"an image of {list(spatial)} pixels with pad {list(self.window.pad)} is too large; it may have "
            f"{MOST_PIXELS} "
            "along an axis, with both pads",
            "pad",
            ShapeError,
        )

    def convolved_size(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Output sizes of a convolution: ``(in + 2 pad - extent) / stride + 1``, truncated to zero, along each axis."""
        window = self.window
        self.check_padded(spatial)
        sizes = tuple(
            int((size + 2 * p - e) / s) + 1
            for size, e, s, p in zip(spatial, window.extent, window.stride, window.pad, strict=True)
        )
        if any(size < 1 for size in sizes):
            raise self.error(
                f"the kernel (extent {list(window.extent)}) is larger than the input {list(spatial)} with pad "
                f"{list(window.pad)}",
                "kernel_size",
                ShapeError,
            )
        return sizes


class _Packed:
    """What was made of a layer's filters in advance, which its replicas share."""

    def __init__(self) -> None:
        self.renew(None)

    def renew(self, write: Callable[[], None] | None) -> None:
        """Have nothing yet; ``write`` writes the filters to their blob where they do not stay there."""
        self.write = write
        self.made: dict[Any, Any] = {}
        """By their form."""


class Convolution(Windowed):
    r"""Cross-correlation with learned filters.

    .. math:: y_{n,o,p} = b_o + \sum_{c,q} w_{o,c,q} \, x_{n,\,c,\,p \cdot stride - pad + q \cdot dilation}

    Bottoms (any number, one shape, sharing the filters): (…, C, *in), C at ``axis`` (1), any number of spatial axes
    after it. Tops: (…, num_output, *out).  Params: w (num_output, C / group, *kernel); b (num_output,) unless
    ``bias_term: false``. ``group`` splits input and output channels into as many independent convolutions.  Outside the
    input, x is 0.
    Caffe: output sizes truncate toward zero; without a filler the filters are 0.  Without spatial axes it is an inner
    product over the channels.  ``engine: CUDNN`` has cuDNN compute it, on a GPU, for float32 and two
    spatial axes, if it is installed; other engines are accepted and ignored.
    """

    type = "Convolution"
    fixed = Windowed.fixed
    bottoms: Count = (1, None)
    tops: Count = (1, None)
    equal_counts = True
    claims = (0,)
    capturable = True
    by_image = True
    takes_halves = True
    num_output: int
    group: int
    bias_term: bool
    engine: int
    forward_kinds: ClassVar[Sequence[str]] = (FORWARD,)
    """What forward asks of the kernels."""
    backward_kinds: ClassVar[Sequence[str]] = (DATA_GRAD, WEIGHT_GRAD)
    _has_room: tuple[tuple[backend.Backend, bool], ...] = ()
    _packed: _Packed | None = None

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self._check_groups()
        self.only_by_image_if(self.channel_axis > 0)
        options = getattr(self.layer_param, self.param)
        self.add_param((*self.filter_channels(), *self.window.kernel), options.weight_filler)
        if self.bias_term:
            self.add_param((self.num_output,), options.bias_filler)

    def check_options(self) -> None:
        self.require(self.num_output > 0, f"must be positive; found {self.num_output}", "num_output")
        self.require(self.group > 0, f"must be positive; found {self.group}", "group")

    def _check_groups(self) -> None:
        for what, count in (("input channels", self.in_channels), ("num_output", self.num_output)):
            self.require(count % self.group == 0, f"must divide the {what} ({count}); found {self.group}", "group")

    def filter_channels(self) -> tuple[int, int]:
        """The first two axes of the filters."""
        return self.num_output, self.in_channels // self.group

    def output_size(self, spatial: tuple[int, ...]) -> tuple[int, ...]:
        """Size of the top along each spatial axis."""
        return self.convolved_size(spatial)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.check_input(bottom)
        self._check_groups()
        weight_shape = (*self.filter_channels(), *self.window.kernel)
        self.require_blobs(weight_shape, *([(self.num_output,)] if self.bias_term else []))
        shape, axis = bottom[0].shape, self.channel_axis
        lead, spatial = shape[:axis], shape[axis + 1 :]
        self.require(
            min(spatial, default=1) > 0, f"the input has no pixels; found {bottom[0].shape_string}", kind=ShapeError
        )
        out = self.output_size(spatial)
        self.shape_tops(top, (*lead, self.num_output, *out))
        num = math.prod(lead)
        # kernels take images of at least one axis
        self.moved = self.moved_window(spatial, out) if spatial else Window((1,), (1,), (0,), (1,))
        self.x_shape = (num, self.in_channels, *(spatial or (1,)))
        self.y_shape = (num, self.num_output, *(out or (1,)))
        self._has_room = ()
        self.workspace_for(backward=False)

    def shape_tops(self, top: Sequence[Blob], shape: tuple[int, ...]) -> None:
        """In ``reshape``: give the tops the shape of a result."""
        for blob in top:
            blob.reshape(*shape)

    def moved_window(self, spatial: tuple[int, ...], out: tuple[int, ...]) -> Window:
        """The window as kernels need it, between a bottom and a top of these sizes."""
        return self.window.fitted(out)

    def images(self, array: Any, shape: tuple[int, ...]) -> Any:
        """``array`` with one axis before the channels, and at least one after them."""
        return array if array.shape == shape else array.reshape(shape)

    def filters(self, array: Any) -> Any:
        """``array``, the filters or their gradient, with at least one axis after the channels."""
        return array if self.window.kernel else array.reshape(*array.shape, 1)

    @property
    def convolutions(self) -> Any:
        """Whose functions convolve: cuDNN's where the layer asks for it, and it is there."""
        library = "cuDNN" if self.engine == proto.ConvolutionParameter.CUDNN else ""
        return backend.current().convolutions(library)

    def moved_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the images that the window moves over, and of those with a pixel for each of its positions."""
        return self.x_shape, self.y_shape

    def workspace_size(self, backward: bool) -> int:
        kinds, packed = self.backward_kinds if backward else self.forward_kinds, self._packed is not None
        how = *self.moved_shapes(), self.moved, self.group, self.dtype
        return self.convolutions.convolution_workspace(*how, kinds, packed)

    def workspace_for(self, backward: bool) -> Any:
        """The shared workspace, with room for what forward asks of the kernels, or ``backward``."""
        case = backend.current(), backward
        if case not in self._has_room:
            self.reserve(self.workspace_size(backward))
            self._has_room += (case,)
        return self.workspace

    def products(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return 2.0 * sum(blob.count for blob in top) * (self.blobs[0].count // self.num_output)

    def operations(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return float(sum(blob.count for blob in top) * self.bias_term)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.rectified_forward(bottom, top, 1.0)

    def rectified_forward(self, bottom: Sequence[Blob], top: Sequence[Blob], slope: float) -> None:
        """Forward, and a ReLU in place of this ``negative_slope`` on the tops."""
        self.convolve(bottom, top, slope)

    def convolve(self, bottom: Sequence[Blob], top: Sequence[Blob], slope: float, accumulate: bool = False) -> None:
        """Each bottom to the top of the same place, or added to what is there, then rectified."""
        if self.x_shape[0] == 0:
            return
        if self._packed is None:
            self._convolve(self.filters(self.blobs[0].xdata), None, bottom, top, slope, accumulate)
        else:
            self._convolve_packed(self._packed, bottom, top, slope, accumulate)

    def _convolve_packed(
        self, packed: _Packed, bottom: Sequence[Blob], top: Sequence[Blob], slope: float, accumulate: bool
    ) -> None:
        """The filters are there while something is made of them, and as long as kernels read them."""
        form = self.convolutions.convolution_form(
            self.x_shape, self.y_shape, self.moved, self.group, self.dtype, accumulate
        )
        if form in packed.made:
            self._convolve(None, packed.made, bottom, top, slope, accumulate)
            return
        if packed.write is not None:
            packed.write()
        if form is None:
            packed.write = None
            self._convolve(self.filters(self.blobs[0].xdata), packed.made, bottom, top, slope, accumulate)
            return
        self._convolve(self.filters(self.blobs[0].peek_data()), packed.made, bottom, top, slope, accumulate)
        if packed.write is not None:
            self.blobs[0].release_data()
        else:
            self.blobs[0].unload_data()

    def _convolve(
        self,
        w: Any,
        made: dict[Any, Any] | None,
        bottom: Sequence[Blob],
        top: Sequence[Blob],
        slope: float,
        accumulate: bool,
    ) -> None:
        bias = self.blobs[1].xdata if self.bias_term else None
        ops, shared = self.convolutions, (self.moved, self.group, self.workspace_for(backward=False))
        for i, blob in enumerate(bottom):
            x, y = self.images(blob.xdata, self.x_shape), self.images(top[i].xdata, self.y_shape)
            ops.convolve(x, w, bias, y, *shared, slope, made, accumulate)

    def pack_filters(self, write: Callable[[], None] | None = None) -> None:
        """From the next forward on, work with what can be made of the filters in advance; call it whenever they change.

        Forward only: who changes them must know of it.  ``write`` writes the params to their blobs whenever filters are
        needed; those that something else is made of do not stay there.
        """
        if self._packed is None:
            self._packed = _Packed()
        self._packed.renew(write)
        self._has_room = ()
        generation.advance()

    @property
    def has_packed(self) -> bool:
        """Whether anything was made of the filters."""
        return self._packed is not None and bool(self._packed.made)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if self.x_shape[0] == 0:
            return
        w = self.blobs[0]
        ops, shared = self.convolutions, (self.moved, self.group, self.workspace_for(backward=True))
        for i, blob in enumerate(bottom):
            dy = self.images(top[i].xdiff, self.y_shape)
            dbias = self.blobs[1].xdiff if self.bias_term and self.param_propagate_down[1] else None
            if self.param_propagate_down[0]:
                dw, begun = w.claim_xdiff()
                x = self.images(blob.xdata, self.x_shape)
                ops.convolve_weight_grad(x, dy, self.filters(dw), *shared, begun, dbias)
            elif dbias is not None:
                self.ops.bias_grad(dy, dbias)
            if propagate_down[i]:
                dx = self.images(blob.xdiff, self.x_shape)
                ops.convolve_data_grad(dy, self.filters(w.xdata), dx, *shared)


class AddedConvolution(Convolution):
    """A convolution that is added to its second bottom, in place: what a deployed net makes of one and an Eltwise.

    Bottoms: x as for Convolution; a blob of the result's shape.  Top: that blob.  Forward only.
    """

    bottoms = 2
    tops = 1
    equal_counts = False
    capturable = True
    by_image = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom[:1], top)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom[:1], top)

    def shape_tops(self, top: Sequence[Blob], shape: tuple[int, ...]) -> None:
        self.require(
            top[0].shape == shape,
            f"its result is added to another blob, which must have the same shape: {shape}; found {top[0].shape}",
            kind=ShapeError,
        )

    def rectified_forward(self, bottom: Sequence[Blob], top: Sequence[Blob], slope: float) -> None:
        self.convolve(bottom[:1], top, slope, accumulate=True)


class Deconvolution(Convolution):
    r"""The transpose of a convolution: every input pixel adds its filters, weighted by its value, to the output.

    .. math:: y_{n,\,o,\,p \cdot stride - pad + q \cdot dilation} = b_o + \sum_c w_{c,o,q} \, x_{n,c,p}

    summed over all p and q that name the same place of y.  Bottoms, tops and options as for Convolution; the size of
    the output is ``stride (in - 1) + extent - 2 pad``.  Params: w (C, num_output / group, *kernel); b (num_output,)
    unless ``bias_term: false``.
    """

    type = "Deconvolution"
    capturable = True
    by_image = True
    takes_halves = True
    forward_kinds = (DATA_GRAD,)
    backward_kinds = (WEIGHT_GRAD, FORWARD)

    def filter_channels(self) -> tuple[int, int]:
        return self.in_channels, self.num_output // self.group

    def output_size(self, spatial: Sequence[int]) -> tuple[int, ...]:
        window = self.window
        sizes = tuple(
            s * (size - 1) + e - 2 * p
            for size, e, s, p in zip(spatial, window.extent, window.stride, window.pad, strict=True)
        )
        self.require(
            min(sizes, default=1) > 0,
            f"{list(window.pad)} leaves nothing of the output, of size {list(sizes)}",
            "pad",
            ShapeError,
        )
        self.check_padded(sizes)
        return sizes

    def moved_window(self, spatial: tuple[int, ...], out: tuple[int, ...]) -> Window:
        return self.window.fitted(spatial)

    def moved_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.y_shape, self.x_shape

    def products(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> float:
        return 2.0 * sum(blob.count for blob in bottom) * (self.blobs[0].count // self.in_channels)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.x_shape[0] == 0:
            return
        w = self.filters(self.blobs[0].xdata)
        ops, shared = self.convolutions, (self.moved, self.group, self.workspace_for(backward=False))
        for i, blob in enumerate(bottom):
            x, y = self.images(blob.xdata, self.x_shape), self.images(top[i].xdata, self.y_shape)
            ops.convolve_data_grad(x, w, y, *shared)
            if self.bias_term:
                self.ops.bias_add(y, self.blobs[1].xdata)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if self.x_shape[0] == 0:
            return
        w = self.blobs[0]
        ops, shared = self.convolutions, (self.moved, self.group, self.workspace_for(backward=True))
        for i, blob in enumerate(bottom):
            dy = self.images(top[i].xdiff, self.y_shape)
            if self.bias_term and self.param_propagate_down[1]:
                self.ops.bias_grad(dy, self.blobs[1].xdiff)
            if self.param_propagate_down[0]:
                dw, begun = w.claim_xdiff()
                x = self.images(blob.xdata, self.x_shape)
                ops.convolve_weight_grad(dy, x, self.filters(dw), *shared, begun)
            if propagate_down[i]:
                dx = self.images(blob.xdiff, self.x_shape)
                ops.convolve(dy, self.filters(w.xdata), None, dx, *shared)


class Im2col(Windowed):
    """The pixels under each position of a window, laid out as channels, as convolutions use them.

    Bottom: (…, C, *in), C at ``axis`` (1).  Top: (…, C * taps, *out); channel ``c * taps + q`` holds the pixels of
    channel c under tap q of the kernel, 0 outside the image.  Options: those of the window in ``convolution_param``.
    """

    type = "Im2col"
    fixed = Windowed.fixed
    reads_bottoms = ()
    per_element = 0

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().setup(bottom, top)
        self.require(
            len(self.window.kernel) > 0, f"needs an axis after it; found {bottom[0].shape_string}", "axis", ShapeError
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.check_input(bottom)
        shape, axis = bottom[0].shape, self.channel_axis
        lead, spatial, channels = shape[:axis], shape[axis + 1 :], self.in_channels * self.window.taps
        out = self.convolved_size(spatial)
        self.moved = self.window.fitted(out)
        top[0].reshape(*lead, channels, *out)
        self.x_shape, self.y_shape = (math.prod(lead), self.in_channels, *spatial), (math.prod(lead), channels, *out)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.ops.im2col(bottom[0].xdata.reshape(self.x_shape), top[0].xdata.reshape(self.y_shape), self.moved)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            self.ops.col2im(top[0].xdiff.reshape(self.y_shape), bottom[0].xdiff.reshape(self.x_shape), self.moved)
