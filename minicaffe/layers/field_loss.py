"""How far maps of scores and codes of boxes are from the ground truth at each cell (MS-CNN)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minicaffe.backend.random import stream
from minicaffe.blob import Blob
from minicaffe.boxes.fields import Bounds, Fields, planes_last
from minicaffe.kernels.reference import FLT_MIN
from minicaffe.layers.box_codes import Coded
from minicaffe.layers.field_truth import Truth, check_field_options, field_of
from minicaffe.layers.host_softmax import own, softmax
from minicaffe.layers.loss import Loss

MIXTURE, BOOTSTRAP, RANDOM = "mixture", "bootstrap", "random"


class FieldLoss(Loss, Coded):
    r"""Base: cross entropy of the cells that count, and the loss of the codes of those that stand for an object.

    .. math:: L = \frac{1}{M} \sum_i w_i \, (-\log p_{i, y_i}) + \frac{\lambda}{4 M^+} \sum_i \sum_k f(t_{ik} - g_{ik})

    Top (1, 1, 1, 2): L, and the part of the codes.  Codes t are bounded before they are compared, and the gradient
    ignores that.
    """

    common_params: ClassVar[Sequence[str]] = ("loss_param", "bbox_reg_param")
    reads_bottoms = ()
    empty_batch = True
    per_element = 0
    cls_num: int
    bg_threshold: float
    bg_multiple: int
    objectness: bool
    pos_neg_weighted: bool
    smooth: bool
    bounds: Bounds | None

    def check_options(self) -> None:
        Coded.check_options(self)
        self.require(self.cls_num > 1, f"must be given, 2 or more; found {self.cls_num}", "cls_num")
        self.require(not self.objectness or self.cls_num == 2, f"needs cls_num: 2; found {self.cls_num}", "objectness")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        top[0].reshape(1, 1, 1, 2)
        self.ignored = self.given("ignore_label", None)

    def classes_of(self, truth: Truth) -> NDArray:
        """The label that each cell is to have."""
        labels = np.minimum(truth.labels, 1) if self.objectness else truth.labels
        bad = (labels < 0) | (labels >= self.cls_num)
        if self.ignored is not None:
            bad &= labels != self.ignored
        if bad.any():
            raise self.data_error(
                f"found the label {labels[bad][0]} in the ground truth; expected 0 .. {self.cls_num - 1}", "cls_num"
            )
        return labels

    def compare(
        self, prob: NDArray, codes: NDArray, truth: Truth, chosen: NDArray, fields: Fields, top: Sequence[Blob]
    ) -> None:
        """Fill the top, for probabilities (N, H, W, C), codes (N, H, W, 4) and the cells (N, H, W) that are chosen;
        keep the gradients."""
        labels = self.classes_of(truth)
        counts = chosen if self.ignored is None else chosen & (labels != self.ignored)
        target = labels[..., None] == np.arange(self.cls_num)
        weights = self.weights(truth, chosen).astype(prob.dtype)
        losses = np.where(counts, -np.log(np.maximum(own(prob, self.nearest_class(labels)), FLT_MIN)) * weights, 0)
        total = max(int(counts.sum()), 1)
        self.score_slope = np.where(counts[..., None], (prob - target) * weights[..., None], 0) / total
        objects = counts & (truth.labels != 0)
        targets = self.scaling().normalised(fields.encode(truth.boxes))
        codes = codes if self.bounds is None else self.bounds.clip(codes)
        difference = np.where(objects[..., None], codes - targets, 0).astype(codes.dtype)
        half, size = difference * difference / 2, np.abs(difference)
        each = np.where(size < 1, half, size - 0.5) if self.smooth else half
        slope = np.clip(difference, -1, 1) if self.smooth else difference
        share = getattr(self, "lambda") / max(4 * int(objects.sum()), 1)
        self.code_slope = slope * share
        parts = losses.sum() / total, share * each.sum()
        top[0].data[...] = np.array([sum(parts), parts[1]]).reshape(top[0].shape)

    def nearest_class(self, labels: NDArray) -> NDArray:
        """The labels, but a class where they are the ignored one, which may be none."""
        return np.clip(labels, 0, self.cls_num - 1)

    def weights(self, truth: Truth, chosen: NDArray) -> NDArray:
        """Of each cell (N, H, W)."""
        return self.balanced(np.ones(truth.labels.shape), truth.labels != 0, chosen)

    def balanced(self, weights: NDArray, objects: NDArray, chosen: NDArray) -> NDArray:
        """The weights, scaled so that of all that are chosen 1 of 1 + ``bg_multiple`` are objects, if
        ``pos_neg_weighted``."""
        if not self.pos_neg_weighted:
            return weights
        share = 1 / (1 + self.bg_multiple)
        for which, part in ((objects & chosen, share), (~objects & chosen, 1 - share)):
            total = weights[which].sum()
            if total:
                weights[which] *= part * chosen.sum() / total
        return weights


class DetectionLoss(FieldLoss):
    r"""Loss of a map of scores and codes of boxes (MS-CNN, Cai et al. 2016); see ``FieldLoss``.

    Bottoms: scores of classes and codes (N, ``cls_num`` + 4, H, W); ground truth (N, 6, H, W) of ImageGtData.  Top
    (1, 1, 1, 2).  All objects count, and of the cells without one whose field overlaps others by less than
    ``bg_threshold`` (0.5) as many as ``sample_mode`` takes: ``random``, ``bg_multiple`` (4) times as many as objects,
    drawn with repetitions; ``bootstrap``, so many of the highest scores of each class; ``mixture``, half as many of
    both; others, all.  f: absolute values, below 1 half the squares; squares with ``bb_smooth: false``.  lambda:
    ``lambda``.  ``field_w``, ``field_h``, ``downsample_rate``, ``field_whr`` and ``field_xyr``: ``boxes.fields``.
    ``iou_weighted``: objects weigh by their overlap; ``pos_neg_weighted``: see ``balanced``.  ``objectness``: all
    objects are class 1.  Computed on the host.  Source: mscnn.
    """

    type = "DetectionLoss"
    param = "detection_loss_param"
    coord_num: int
    field_h: int
    field_w: int
    downsample_rate: int
    bb_smooth: bool
    field_whr: float
    field_xyr: float
    sample_mode: str
    iou_weighted: bool

    def check_options(self) -> None:
        super().check_options()
        check_field_options(self)
        self.require(self.field_xyr > 0, "must be given, and positive", "field_xyr")
        self.require(self.field_whr >= 1, f"must be at least 1; found {self.field_whr:g}", "field_whr")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.fields = field_of(self, bottom)
        self.bounds = Bounds.of(self.field_xyr, self.field_whr).normalised(self.scaling())
        self.smooth = self.bb_smooth

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        maps, truth = planes_last(bottom[0].data), Truth.of(self, bottom[1])
        labels = self.classes_of(truth)
        free = (truth.labels == 0) & (truth.overlaps < self.bg_threshold)
        found = [self._negatives(*each) for each in zip(maps, labels, free, strict=True)]
        counts = (truth.labels != 0) | np.array(found, bool).reshape(free.shape)
        self.compare(softmax(maps[..., :-4]), maps[..., -4:], truth, counts, self.fields, top)

    def _negatives(self, maps: NDArray, labels: NDArray, free: NDArray) -> NDArray:
        """Which of the ``free`` cells (H, W) of an item count, given its scores and labels."""
        share = 0.5 if self.sample_mode == MIXTURE else 1
        found = np.zeros(free.size, bool)
        if self.sample_mode not in (RANDOM, BOOTSTRAP, MIXTURE):
            return free
        if self.sample_mode != BOOTSTRAP:
            count = max(int((labels != 0).sum() * self.bg_multiple * share), 4 * (self.cls_num - 1))
            found[stream().draws(count) % free.size] = True
        maps = np.where(np.isnan(maps), np.inf, maps)  # not to be passed over in silence
        places = np.flatnonzero(free)[::-1]  # of equal scores the later cell
        for c in range(1, self.cls_num if self.sample_mode != RANDOM else 0):
            count = max(int((labels == c).sum() * self.bg_multiple * share), 4)
            scores = maps[..., c].reshape(-1)[places]
            found[places[np.argsort(-scores, kind="stable")[:count]]] = True
        return found.reshape(free.shape) & free

    def weights(self, truth: Truth, chosen: NDArray) -> NDArray:
        objects = truth.labels != 0
        weights = np.where(objects & self.iou_weighted, truth.overlaps, 1).astype(np.float64)
        return self.balanced(weights, objects, chosen) if weights[objects].sum() else weights

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            slopes = np.concatenate([self.score_slope, self.code_slope], axis=-1)
            bottom[0].diff[...] = np.moveaxis(slopes, -1, 1) * top[0].diff.reshape(-1)[0]


class Detection(DetectionLoss):
    """DetectionLoss as MS-CNN had it first, with its options in ``detection_param``."""

    type = "Detection"
    param = "detection_param"
