"""ProposalTarget: from proposed regions and the ground truth to what a detector learns from."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import numpy as np
from numpy.typing import NDArray

from minicaffe.backend.random import stream
from minicaffe.blob import Blob
from minicaffe.boxes.anchors import codes_between
from minicaffe.boxes.pixels import IOU, overlap
from minicaffe.layers.base import Count
from minicaffe.layers.box_codes import Coded, put_rows, rows
from minicaffe.layers.rpn_targets import chosen

MOST_TRIES = 10000
SHORTEST = 32
"""Pixels that a box drawn at random is at least high and wide."""


class ProposalTarget(Coded):
    """Regions to learn from, what they are and where their objects lie (MS-CNN, Cascade R-CNN).

    Bottoms: regions (R, 5), rows (item, x1, y1, x2, y2); ground truth, rows (item, x1, y1, x2, y2, label, ignored) of
    MS-CNN or, with an eighth value, difficult, of Cascade R-CNN, where an item of -1 is no ground truth.
    Tops, M rows each, with two axes of 1 behind: regions (M, 5); labels (M, 1), 0 for none; codes of boxes, their
    inside and their outside weights, (M, 4 ``cls_num``) each, or without ``bbox_reg_param.cls_aware`` (M, 8); the
    objects that regions stand for, rows (label, x1, y1, x2, y2, overlap), 0 for none; if a seventh is named, weights
    (M, 1).

    Regions, and with ``append_gtbox`` the ground truth itself, stand for an object that they overlap by ``fg_thr``; for
    none if by at least ``bg_thr_lw`` and less than ``bg_thr_hg``.  Of the former at most ``fg_fraction`` of
    ``batch_size`` are taken, at random, and then of the latter; with ``pickup_discard`` others fill the batch.  MS-CNN
    fills it up with boxes drawn in ``img_width`` x ``img_height``; Cascade R-CNN draws one where nothing is left.
    ``batch_size: -1`` takes all.  Box weights are 1 where the overlap is in ``bbox_thr_lw`` .. ``bbox_thr_hg``.
    Weights of regions (overlaps, if ``iou_weighted``) are scaled to ``fg_fraction`` of M for objects, the rest for
    others.  Computed on the host.  Both corners belong to a box; in Cascade R-CNN what two boxes have in common counts
    from one pixel on.
    """

    type = "ProposalTarget"
    param = "proposal_target_param"
    bottoms = 2
    tops: Count = (6, 7)
    differentiable = forcible = ()
    stops_gradients = True
    reads_bottoms = reads_tops = ()
    per_element = 0
    cls_num: int
    batch_size: int
    fg_fraction: float
    num_img_per_batch: int
    fg_thr: float
    bg_thr_hg: float
    bg_thr_lw: float
    img_width: int
    img_height: int
    iou_weighted: bool
    bbox_thr_lw: float
    bbox_thr_hg: float
    pickup_discard: bool
    append_gtbox: bool

    def check_options(self) -> None:
        super().check_options()
        self.require(self.cls_num > 1, f"must be given, 2 or more; found {self.cls_num}", "cls_num")
        good = self.batch_size == -1 or self.batch_size > 0
        self.require(good, f"must be positive, or -1 for all; found {self.batch_size}", "batch_size")
        self.require(0 <= self.fg_fraction <= 1, f"lies in 0 .. 1; found {self.fg_fraction:g}", "fg_fraction")
        self.require(self.num_img_per_batch > 0, "must be positive", "num_img_per_batch")
        self.require(
            self.fg_thr >= self.bg_thr_hg,
            f"must be at least bg_thr_hg, {self.bg_thr_hg:g}; found {self.fg_thr:g}",
            "fg_thr",
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.expect_rows("regions", bottom[0], 5)
        self.expect_rows("ground truth", bottom[1], 7, 8)
        self.full_batches = bottom[1].shape[1] == 7  # MS-CNN's
        self.width = 4 * self.cls_num if self.cls_aware else 8
        count = max(bottom[0].shape[0], 1) if self.batch_size == -1 else self.batch_size
        for blob, width in zip(top, (5, 1, *(self.width,) * 3, 6, 1), strict=False):
            blob.reshape(count, width, 1, 1)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        truth = self.numbers("ground truth", rows(bottom[1]))
        truth = truth[truth[:, 0] != -1]
        regions = self.numbers("regions", rows(bottom[0]))
        if self.append_gtbox:
            regions = np.concatenate([regions, truth[:, :5]])
        for values in (regions, truth):
            self._check_items(values[:, 0])
        nearest, overlaps = self._match(regions, truth)
        objects, others = self._sample(nearest, overlaps, truth)
        found = regions[np.concatenate([objects, others])]
        if self.full_batches and len(found) < self.batch_size:
            found = np.concatenate([found, self._drawn(self.batch_size - len(found), truth)])
        elif not len(found):
            found = self._drawn(1, truth)
        self._put(top, found, truth[nearest[objects]], overlaps[objects])

    def _check_items(self, items: NDArray) -> None:
        self.require_whole(items, "the numbers of items")
        bad = (items < 0) | (items >= self.num_img_per_batch)
        self.require(
            not bad.any(), f"found an item {items[bad][:1]} beyond it; give the batch size", "num_img_per_batch"
        )

    def _overlaps(self, boxes: NDArray, truth: NDArray) -> NDArray:
        """Overlaps of boxes (R, 5) with the ground truth (G, …), (R, G); -1 where they are of other items."""
        one = np.array([0, 0, 1, 1], boxes.dtype)
        least = 0 if self.full_batches else 1
        found = overlap(boxes[:, None, 1:5] + one, truth[:, 1:5] + one, IOU, least)
        return np.where(boxes[:, None, 0] == truth[:, 0], found, -1)

    def _match(self, regions: NDArray, truth: NDArray) -> tuple[NDArray, NDArray]:
        """For each region the ground truth that it overlaps most, and by how much."""
        if not len(truth):
            return np.full(len(regions), -1), np.zeros(len(regions), regions.dtype)
        found = self._overlaps(regions, truth)
        return found.argmax(axis=1), np.maximum(found.max(axis=1), 0)

    def _sample(self, nearest: NDArray, overlaps: NDArray, truth: NDArray) -> tuple[NDArray, NDArray]:
        """Which regions are taken: those that stand for an object, and others."""
        alike = overlaps >= self.fg_thr
        if not len(truth):
            alike[:] = False
        unlike = ~alike & (overlaps >= self.bg_thr_lw) & (overlaps < self.bg_thr_hg)
        objects, others = np.flatnonzero(alike), np.flatnonzero(unlike)
        labels, ignored = truth[nearest[objects], 5], truth[nearest[objects], 6]
        good = (labels == np.floor(labels)) & (labels > 0) & (labels < self.cls_num)
        if not good.all():
            raise self.data_error(
                f"found the label {labels[~good][0]:g} in the ground truth; expected 1 .. {self.cls_num - 1}", "cls_num"
            )
        objects = objects[ignored == 0]
        if self.batch_size == -1:
            return objects, others
        objects = chosen(objects, floor(np.float32(self.fg_fraction) * self.batch_size + 0.5))
        rest = self.batch_size - len(objects)
        if len(others) <= rest and self.pickup_discard:
            others = np.concatenate([others, np.flatnonzero(~(alike | unlike))[: rest - len(others)]])
        return objects, chosen(others, rest)

    def _drawn(self, count: int, truth: NDArray) -> NDArray:
        """Boxes (count, 5) drawn at random, none of which is an object."""
        self.require(
            min(self.img_width, self.img_height) > SHORTEST,
            f"img_width and img_height must be more than {SHORTEST}, to draw boxes where the proposals do not suffice; "
            f"found {self.img_width} and {self.img_height}",
        )
        found: list[NDArray] = []
        for _ in range(MOST_TRIES):
            item = stream().draw() % self.num_img_per_batch
            x, y = (stream().draw() % (size - SHORTEST) for size in (self.img_width, self.img_height))
            width, height = (stream().draw() % (size - at) for size, at in ((self.img_width, x), (self.img_height, y)))
            last = x + max(width, SHORTEST) - 1, y + max(height, SHORTEST) - 1
            box = np.array([[item, x, y, *last]], self.dtype)
            if not len(truth) or self._overlaps(box, truth).max() < self.fg_thr:
                found.append(box[0])
            if len(found) == count:
                return np.array(found)
        raise self.data_error(f"the ground truth leaves no room for a box without object, after {MOST_TRIES} tries")

    def _put(self, top: Sequence[Blob], regions: NDArray, truth: NDArray, overlaps: NDArray) -> None:
        """Fill the tops: regions (M, 5), of which the first stand for these objects (F, …), that they so overlap."""
        count, objects = len(regions), np.arange(len(truth))
        labels, matches = np.zeros((count, 1), self.dtype), np.zeros((count, 6), self.dtype)
        codes, weights = np.zeros((2, count, self.width // 4, 4), self.dtype)
        if len(truth):
            labels[objects, 0] = truth[:, 5]
            matches[objects] = np.column_stack([truth[:, 5], truth[:, 1:5], overlaps])
            slots = labels[objects, 0].astype(int) if self.cls_aware else 1
            codes[objects, slots] = self.scaling().normalised(codes_between(regions[objects, 1:], truth[:, 1:5]))
            learned = (overlaps >= self.bbox_thr_lw) & (overlaps <= self.bbox_thr_hg)
            weights[objects, slots] = learned[:, None]
        flat = codes.reshape(count, self.width), *(weights.reshape(count, self.width),) * 2
        for blob, values in zip(top, (regions, labels, *flat, matches), strict=False):
            put_rows(blob, values)
        if len(top) > 6:
            put_rows(top[6], self._weights(labels[:, 0] > 0, matches[:, 5])[:, None])

    def _weights(self, objects: NDArray, overlaps: NDArray) -> NDArray:
        """The weights of regions, of which some stand for objects."""
        weights = np.where(objects & self.iou_weighted, overlaps, 1).astype(self.dtype)
        total = weights[objects].sum()
        if total:
            weights[objects] *= self.fg_fraction * len(weights) / total
            weights[~objects] *= (1 - self.fg_fraction) * len(weights) / max(weights[~objects].sum(), 1)
        return weights
