"""What two-stage detectors of py-faster-rcnn learn from, by the names of its modules: targets of anchors, of proposals.

Both choose at random, from Caffe's stream of random numbers, and work on the host.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minicaffe.backend.random import stream
from minicaffe.blob import Blob
from minicaffe.boxes.anchors import anchors_of_map, codes_between, overlaps
from minicaffe.errors import ShapeError
from minicaffe.layers.param_str import Worded


def chosen(places: NDArray, most: int) -> NDArray:
    """At most so many of the places, at random."""
    if len(places) <= most:
        return places
    shuffled = places.copy()
    stream().shuffle(shuffled)
    return shuffled[:most]


class Targets(Worded):
    """Base: what is learnt from ground truth."""

    differentiable = ()
    stops_gradients = True
    reads_bottoms = reads_tops = ()
    per_element = 0

    def check_truth(self, truth: Blob) -> None:
        """In ``reshape``: ground truth is rows of 5."""
        self.require(
            len(truth.shape) == 2 and truth.shape[1] == 5,
            f"the ground truth must be rows (x1, y1, x2, y2, label); found {truth.shape_string}",
            kind=ShapeError,
        )

    def require_finite(self, *blobs: Blob) -> None:
        """An error unless ground truth and what it is compared with are numbers."""
        for blob in blobs:
            self.require(
                bool(np.isfinite(blob.data).all()),
                "ground truth, regions and sizes must be finite; found NaN or infinity",
            )


class AnchorTargetLayer(Targets):
    """What ``module: "rpn.anchor_target_layer"`` ``layer: "AnchorTargetLayer"`` means: anchors to learn from.

    Bottoms: the scores (1, 2 A, H, W), for their size; ground truth (G, 5), rows (x1, y1, x2, y2, label); the image's
    height, width and scale (1, 3); the image, which is not looked at.  Tops: labels (1, 1, A H, W), 1 for objects, 0
    for none, -1 for what does not count; codes of boxes, their inside and their outside weights, (1, 4 A, H, W) each.

    Anchors inside the image count: those that overlap an object by 0.7, or best of all, and those that overlap none by
    0.3; at most 128 of the former, 256 of both.  ``param_str``: ``'feat_stride'``; ``'scales'`` (8, 16, 32),
    ``'ratios'`` (0.5, 1, 2), ``'allowed_border'`` (0).
    """

    bottoms = (3, 4)
    tops = 4
    BATCH, OBJECTS, ALIKE, UNLIKE = 256, 128, 0.7, 0.3

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.stride, self.border, self.cell = (
            self.number("feat_stride"),
            self.number("allowed_border", 0),
            self.anchors(),
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scores, truth, image = bottom[:3]
        self.require(
            len(scores.shape) == 4 and scores.shape[0] == 1 and image.count >= 2,
            f"needs scores (1, 2 A, H, W) and the image's size; found {scores.shape_string}, {image.shape_string}",
            kind=ShapeError,
        )
        self.check_truth(truth)
        count, (height, width) = len(self.cell), scores.shape[2:]
        top[0].reshape(1, 1, count * height, width)
        for blob in top[1:]:
            blob.reshape(1, 4 * count, height, width)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require_finite(bottom[1], bottom[2])
        truth = bottom[1].data[:, :4].astype(np.float64)
        size = rows, columns = bottom[0].shape[2], bottom[0].shape[3]
        height, width = bottom[2].data.reshape(-1)[:2]
        anchors = anchors_of_map(self.cell, rows, columns, self.stride)
        far = np.array([width, height]) + self.border
        inside = np.flatnonzero((anchors[:, :2] >= -self.border).all(axis=1) & (anchors[:, 2:] < far).all(axis=1))
        labels, codes = np.full(len(anchors), -1.0), np.zeros((len(anchors), 4))
        if len(inside):
            labels[inside], codes[inside] = self._targets(anchors[inside], truth)
        counts = (labels >= 0).sum()
        weights = (labels == 1)[:, None] * np.ones(4), (labels >= 0)[:, None] * np.full(4, 1 / max(counts, 1))
        top[0].data[...] = labels.reshape(*size, -1).transpose(2, 0, 1).reshape(top[0].shape)
        for blob, values in zip(top[1:], (codes, *weights), strict=True):
            blob.data[0] = values.reshape(*size, -1).transpose(2, 0, 1)

    def _targets(self, anchors: NDArray, truth: NDArray) -> tuple[NDArray, NDArray]:
        """Labels (P,) and codes (P, 4) of anchors (P, 4)."""
        labels = np.full(len(anchors), -1.0)
        if not len(truth):
            labels[chosen(np.arange(len(anchors)), self.BATCH)] = 0
            return labels, np.zeros((len(anchors), 4))
        alike = overlaps(anchors, truth)
        best = alike.max(axis=1)
        labels[best < self.UNLIKE] = 0
        labels[(alike == alike.max(axis=0)).any(axis=1) | (best >= self.ALIKE)] = 1
        objects, others = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
        labels[:] = -1
        objects = chosen(objects, self.OBJECTS)
        labels[objects] = 1
        labels[chosen(others, self.BATCH - len(objects))] = 0
        return labels, codes_between(anchors, truth[alike.argmax(axis=1)])


class ProposalTargetLayer(Targets):
    """What ``module: "rpn.proposal_target_layer"`` ``layer: "ProposalTargetLayer"`` means: regions to learn from.

    Bottoms: proposed regions (R, 5), rows (0, x1, y1, x2, y2); ground truth (G, 5), rows (x1, y1, x2, y2, label).
    Tops: regions (M, 5); labels (M, 1), 0 for no object; codes of boxes, their inside and their outside weights,
    (M, 4 K) each, for the K = ``'num_classes'`` of ``param_str``: only those of the label are not 0, or with two
    classes those of the second, whatever object it is.

    The regions and the ground truth itself: at most 32 that overlap an object by 0.5, of all at most 128.  Codes are
    divided by (0.1, 0.1, 0.2, 0.2), as py-faster-rcnn's end-to-end training has it.
    """

    bottoms = 2
    tops = 5
    BATCH, OBJECTS, ALIKE = 128, 32, 0.5
    DEVIATION = (0.1, 0.1, 0.2, 0.2)

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.classes = int(self.number("num_classes"))

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        rois, truth = bottom
        self.require(
            bool(rois.shape) and rois.count == 5 * rois.shape[0],
            f"the regions must be rows (0, x1, y1, x2, y2); found {rois.shape_string}",
            kind=ShapeError,
        )
        self.check_truth(truth)
        for blob, width in zip(top, (5, 1, *(4 * self.classes,) * 3), strict=True):
            blob.reshape(1, width)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require_finite(bottom[1], bottom[0])
        truth = bottom[1].data.astype(np.float64)
        rois = np.vstack([bottom[0].data.reshape(-1, 5), np.insert(truth[:, :4], 0, 0, axis=1)])
        alike = overlaps(rois[:, 1:], truth[:, :4]) if len(truth) else np.zeros((len(rois), 1))
        objects = chosen(np.flatnonzero(alike.max(axis=1) >= self.ALIKE), self.OBJECTS)
        others = np.flatnonzero(alike.max(axis=1) < self.ALIKE)
        kept = np.concatenate([objects, chosen(others, self.BATCH - len(objects))])
        nearest, labels = alike.argmax(axis=1)[objects], np.zeros(len(kept))
        labels[: len(objects)] = truth[nearest, 4]
        codes, weights = np.zeros((2, len(kept), self.classes, 4))
        if len(objects):
            slots = self._slots(labels[: len(objects)])
            codes[np.arange(len(objects)), slots] = codes_between(rois[objects, 1:], truth[nearest, :4])
            weights[np.arange(len(objects)), slots] = 1
        codes /= self.DEVIATION
        for blob, values in zip(top, (rois[kept], labels[:, None], codes, weights, weights), strict=True):
            blob.reshape(len(kept), blob.shape[1])
            blob.data[...] = values.reshape(blob.shape)

    def _slots(self, labels: NDArray) -> NDArray:
        """Which of the codes are those of objects of these labels."""
        good = (labels == np.floor(labels)) & (labels > 0) & ((labels < self.classes) | (self.classes == 2))
        if not good.all():
            raise self.data_error(
                f"found the label {labels[~good][0]:g} in the ground truth; expected 1 .. {self.classes - 1}, of the "
                "num_classes of param_str"
            )
        return np.minimum(labels, self.classes - 1).astype(int)
