"""Proposal: from a region proposal network's predictions to the regions to look at."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.anchors import anchors_of_cell, boxes_of_map
from minicaffe.errors import ShapeError
from minicaffe.kernels.cpu.boxes import best_first, suppress
from minicaffe.layers.base import TRAIN, Count, Layer
from minicaffe.layers.param_str import Worded


class Choice(NamedTuple):
    """Which boxes are proposed."""

    stride: float
    least_size: float
    before: int
    after: int
    overlap: float


class Proposing(Layer):
    """Base: the best regions (R, 5), rows (item 0, x1, y1, x2, y2), of the anchors on a map, and their scores.

    Bottoms: probabilities of no object and of an object (1, 2 A, H, W); codes of boxes (1, 4 A, H, W); the image's
    height, width and scale (1, 3), or with one scale for each axis (1, 4 or more).
    Tops: regions (R, 5); if a second is named, their scores (R, 1).

    Anchors are moved by their codes and clipped to the image; those whose sides are at least the least size, times the
    scale, are ranked by score; of the best ones those are kept that overlap no better one too much.  Both corners
    belong to a box.
    Computed on the host, since the number of regions depends on the values: a device is waited for.
    Source: py-faster-rcnn.  Of equal scores the one of the earlier anchor wins.
    """

    bottoms: Count = 3
    tops: Count = (1, 2)
    differentiable: tuple[int, ...] | None = ()
    stops_gradients = True
    reads_bottoms = reads_tops = ()
    per_element = 0
    cell: NDArray
    choice: Choice

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scores, codes, image = bottom
        anchors = len(self.cell)
        fits = (
            len(scores.shape) == 4
            and scores.shape[:2] == (1, 2 * anchors)
            and codes.shape == (1, 4 * anchors, *scores.shape[2:])
        )
        self.require(
            fits,
            f"of {anchors} anchors the scores must be (1, {2 * anchors}, H, W) and the codes (1, {4 * anchors}, H, W); "
            f"found {scores.shape_string} and {codes.shape_string}",
            kind=ShapeError,
        )
        self.require(
            image.shape[:1] == (1,) and image.count >= 3,
            f"the image's height, width and scale must be (1, 3); found {image.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape(1, 5)
        for blob in top[1:]:
            blob.reshape(1, 1)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scores = bottom[0].data[0, len(self.cell) :].transpose(1, 2, 0).reshape(-1)
        boxes, scores = self._propose(bottom[1].data[0], scores, bottom[2].data.reshape(-1))
        top[0].reshape(len(boxes), 5)
        top[0].data[:, 0] = 0
        top[0].data[:, 1:] = boxes
        for blob in top[1:]:
            blob.reshape(len(boxes), 1)
            blob.data[:, 0] = scores

    def _propose(self, codes: NDArray, scores: NDArray, image: NDArray) -> tuple[NDArray, NDArray]:
        """The boxes (R, 4) that are kept, and their scores (R,)."""
        boxes = boxes_of_map(self.cell, codes, self.choice.stride).reshape(-1, 4)
        last = np.array([image[1] - 1, image[0] - 1] * 2, self.dtype)
        np.minimum(boxes, last, out=boxes)
        np.maximum(boxes, 0, out=boxes)
        least = self.choice.least_size * np.array([image[3 if len(image) > 3 else 2], image[2]], self.dtype)
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        self.require(not np.isnan(sides).any(), "box codes and the size of the image must be finite; found NaN")
        large = (sides[:, 0] >= least[0]) & (sides[:, 1] >= least[1])
        boxes, scores = boxes[large], scores[large]
        best = best_first(scores, -np.inf, self.choice.before if self.choice.before > 0 else -1)
        boxes, scores = boxes[best], scores[best]
        whole = boxes + np.array([0, 0, 1, 1], self.dtype)
        most = self.choice.after if self.choice.after > 0 else -1
        kept = suppress(whole, np.arange(len(whole)), self.choice.overlap, 1.0, most)
        return boxes[kept], scores[kept]


class Proposal(Proposing):
    """The regions that a region proposal network proposes (Faster R-CNN, Ren et al. 2015); see ``Proposing``.

    ``proposal_param``: ``feat_stride`` (16), pixels of the image a cell of the map; ``base_size`` (16), ``ratio`` (0.5,
    1, 2) and ``scale`` (8, 16, 32) of the anchors; ``min_size`` (16); ``pre_nms_topn`` (6000), how many are compared;
    ``nms_thresh`` (0.7), the overlap that is too much; ``post_nms_topn`` (300), how many are proposed at most.
    """

    type = "Proposal"
    param = "proposal_param"
    feat_stride: float
    base_size: int
    min_size: float
    ratio: Sequence[float]
    scale: Sequence[float]
    pre_nms_topn: int
    post_nms_topn: int
    nms_thresh: float
    anchor_scale: Sequence[float]
    anchor_ratio: Sequence[float]

    OF_OTHERS = ("anchor_base_size", "max_rois", "iou_threshold", "output_actual_rois_num")

    def check_options(self) -> None:
        for field in ("feat_stride", "base_size", "nms_thresh"):
            value = getattr(self, field)
            self.require(isfinite(value) and value > 0, f"must be positive; found {value:g}", field)
        for field in ("ratio", "scale"):
            values = getattr(self, field)
            self.require(
                all(isfinite(value) and value > 0 for value in values),
                f"must be positive numbers; found {list(values)}",
                field,
            )
        self.require(isfinite(self.min_size), f"must be a number; found {self.min_size:g}", "min_size")
        others = [field for field in self.OF_OTHERS if self.has(field)]
        self.require(not others, f"{', '.join(others)}: of another port, which is not supported")
        self.require(not (self.anchor_scale or self.anchor_ratio), "of another port; give scale and ratio")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.cell = anchors_of_cell(self.base_size, self.ratio or (0.5, 1, 2), self.scale or (8, 16, 32))
        self.choice = Choice(self.feat_stride, self.min_size, self.pre_nms_topn, self.post_nms_topn, self.nms_thresh)
        super().reshape(bottom, top)


class ProposalLayer(Worded, Proposing):
    """What ``module: "rpn.proposal_layer"`` ``layer: "ProposalLayer"`` means in nets of py-faster-rcnn and R-FCN; see
    ``Proposing``.

    ``param_str``: ``'feat_stride': 16``, and optionally ``'scales'`` and ``'ratios'``.  Of 6000 boxes 300 are proposed,
    in TRAIN of 12000 2000; they overlap by 0.7 at most, and their sides are at least 16.
    """

    phase_is_fixed = True

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        stride, self.cell = self.number("feat_stride"), self.anchors()
        before, after = (12000, 2000) if self.phase == TRAIN else (6000, 300)
        self.choice = Choice(stride, 16, before, after, 0.7)
