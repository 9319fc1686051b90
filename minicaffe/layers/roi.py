"""Pooling of regions of interest, of two-stage detectors: ROIPooling, PSROIPooling, ROIAlign."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from minicaffe import backend
from minicaffe.blob import Blob
from minicaffe.errors import LayerError, ShapeError
from minicaffe.layers.base import Layer


class Regional(Layer):
    """Base: regions (R, 5), rows (item, x1, y1, x2, y2), of images (N, C, H, W), each pooled to a grid.

    Regions get no gradient.
    """

    bottoms = 2
    reads_bottoms: Sequence[int] = (1,)
    reads_tops = ()
    differentiable = forcible = (0,)
    stops_at = (1,)
    per_element = 4
    spatial_scale: float

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, rois = bottom
        self.require(
            len(x.shape) == 4 and x.shape[2] > 0 and x.shape[3] > 0,
            f"the image must have 4 axes (N, C, H, W), and pixels; found {x.shape_string}",
            kind=ShapeError,
        )
        self.require(
            bool(rois.shape) and rois.count == 5 * rois.shape[0],
            f"the regions must be rows (item, x1, y1, x2, y2); found {rois.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape(rois.shape[0], *self.pooled(x))
        self.rois = (rois.shape[0], 5)
        self.items, self.bad_item = self.scratch("items", (rois.shape[0],)), self.flag("bad_item")
        self.unknown, self.bad_region = self.scratch("unknown", self.rois), self.flag("bad_region")

    def pooled(self, x: Blob) -> tuple[int, int, int]:
        """What a region of ``x`` becomes."""
        raise NotImplementedError

    def check_regions(self, bottom: Sequence[Blob]) -> None:
        """In ``forward``: report a region whose item is none of the batch, or that has NaN for a corner."""
        rois = bottom[1].xdata.reshape(self.rois)
        self.items[...] = rois[:, 0]
        self.check_indices(self.items, bottom[0].shape[0], self.bad_item, hint=" among the items of regions")
        self.ops.elementwise(Regional.is_nan, (rois,), (), self.unknown)
        self.ops.check_labels(self.unknown.reshape(-1), 1, None, self.bad_region)
        backend.current().check_later(self.bad_region, self._no_region)

    def _no_region(self, place: int) -> LayerError:
        return self.error(f"the corners of regions must be numbers; found NaN in region {place // 5}")

    @staticmethod
    def is_nan(value: float) -> float:
        return 0.0 if value == value else 1.0

    def check_scale(self) -> None:
        """In ``check_options``."""
        self.require(
            isfinite(self.spatial_scale) and self.spatial_scale > 0,
            f"must be positive; found {self.spatial_scale:g}",
            "spatial_scale",
        )


class Gridded(Regional):
    """Base of layers with ``roi_pooling_param``."""

    param = "roi_pooling_param"
    pooled_h: int
    pooled_w: int
    pad_ratio: float

    def check_options(self) -> None:
        for field in ("pooled_h", "pooled_w"):
            self.require(getattr(self, field) > 0, f"must be positive; found {getattr(self, field)}", field)
        for field in ("ringpad", "pooled_size"):
            self.require(not getattr(self, field), "is not supported; without it the results differ", field)
        self.require(isfinite(self.pad_ratio), f"must be a number; found {self.pad_ratio:g}", "pad_ratio")


class ROIPooling(Gridded):
    """The largest value in each bin of a region (Fast R-CNN, Girshick 2015).

    Bottoms: images (N, C, H, W); regions (R, 5), rows (item, x1, y1, x2, y2).  Top: (R, C, ``pooled_h``, ``pooled_w``).
    Corners are multiplied by ``spatial_scale`` and rounded; both belong to the region, which is divided into bins that
    may share pixels.  An empty bin is 0.  ``pad_ratio`` first moves the corners outward by that share of the size
    (MS-CNN, Cascade R-CNN).
    DeepDetect: with ``spatial_scale`` -1, or none, corners are shares of width and height; Fast R-CNN's default, 1, is
    then an error that tells to give it.
    """

    type = "ROIPooling"

    def check_options(self) -> None:
        super().check_options()
        if not self._relative():
            self.check_scale()

    def _relative(self) -> bool:
        return not self.has("spatial_scale") or self.spatial_scale == -1

    def pooled(self, x: Blob) -> tuple[int, int, int]:
        return x.shape[1], self.pooled_h, self.pooled_w

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.mask = self.scratch("mask", top[0].shape, "int32")
        corners = (self.rois[0], 4) if self._relative() else (0,)
        self.corners, self.beyond = self.scratch("corners", corners), self.scratch("beyond", corners)
        self.bad_corner = self.flag("bad_corner")
        height, width = bottom[0].shape[2:]
        self.scale = (width, height) if self._relative() else (self.spatial_scale, self.spatial_scale)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.check_regions(bottom)
        rois = bottom[1].xdata.reshape(self.rois)
        if self._relative():
            self.corners[...] = rois[:, 1:]
            self._check_shares(self.corners)
        self.ops.roi_pool(bottom[0].xdata, rois, top[0].xdata, self.mask, self.scale, self.pad_ratio)

    def _check_shares(self, corners: Any) -> None:
        """Report corners that can be no shares of the image: at the next synchronisation on a device."""
        self.ops.elementwise(self.is_beyond, (corners,), (), self.beyond)
        self.ops.check_labels(self.beyond.reshape(-1), 1, None, self.bad_corner)
        backend.current().check_later(self.bad_corner, lambda place: self._no_shares())

    def _no_shares(self) -> LayerError:
        return self.error(
            "without it the corners of regions are shares of the image, near 0 .. 1; found others; for corners in "
            "pixels of the image give spatial_scale: 1, or how many pixels of the bottom are one of the image",
            "spatial_scale",
        )

    @staticmethod
    def is_beyond(corner: float) -> float:
        return 1.0 if abs(corner) > 4 else 0.0

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            rois = bottom[1].xdata.reshape(self.rois)
            self.ops.roi_pool_grad(top[0].xdiff, self.mask, rois, bottom[0].xdiff, self.scale, self.pad_ratio)


class PSROIPooling(Regional):
    """The mean of each bin of a region, which has channels of its own (R-FCN, Dai et al. 2016).

    Bottoms: images (N, ``output_dim`` ``group_size``^2, H, W); regions (R, 5), rows (item, x1, y1, x2, y2).  Top:
    (R, ``output_dim``, ``group_size``, ``group_size``); bin (i, j) of output d is taken from channel
    ``(d * group_size + i) * group_size + j``.  Corners are rounded, 1 added to the lower right ones, and multiplied by
    ``spatial_scale``; a region is at least 0.1 high and wide, an empty bin 0.
    """

    type = "PSROIPooling"
    param = "psroi_pooling_param"
    output_dim: int
    group_size: int

    def check_options(self) -> None:
        for field in ("output_dim", "group_size"):
            self.require(getattr(self, field) > 0, f"must be positive; found {getattr(self, field)}", field)
        self.check_scale()
        for field in ("part_size", "sample_per_part", "trans_std", "no_trans"):
            self.require(not getattr(self, field), "is of DeformablePSROIPooling; without it the results differ", field)

    def pooled(self, x: Blob) -> tuple[int, int, int]:
        channels = self.output_dim * self.group_size**2
        self.require(
            x.shape[1] == channels,
            f"the image must have output_dim * group_size^2 channels, {channels}; found {x.shape_string}",
            "output_dim",
            ShapeError,
        )
        return self.output_dim, self.group_size, self.group_size

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.check_regions(bottom)
        rois = bottom[1].xdata.reshape(self.rois)
        self.ops.position_sensitive_pool(bottom[0].xdata, rois, top[0].xdata, self.spatial_scale)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            rois = bottom[1].xdata.reshape(self.rois)
            self.ops.position_sensitive_pool_grad(top[0].xdiff, rois, bottom[0].xdiff, self.spatial_scale)


class ROIAlign(Gridded):
    """Values at a grid of points from corner to corner of a region, between pixels (Cascade R-CNN, Cai and Vasconcelos
    2018).

    Bottoms: images (N, C, H, W); regions (R, 5), rows (item, x1, y1, x2, y2).  Top: (R, C, ``pooled_h`` + 1,
    ``pooled_w`` + 1); an average pooling of 2 x 2 follows, which makes bins of it.  Options: ``roi_pooling_param``, as
    for ROIPooling, where ``spatial_scale`` is 1 by default.  Points outside the image, and regions without area, are 0.
    """

    type = "ROIAlign"

    def check_options(self) -> None:
        self.require(
            not self.layer_param.HasField("roi_align_param"),
            "roi_align_param is of a ROIAlign that averages samples in each bin (Mask R-CNN), which is not supported; "
            "this one is Cascade R-CNN's, by roi_pooling_param",
        )
        super().check_options()
        if self.has("spatial_scale"):
            self.check_scale()

    def pooled(self, x: Blob) -> tuple[int, int, int]:
        return x.shape[1], self.pooled_h + 1, self.pooled_w + 1

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.check_regions(bottom)
        rois = bottom[1].xdata.reshape(self.rois)
        self.ops.roi_sample(bottom[0].xdata, rois, top[0].xdata, self.given("spatial_scale", 1.0), self.pad_ratio)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            rois, scale = bottom[1].xdata.reshape(self.rois), self.given("spatial_scale", 1.0)
            self.ops.roi_sample_grad(top[0].xdiff, rois, bottom[0].xdiff, scale, self.pad_ratio)
