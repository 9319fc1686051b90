"""DetectionOutput: from an SSD's predictions to the boxes that it found."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes import coding, geometry
from minicaffe.boxes.priors import PriorBoxes
from minicaffe.errors import ShapeError
from minicaffe.kernels.cpu.boxes import best_first, suppress
from minicaffe.layers.base import Count, Layer
from minicaffe.layers.prior_bottoms import (
    expect_first_stage,
    expect_predictions,
    expect_priors,
    may_hold_objects,
    refined,
)

_log = logging.getLogger(__name__)


class DetectionOutput(Layer):
    """Decode the boxes that an SSD predicts, keep the best of each class, and drop those that overlap them.

    Bottoms: codes of boxes (N, 4 P [classes]), confidences (N, P classes), prior boxes (1, 2, 4P); a fourth (the
    images) is ignored, but see below.  Top (1, 1, K, 7): a row for each box found: item, label, confidence, xmin, ymin,
    xmax, ymax relative to the image, ordered by item, label, falling confidence.  If nothing at all is found, a row
    (item, -1, -1, …) for each item.

    For each item and class but ``background_label_id``: the ``nms_param.top_k`` most confident boxes above
    ``confidence_threshold``; of those, the ones that overlap no better one by more than ``nms_param.nms_threshold``
    (see ``kernels.reference.boxes.suppress`` for ``eta``); of all classes together the best ``keep_top_k``.
    ``share_location: false``: codes for each class.  ``code_type``, ``variance_encoded_in_target``: see
    ``boxes.coding``.  ``clip`` (OpenCV): boxes end where the image does.

    RefineDet (Zhang et al. 2018) has two more bottoms: confidences of its first stage (N, 2 P), of no object and of
    any, and its codes (N, 4 P).  Priors with less than ``objectness_score`` for an object find nothing; the others are
    first moved to where these codes say.  Without the codes the fourth bottom is that if ``objectness_score`` is given.

    TextBoxes++ (Liao et al. 2018), said by ``use_polygon``, has codes (N, 12 P [classes]), of which the last 8 of a
    prior are those of a quadrilateral, and rows of 15 numbers, which end with its corners, x1, y1, …, x4, y4; boxes
    alone decide which are dropped.  It needs ``code_type: CENTER_SIZE``, and no ``variance_encoded_in_target``.

    ``save_output_param`` and ``visualize`` are without effect, and logged so.
    Computed on the host, since the number of boxes depends on their values: a device is waited for.
    Source: weiliu89/caffe, branch ssd.  Of equally confident boxes the one of the lower prior wins.
    """

    type = "DetectionOutput"
    param = "detection_output_param"
    bottoms: Count = (3, 5)
    differentiable = forcible = ()
    reads_bottoms = reads_tops = ()
    per_element = 0
    num_classes: int
    share_location: bool
    background_label_id: int
    nms_param: Any
    code_type: int
    keep_top_k: int
    variance_encoded_in_target: bool
    confidence_threshold: float
    clip: bool
    normalized_bbox: bool
    save_output_param: Any
    visualize: bool
    nms_threshold: float
    top_k: int
    objectness_score: float
    use_polygon: bool

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.save_output_param.output_directory or self.visualize:
            _log.warning(
                "layer '%s' (DetectionOutput): save_output_param and visualize are without effect: no files are "
                "written, and no window is opened; 'minicaffe detect --draw' does both",
                self.name,
            )

    def check_options(self) -> None:
        self.require(self.num_classes > 0, "must be given, and positive", "num_classes")
        self.require(
            not self.use_polygon or (self.code_type == coding.CENTER_SIZE and not self.variance_encoded_in_target),
            "needs code_type: CENTER_SIZE, and no variance_encoded_in_target",
            "use_polygon",
        )
        self.require(self.normalized_bbox, "boxes in pixels are not in minicaffe", "normalized_bbox")
        overlap, _, eta = self._suppression()
        self.require(overlap >= 0, f"nms_threshold must not be negative; found {overlap:g}", "nms_param")
        self.require(0 < eta <= 1, f"eta must lie above 0 and not above 1; found {eta:g}", "nms_param")

    def _suppression(self) -> tuple[float, int, float]:
        """Threshold, number of candidates and eta: ``nms_param``, or the two fields that stand for it in older
        definitions."""
        nms, old = self.nms_param, not self.has("nms_param")
        overlap = self.nms_threshold if old and self.has("nms_threshold") else nms.nms_threshold
        limit = self.top_k if old and self.has("top_k") else nms.top_k if nms.HasField("top_k") else -1
        return overlap, limit, nms.eta

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        codes, confidences, priors = bottom[:3]
        self.require(
            codes.shape[:1] == confidences.shape[:1],
            f"codes and confidences must be of equally many items; found {codes.shape_string} and "
            f"{confidences.shape_string}",
            kind=ShapeError,
        )
        count = expect_priors(self, priors)
        self.numbers = 12 if self.use_polygon else 4
        expect_predictions(
            self, codes, count * self.numbers * (1 if self.share_location else self.num_classes), "location"
        )
        expect_predictions(self, confidences, count * self.num_classes, "confidence")
        self._expect_first_stage(bottom, count)
        self.threshold = self.given("confidence_threshold", -np.inf)
        self.overlap, self.most, self.eta = self._suppression()
        self.classes = [label for label in range(self.num_classes) if label != self.background_label_id]
        top[0].reshape(1, 1, 1, 3 + self.numbers)

    def _expect_first_stage(self, bottom: Sequence[Blob], count: int) -> None:
        """Note whether there are predictions of RefineDet's first stage; errors unless they fit."""
        self.has_objectness = len(bottom) == 5 or (len(bottom) == 4 and self.has("objectness_score"))
        if self.has_objectness:
            expect_first_stage(self, bottom[3:], bottom[0].shape[0], count)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        priors = PriorBoxes(bottom[2].data, self.code_type, self.variance_encoded_in_target)
        count, items = len(priors), bottom[0].shape[0]
        codes = bottom[0].data.reshape(items, count, -1, self.numbers)
        confidences = bottom[1].data.reshape(items, count, self.num_classes)
        self.require(not np.isnan(confidences).any(), "the confidences must be numbers; found NaN")
        if self.has_objectness:
            nothing = np.arange(self.num_classes) == self.background_label_id
            confidences = np.where(may_hold_objects(self, bottom[3])[..., None], confidences, nothing)
        places = refined(priors, bottom[4]) if len(bottom) == 5 else [priors] * items
        rows = [self._detect(n, places[n], codes[n], confidences[n]) for n in range(items)]
        found = np.concatenate(rows) if rows else np.empty((0, 3 + self.numbers))
        if len(found) == 0:
            found = np.full((items, 3 + self.numbers), -1.0)
            found[:, 0] = np.arange(items)
        top[0].reshape(1, 1, *found.shape)
        top[0].data[0, 0] = found

    def _detect(self, item: int, priors: PriorBoxes, codes: NDArray, confidences: NDArray) -> NDArray:
        """The rows of one item: codes (P, 1 or classes, 4 or 12), confidences (P, classes)."""
        decoded = [self._decode(priors, codes[:, 0])] if self.share_location else None
        labels, boxes, corners, scores = [], [], [], []
        for label in self.classes:
            order = best_first(confidences[:, label], self.threshold, self.most)
            if len(order) == 0:
                continue
            candidates = decoded[0] if decoded else self._decode(priors, codes[:, label])
            kept = suppress(candidates, order, self.overlap, self.eta)
            labels.append(np.full(len(kept), label))
            boxes.append(candidates[kept])
            if self.use_polygon:
                corners.append(priors.decode_corners(codes[:, 0 if self.share_location else label, 4:])[kept])
            scores.append(confidences[kept, label])
        if not labels:
            return np.empty((0, 3 + self.numbers))
        places = [*_columns(boxes), *(_columns(corners) if corners else ())]
        rows = np.column_stack(
            [np.full(sum(map(len, labels)), item), np.concatenate(labels), np.concatenate(scores), *places]
        )
        return self._best(rows)

    def _decode(self, priors: PriorBoxes, codes: NDArray) -> NDArray:
        boxes = priors.decode(codes[..., :4])
        return np.ascontiguousarray(geometry.clip(boxes) if self.clip else boxes)

    def _best(self, rows: NDArray) -> NDArray:
        """At most ``keep_top_k`` rows, still ordered by label; of equally confident ones the first."""
        if self.keep_top_k < 0 or len(rows) <= self.keep_top_k:
            return rows
        best = np.argsort(-rows[:, 2], kind="stable")[: self.keep_top_k]
        return rows[best[np.argsort(rows[best, 1], kind="stable")]]


def _columns(boxes: list[NDArray]) -> NDArray:
    return np.concatenate(boxes).T
