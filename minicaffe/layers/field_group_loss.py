"""How far a region proposal network is from the ground truth at each cell (Cascade R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.fields import Bounds, Fields, planes_last
from minicaffe.kernels.reference import FLT_MIN
from minicaffe.layers.box_output import expect_fields
from minicaffe.layers.field_loss import BOOTSTRAP, MIXTURE, RANDOM, FieldLoss
from minicaffe.layers.field_truth import Truth, expect_groups
from minicaffe.layers.host_softmax import own, softmax
from minicaffe.layers.rpn_targets import chosen


class DetectionGroupLoss(FieldLoss):
    r"""Loss of a region proposal network (Cascade R-CNN, Cai and Vasconcelos 2018); see ``FieldLoss``.

    Bottoms: scores of classes (N A, ``cls_num``, H, W) and codes of boxes (N A, 4, H, W), of A fields ``field_w``,
    ``field_h``, ``stride`` (``boxes.fields``); ground truth (N A, 6, H, W) of DetectionData.  Top (1, 1, 1, 2).
    Of each item's cells those count that stand for an object, and of those without one whose field overlaps others by
    less than ``bg_threshold`` (0.5) ``bg_multiple`` (4) times as many, at least ``min_num_neg`` (5); or of
    ``batch_size`` cells 1 of 1 + ``bg_multiple`` are objects, as far as there are.  They are chosen at random, those
    without an object by ``neg_mining_type``: ``random``; ``bootstrap``, those with the largest losses, or with
    ``neg_ranking_type: "conf_prob"`` with the lowest probability of none; ``mixture``, half of them so.
    ``bbox_loss_type``: ``Smooth_L1`` or ``Euclidean_L2``.  Codes are bounded if ``field_whr`` and ``field_xyr`` are
    given.  ``pos_neg_weighted``: see ``balanced``.  ``objectness``: all objects are class 1.
    Computed on the host.  Source: cascade-rcnn, which writes the bounded codes into its bottom.
    """

    type = "DetectionGroupLoss"
    param = "detection_group_loss_param"
    bottoms = 3
    differentiable = forcible = (0, 1)
    field_h: Sequence[int]
    field_w: Sequence[int]
    stride: int
    field_whr: float
    field_xyr: float
    neg_mining_type: str
    neg_ranking_type: str
    min_num_neg: int
    batch_size: int
    bbox_loss_type: str
    CHOICES = (
        ("neg_mining_type", (RANDOM, BOOTSTRAP, MIXTURE)),
        ("neg_ranking_type", ("conf_loss", "conf_prob")),
        ("bbox_loss_type", ("Smooth_L1", "Euclidean_L2")),
    )

    def check_options(self) -> None:
        super().check_options()
        expect_fields(self, self.field_w, self.field_h, None, "group")
        self.require(self.stride > 0, "must be given, and positive", "stride")
        for field, known in self.CHOICES:
            value = getattr(self, field)
            self.require(value in known, f"must be one of {', '.join(known)}; found '{value}'", field)
        good = self.batch_size == -1 or self.batch_size > 0
        self.require(good, f"must be positive, or -1; found {self.batch_size}", "batch_size")
        self.require(self.field_xyr > 0, f"must be positive; found {self.field_xyr:g}", "field_xyr")
        self.require(self.field_whr >= 1, f"must be at least 1; found {self.field_whr:g}", "field_whr")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.fields = Fields(self.field_w, self.field_h, self.stride)
        expect_groups(self, self.fields, bottom)
        bounded = self.has("field_xyr") and self.has("field_whr")
        self.bounds = Bounds.of(self.field_xyr, self.field_whr).normalised(self.scaling()) if bounded else None
        self.smooth = self.bbox_loss_type == "Smooth_L1"

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        prob, codes, truth = (
            softmax(planes_last(bottom[0].data)),
            planes_last(bottom[1].data),
            Truth.of(self, bottom[2]),
        )
        ranks = self._ranks(prob, self.classes_of(truth))
        ranks = np.where(np.isnan(ranks), np.inf, ranks)  # not to be passed over in silence
        groups = (len(prob) // len(self.fields), len(self.fields) * bottom[0].span(2))
        free = (truth.labels == 0) & (truth.overlaps < self.bg_threshold)
        each = zip(*(part.reshape(groups) for part in (truth.labels > 0, free, ranks)), strict=True)
        counts = np.array([self._choose(*item) for item in each], bool).reshape(free.shape)
        self.compare(prob, codes, truth, counts, self.fields, top)

    def _ranks(self, prob: NDArray, labels: NDArray) -> NDArray:
        """By which cells (N A, H, W) without an object are ranked, the largest first."""
        if self.neg_ranking_type == "conf_prob":
            return 1 - prob[..., 0]
        return -np.log(np.maximum(own(prob, self.nearest_class(labels)), FLT_MIN))

    def _choose(self, objects: NDArray, free: NDArray, ranks: NDArray) -> NDArray:
        """Which cells (A H W,) of an item count."""
        places, others = np.flatnonzero(objects), np.flatnonzero(free)
        if self.batch_size == -1:
            many, few = len(places), max(len(places) * self.bg_multiple, self.min_num_neg)
        else:
            many = min(floor(self.batch_size / (1 + self.bg_multiple) + 0.5), len(places))
            few = self.batch_size - many
        found = np.zeros(len(objects), bool)
        found[chosen(places, many)] = True
        hard = {RANDOM: 0, BOOTSTRAP: few, MIXTURE: floor(few / 2 + 0.5)}[self.neg_mining_type]
        if len(others) > few:
            order = others[np.lexsort((-others, -ranks[others]))]  # of equal ranks the later cell
            found[order[:hard]] = True
            others = chosen(order[hard:], few - hard)
        found[others] = True
        return found

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        weight = top[0].diff.reshape(-1)[0]
        for i, slope in self.wanted(propagate_down, (0, self.score_slope), (1, self.code_slope)):
            bottom[i].diff[...] = np.moveaxis(slope, -1, 1) * weight
