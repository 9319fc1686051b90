"""Between the stages of a cascade of detectors (Cascade R-CNN): boxes made better, some of them chosen."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.fields import decode_from
from minicaffe.boxes.pixels import IOU, overlap
from minicaffe.errors import ShapeError
from minicaffe.layers.base import TRAIN, Count
from minicaffe.layers.box_codes import Coded, Rowed, put_rows, rows


class DecodeBBox(Coded):
    """The boxes that codes make of regions: those of the next stage.

    Bottoms: codes (R, 8), of which the last four count; regions (R, 5), rows (item, x1, y1, x2, y2); in TRAIN
    optionally what these stand for, rows that end in an overlap (R, 6).  Top: regions (K, 5, 1, 1).  Codes are those of
    ``bbox_reg_param``.  In TRAIN boxes turned inside out are dropped, and regions that overlap their object by
    ``gt_iou_thr`` (0.95), such as the ground truth itself; it is an error if none is left.
    Computed on the host.  Source: cascade-rcnn.
    """

    type = "DecodeBBox"
    param = "decode_bbox_param"
    bottoms: Count = (2, 3)
    differentiable = forcible = ()
    stops_gradients = True
    reads_bottoms = reads_tops = ()
    per_element = 0
    gt_iou_thr: float

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.expect_rows("codes", bottom[0], 8)
        self.expect_rows("regions", bottom[1], 5)
        if len(bottom) > 2:
            self.require(self.phase == TRAIN, "takes a third bottom in the TRAIN phase only", "bottom")
            self.expect_rows("objects", bottom[2], *range(1, 9))
        self.expect_as_many(*bottom)
        top[0].reshape(bottom[1].shape[0], 5, 1, 1)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        regions, codes = rows(bottom[1]), self.scaling().restored(rows(bottom[0])[:, None, 4:])
        boxes = self.numbers("codes and regions", decode_from(regions[:, 1:], codes)[:, 0])
        good = np.ones(len(boxes), bool)
        if self.phase == TRAIN:
            good &= (boxes[:, :2] <= boxes[:, 2:]).all(axis=1)
        if len(bottom) > 2:
            good &= rows(bottom[2])[:, -1] < self.gt_iou_thr
        self.require(bool(good.any()), f"no box is left of {len(boxes)} regions")
        put_rows(top[0], np.hstack([regions[:, :1], boxes])[good])


class Choosing(Rowed):
    """Base of layers that hand on some rows of each of their bottoms (R, …), to tops (K, …)."""

    differentiable = forcible = ()
    stops_gradients = True
    reads_bottoms = reads_tops = ()
    per_element = 0

    def hand_on(self, which: NDArray, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for source, target in zip(bottom, top, strict=True):
            target.reshape(len(which), *source.shape[1:])
            target.data[...] = source.data[which]


class ScaleRoute(Choosing):
    """The regions whose size is in a range, with what belongs to them: each level of a pyramid takes its own.

    Bottoms: regions (R, 5), rows (item, x1, y1, x2, y2), and others (R, …).  Tops: as many, (K, …).  The square root of
    a region's area is at least ``low_scale`` and less than ``high_scale``, where these are given; if there is no such
    region, the one that is nearest to the middle of both, by octaves, is taken.
    Computed on the host.  Source: cascade-rcnn.
    """

    type = "ScaleRoute"
    param = "scale_route_param"
    bottoms = (1, None)
    tops: Count = (1, None)
    equal_counts = True
    low_scale: float
    high_scale: float

    def check_options(self) -> None:
        for field in ("low_scale", "high_scale"):
            self.require(not self.has(field) or getattr(self, field) > 0, "must be positive", field)
        ordered = not (self.has("low_scale") and self.has("high_scale")) or self.high_scale >= self.low_scale
        self.require(ordered, f"must be at least low_scale; found {self.high_scale:g}", "high_scale")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.expect_rows("regions", bottom[0], 5)
        self.expect_as_many(*bottom)
        for source, target in zip(bottom, top, strict=True):
            target.reshape(1, *source.shape[1:])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        regions = self.numbers("regions", rows(bottom[0]))
        sides = regions[:, 3:] - regions[:, 1:3]
        scales = np.where((sides < 0).any(axis=1), 0, np.sqrt(np.abs((sides + 1).prod(axis=1))))
        low, high = self.given("low_scale", 0), self.given("high_scale", np.inf)
        which = np.flatnonzero((scales >= low) & (scales < high))
        if not len(which):
            self.require(bool((scales > 0).any()), f"needs a region with an area; found {len(scales)} without")
            with np.errstate(divide="ignore"):
                which = np.atleast_1d(np.abs(np.log2(scales / self._middle())).argmin())
        self.hand_on(which, bottom, top)

    def _middle(self) -> float:
        given = [getattr(self, field) for field in ("low_scale", "high_scale") if self.has(field)]
        return sqrt(given[0] * given[-1]) if given else 256


class HardMining(Choosing):
    """The regions with the largest losses of each item, with what belongs to them.

    Bottoms: losses (R, 1); regions (R, 5), rows (item, x1, y1, x2, y2), and others (R, …).  Tops: all but the losses,
    (K, …), in the order of the regions: of each of ``num_image`` (4) items ``num_roi_per_image`` (128), and where an
    item has fewer, the largest of the rest; K is all of them together, or R.
    Computed on the host.  Source: cascade-rcnn.
    """

    type = "HardMining"
    param = "hard_mining_param"
    bottoms = (2, None)
    tops: Count = (1, None)
    num_roi_per_image: int
    num_image: int

    def check_options(self) -> None:
        for field in ("num_roi_per_image", "num_image"):
            self.require(getattr(self, field) > 0, "must be positive", field)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require(
            len(bottom) == len(top) + 1, f"takes {len(top) + 1} bottoms for {len(top)} tops; found {len(bottom)}", "top"
        )
        self.expect_rows("losses", bottom[0], 1)
        self.expect_rows("regions", bottom[1], 5)
        self.expect_as_many(*bottom)
        count = min(self.num_image * self.num_roi_per_image, bottom[0].shape[0])
        for source, target in zip(bottom[1:], top, strict=True):
            target.reshape(count, *source.shape[1:])

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        losses, items = self.numbers("losses", rows(bottom[0])[:, 0]), rows(bottom[1])[:, 0]
        bad = ~((items >= 0) & (items < self.num_image) & (items == np.floor(items)))
        self.require(not bad.any(), f"found an item {items[bad][:1]} beyond it; give the batch size", "num_image")
        order = np.lexsort((-np.arange(len(losses)), -losses))  # of equal losses the later region
        hardest = [order[items[order] == item] for item in np.unique(items)]
        first = np.concatenate([order[:0], *(own[: self.num_roi_per_image] for own in hardest)])
        rest = order[~np.isin(order, first)]
        which = np.concatenate([first, rest[: top[0].shape[0] - len(first)]])
        self.hand_on(np.sort(which), bottom[1:], top)


class BboxAccuracy(Coded):
    """How much predicted boxes overlap their objects, on average.

    Bottoms: codes (R, 4 K), or without ``bbox_reg_param.cls_aware`` (R, 8); regions (R, 5), rows (item, x1, y1, x2,
    y2); what these stand for, rows (R, 6), (label, x1, y1, x2, y2, overlap).  Tops (1, 1, 1, 1): the mean intersection
    over union of the decoded boxes and their objects; if a second is named, that of the regions.  Regions without an
    object, and those that overlap it by more than 0.975, do not count; -1 if none does.
    Computed on the host.  Source: cascade-rcnn, where what two boxes have in common counts from one pixel on.
    """

    type = "BboxAccuracy"
    bottoms = 3
    tops: Count = (1, 2)
    differentiable = forcible = ()
    reads_bottoms = reads_tops = ()
    per_element = 0
    SAME = 0.975

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.expect_rows("regions", bottom[1], 5)
        self.expect_rows("objects", bottom[2], 6)
        self.expect_as_many(*bottom)
        codes = bottom[0]
        good = len(codes.shape) >= 2 and codes.count == codes.shape[0] * codes.shape[1] and codes.shape[1] % 4 == 0
        self.require(
            good and (self.cls_aware or codes.shape[1] == 8),
            f"the codes must be (R, {'4 K' if self.cls_aware else 8}); found {codes.shape_string}",
            "cls_aware",
            ShapeError,
        )
        for blob in top:
            blob.reshape(1, 1, 1, 1)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        codes, regions, objects = (self.numbers("bottoms", rows(blob)) for blob in bottom)
        self.require_whole(objects[:, 0], "the labels of the objects")
        which = (objects[:, 0] > 0) & (objects[:, 5] <= self.SAME)
        codes, regions, objects = codes[which], regions[which, 1:], objects[which]
        slots = objects[:, 0].astype(int) if self.cls_aware else np.ones(len(objects), int)
        self.require(
            not (slots >= codes.shape[1] // 4).any(), f"found the label {slots.max(initial=0)}, but no codes for it"
        )
        codes = codes.reshape(len(codes), codes.shape[1] // 4, 4)[np.arange(len(codes)), slots]
        boxes = decode_from(regions, self.scaling().restored(codes)[:, None])[:, 0]
        one = np.array([0, 0, 1, 1], self.dtype)
        for blob, found in zip(top, (boxes, regions), strict=False):
            shares = overlap(found + one, objects[:, 1:5] + one, IOU, 1)
            blob.data[...] = shares.mean() if len(shares) else -1
