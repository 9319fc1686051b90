"""MultiBoxLoss and MultiBoxFocalLoss: how far an SSD's boxes and confidences are from the ground truth."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from math import isfinite
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.priors import PriorBoxes
from minicaffe.errors import ShapeError
from minicaffe.kernels.reference import BATCH_SIZE, FLT_MIN, FULL, VALID
from minicaffe.layers.host_softmax import own, softmax
from minicaffe.layers.loss import Loss
from minicaffe.layers.multibox_examples import HARD_EXAMPLE, NO_MINING, SHARED, Examples
from minicaffe.layers.prior_bottoms import (
    expect_first_stage,
    expect_predictions,
    expect_priors,
    may_hold_objects,
    refined,
)

L2, SMOOTH_L1 = 0, 1
SOFTMAX, LOGISTIC = 0, 1


class MultiBoxLoss(Loss):
    r"""Loss of the boxes and confidences of an SSD (Liu et al. 2016; MultiBox, Erhan et al. 2014).

    .. math:: L = \frac{1}{D} \Big( \sum_{\text{chosen}} L_{conf} + \lambda \sum_{\text{matched}} L_{loc} \Big)

    Bottoms: codes of boxes (N, 4 P [classes]), confidences (N, P classes), prior boxes (1, 2, 4P), ground truth
    (1, 1, G, 8): rows of item (-1: none), label, instance, xmin, ymin, xmax, ymax, difficult.  Top: the loss, a scalar.
    Codes and confidences get gradients.  RefineDet (Zhang et al. 2018) has two more: the confidences of its first
    stage (N, 2 P), of no object and of any, and its codes (N, 4 P).  Then only priors with at least
    ``objectness_score`` for an object are mined, and all are first moved to where these codes say.  Where
    ``objectness_score`` is given and there are two classes, any label above 1 counts as 1.

    Each ground truth is matched with priors (``match_type``, ``overlap_threshold``, ``use_prior_for_matching``,
    ``use_difficult_gt``, ``ignore_cross_boundary_bbox``).  Chosen are these, and as negatives those of the others that
    ``mining_type`` picks (``neg_pos_ratio``, ``neg_overlap``, ``sample_size``, ``nms_param``, ``use_prior_for_nms``;
    see ``multibox_examples``), or all of them.  L_loc: ``loc_loss_type`` of the codes' differences (``code_type``,
    ``boxes.coding``); lambda: ``loc_weight``.  L_conf: ``conf_loss_type``.  D, at least 1: the number of matches
    (``loss_param.normalization`` VALID, the default), N P (FULL), N (BATCH_SIZE) or 1 (NONE).  ``propagate_down:
    false`` for the first or second bottom leaves its part out of the loss.

    Computed on the host: matching and mining go by values.
    Source: weiliu89/caffe, branch ssd.  There the gradient lacks a division by the variances if
    ``encode_variance_in_target``, items without ground truth have no negatives, and LOGISTIC without mining writes the
    targets of all items but the first in wrong places; all are kept.
    """

    type = "MultiBoxLoss"
    param = "multibox_loss_param"
    common_params: ClassVar[Sequence[str]] = ("loss_param",)
    bottoms = (4, 6)
    differentiable = forcible = (0, 1)
    reads_bottoms = ()
    empty_batch = True
    per_element = 0
    num_classes: int
    share_location: bool
    background_label_id: int
    use_difficult_gt: bool
    do_neg_mining: bool
    mining_type: int
    loc_loss_type: int
    conf_loss_type: int
    loc_weight: float
    code_type: int
    encode_variance_in_target: bool
    map_object_to_agnostic: bool
    bp_inside: bool
    use_prior_for_matching: bool
    use_prior_for_nms: bool
    sample_size: int
    neg_pos_ratio: float
    normalize: bool
    objectness_score: float

    def check_options(self) -> None:
        self.require(self.num_classes > 0, "must be given, and positive", "num_classes")
        self.require(
            not self.has("do_neg_mining") or self.do_neg_mining == (self._mining() != NO_MINING),
            "contradicts mining_type, which has replaced it; give only that",
            "do_neg_mining",
        )
        mines = self._mining() != NO_MINING
        self.require(not mines or self.share_location, "must be true for mining", "share_location")
        self.require(self._mining() != HARD_EXAMPLE or self.sample_size > 0, "must be positive", "sample_size")
        self.require(isfinite(self.neg_pos_ratio), "must be a finite number", "neg_pos_ratio")
        self.require(
            not self.map_object_to_agnostic or self.num_classes == 2,
            f"needs num_classes: 2, background and object; found {self.num_classes}",
            "map_object_to_agnostic",
        )
        self.require(
            self.conf_loss_type != SOFTMAX or self.background_label_id < self.num_classes,
            f"must be a class, 0 .. {self.num_classes - 1}, for a softmax; found {self.background_label_id}",
            "background_label_id",
        )

    def _mining(self) -> int:
        """``mining_type``, or the older ``do_neg_mining`` in its place."""
        by_older = self.has("do_neg_mining") and not self.has("mining_type")
        return NO_MINING if by_older and not self.do_neg_mining else self.mining_type

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        count = expect_priors(self, bottom[2])
        expect_predictions(self, bottom[0], count * 4 * (1 if self.share_location else self.num_classes), "location")
        expect_predictions(self, bottom[1], count * self.num_classes, "confidence")
        self.require(
            bottom[3].count % 8 == 0,
            f"the ground truth must be rows of 8; found {bottom[3].shape_string}",
            kind=ShapeError,
        )
        if len(bottom) > 4:
            expect_first_stage(self, bottom[4:], bottom[0].shape[0], count)
        self.options = copy.deepcopy(self.layer_param.multibox_loss_param)
        self.options.mining_type = self._mining()
        self.mines = self._mining() != NO_MINING
        self.counts_boxes, self.counts_confidences = (list(self.layer_param.propagate_down) or [True, True])[:2]
        default = BATCH_SIZE if self.has("normalize") and not self.normalize else VALID
        self.divides_by = self.given("normalization", default)

    # --- forward -------------------------------------------------------------------------------------------------

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        items, (codes, scores) = bottom[0].shape[0], self._predictions(bottom)
        given = PriorBoxes(bottom[2].data, self.code_type, self.encode_variance_in_target)
        priors = refined(given, bottom[5]) if len(bottom) == 6 else [given] * items
        self._check_matchable(priors, codes)
        examples = self._examples(items, bottom[3].data.reshape(-1, 8))
        eligible: Any = [None] * items
        if self.mines and len(bottom) > 4:
            eligible = may_hold_objects(self, bottom[4])
        for n, each in examples.items():
            each.match(self.options, priors[n], codes[n])
            if self.mines:
                self._mine(each, priors[n], codes[n], scores[n], eligible[n])
        self._compare_boxes(examples, priors, codes)
        self._compare_confidences(examples, scores)
        divisors = {FULL: items * codes.shape[1], VALID: len(self.difference), BATCH_SIZE: items}
        self.normalizer = max(divisors.get(self.divides_by, 1), 1)
        loss = 0.0
        if self.counts_boxes:
            loss += self.loc_weight * self._box_losses(self.difference).sum(dtype=np.float64)
        if self.counts_confidences:
            loss += self._confidence_losses(self.rows, self.target).sum(dtype=np.float64)
        top[0].data[...] = loss / self.normalizer

    def _predictions(self, bottom: Sequence[Blob]) -> tuple[NDArray, NDArray]:
        """Codes (N, P, 1 or classes, 4) and confidences (N, P, classes)."""
        of_codes, of_confidences = self._shapes(bottom)
        return bottom[0].data.reshape(of_codes), bottom[1].data.reshape(of_confidences)

    def _shapes(self, bottom: Sequence[Blob]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes in which ``_predictions`` are seen."""
        items, count = bottom[0].shape[0], bottom[2].span(2) // 4
        return (items, count, 1 if self.share_location else self.num_classes, 4), (items, count, self.num_classes)

    def _check_matchable(self, priors: list[PriorBoxes], codes: NDArray) -> None:
        """An error if NaN is among what ground truth is matched with."""
        self.require(
            not any(np.isnan(each.boxes).any() for each in priors), "the prior boxes must be numbers; found NaN"
        )
        self.require(
            self.use_prior_for_matching or not np.isnan(codes).any(),
            "the predicted boxes, which the ground truth is matched with, must be numbers; found NaN",
            "use_prior_for_matching",
        )

    def _examples(self, items: int, rows: NDArray) -> dict[int, Examples]:
        """The ground truth of each item that has one."""
        rows = rows[rows[:, 0] != -1]
        self.require(not np.isnan(rows).any(), "the ground truth must be numbers; found NaN in a row of it")
        self.require_whole(rows[:, :2], "the numbers of items and the labels in the ground truth")
        if self.num_classes == 2 and self.has("objectness_score"):
            rows = np.column_stack([rows[:, :1], np.minimum(rows[:, 1], 1), rows[:, 2:]])
        self._check_labels(rows[:, 1])
        if not self.use_difficult_gt:
            rows = rows[rows[:, 7] == 0]
        found = {n: rows[rows[:, 0].astype(int) == n] for n in range(items)}
        return {n: Examples(own) for n, own in found.items() if len(own)}

    def _check_labels(self, labels: NDArray) -> None:
        any_label = self.map_object_to_agnostic and not self.mines
        wrong = (labels == self.background_label_id) | (labels < 0)
        if not any_label:
            wrong |= labels >= self.num_classes
        if wrong.any():
            raise self.data_error(
                f"found the label {labels[wrong][0]:g} in the ground truth; expected one of the {self.num_classes} "
                f"classes other than the background, {self.background_label_id}",
                "num_classes",
            )

    def _mine(
        self, each: Examples, priors: PriorBoxes, codes: NDArray, scores: NDArray, eligible: NDArray | None
    ) -> None:
        """Let ``each`` choose the priors that count by their losses."""
        [(_, matched, truths)] = each.pairs()
        labels = np.full(len(priors), self.background_label_id)
        labels[matched] = each.labels[truths]
        losses = self._mining_losses(scores, labels)
        if self.options.mining_type == HARD_EXAMPLE:
            difference = self._box_differences(each.truth[truths], matched, codes[matched, 0], priors)
            losses[matched] += self._box_losses(difference).sum(axis=1)
        boxes = None
        if self.options.HasField("nms_param"):
            boxes = priors.boxes if self.use_prior_for_nms else priors.decode(codes[:, 0])
        each.mine(self.options, losses, boxes, eligible)

    def _compare_boxes(self, examples: dict[int, Examples], priors: list[PriorBoxes], codes: NDArray) -> None:
        """Set ``places``, the (item, prior, label) of each matched box, and ``difference``, of its code, (M, 4)."""
        places, differences = [np.empty((3, 0), int)], [np.empty((0, 4), codes.dtype)]
        for n, each in examples.items():
            for label, which, truths in each.pairs():
                slot = 0 if label == SHARED else label
                places.append(np.stack([np.full(len(which), n), which, np.full(len(which), slot)]))
                differences.append(self._box_differences(each.truth[truths], which, codes[n, which, slot], priors[n]))
        self.places, self.difference = np.concatenate(places, axis=1), np.concatenate(differences)

    def _box_differences(self, truth: NDArray, which: NDArray, codes: NDArray, priors: PriorBoxes) -> NDArray:
        """Predicted minus wanted codes (M, 4) of the priors numbered ``which``; 0 for coordinates of boxes that lie
        outside the image if ``bp_inside``."""
        variances = priors.variances[which]
        self.require((variances > 0).all(), "the variances of the prior boxes must be positive")
        difference = codes - priors.encode(truth, which)
        if self.bp_inside:
            boxes = priors.boxes if self.use_prior_for_matching else None
            box = boxes[which] if boxes is not None else self._decoded(priors, codes, which)
            difference[(box < 0) | (box > 1)] = 0
        return difference / variances if self.encode_variance_in_target else difference

    @staticmethod
    def _decoded(priors: PriorBoxes, codes: NDArray, which: NDArray) -> NDArray:
        everywhere = np.zeros_like(priors.boxes)
        everywhere[which] = codes
        return priors.decode(everywhere)[which]

    def _compare_confidences(self, examples: dict[int, Examples], scores: NDArray) -> None:
        """Set ``chosen``, the (item, prior) of each row of confidences that counts, ``rows`` (M, classes), and
        ``target``, their labels (M,), or for LOGISTIC what they should be (M, classes)."""
        items, count, classes = scores.shape
        if self.mines:
            found = [np.empty((3, 0), int)]
            for n, each in examples.items():
                for _, which, truths in each.pairs():
                    found.append(np.stack([np.full(len(which), n), which, self._labels(each, truths)]))
                negatives = np.full(len(each.negatives), self.background_label_id)
                found.append(np.stack([np.full(len(negatives), n), each.negatives, negatives]))
            item, prior, label = np.concatenate(found, axis=1)
            self.chosen, self.rows = (item, prior), scores[item, prior]
            self.target = label if self.conf_loss_type == SOFTMAX else self._one_hot(label)
            return
        item, prior = np.indices((items, count)).reshape(2, -1)
        self.chosen, self.rows = (item, prior), scores[item, prior]  # a copy: backward reads no bottom
        logistic = self.conf_loss_type == LOGISTIC
        self.target = np.zeros(self.rows.shape, int) if logistic else np.full(len(self.rows), self.background_label_id)
        for n, each in examples.items():
            for _, which, truths in each.pairs():
                labels = self._labels(each, truths)
                if logistic:  # n * count, not n * count * classes, is where the fork lets an item begin
                    self.target.reshape(-1)[n * count + which * classes + labels] = 1
                else:
                    self.target[n * count + which] = labels

    def _labels(self, each: Examples, truths: NDArray) -> NDArray:
        if self.map_object_to_agnostic:
            return np.full(len(truths), self.background_label_id + 1)
        return each.labels[truths]

    # --- losses and gradients --------------------------------------------------------------------------------------

    def _box_losses(self, difference: NDArray) -> NDArray:
        half = difference * difference / 2
        if self.loc_loss_type == L2:
            return half
        size = np.abs(difference)
        return np.where(size < 1, half, size - difference.dtype.type(0.5))

    def _box_gradient(self, difference: NDArray) -> NDArray:
        return difference if self.loc_loss_type == L2 else np.clip(difference, -1, 1)

    def _one_hot(self, labels: NDArray) -> NDArray:
        """1 at each label's class, (M, classes); nothing where the label is no class."""
        return (labels[:, None] == np.arange(self.num_classes)).astype(int)

    def _mining_losses(self, scores: NDArray, labels: NDArray) -> NDArray:
        """By which priors are ranked, (P,): cross entropy, of a softmax or summed over the classes."""
        if self.conf_loss_type == SOFTMAX:
            return -np.log(np.maximum(own(softmax(scores), labels), FLT_MIN))
        return _logistic_losses(scores, self._one_hot(labels)).sum(axis=1)

    def _confidence_losses(self, rows: NDArray, target: NDArray) -> NDArray:
        if self.conf_loss_type == LOGISTIC:
            return _logistic_losses(rows, target)
        return self._softmax_losses(own(softmax(rows), target))

    def _confidence_gradient(self, rows: NDArray, target: NDArray) -> NDArray:
        if self.conf_loss_type == LOGISTIC:
            return np.tanh(rows / 2) / 2 + rows.dtype.type(0.5) - target
        prob = softmax(rows)
        return self._softmax_slope(own(prob, target))[:, None] * (prob - self._one_hot(target))

    def _softmax_losses(self, p: NDArray) -> NDArray:
        """The losses for probabilities p (M,) of the right classes."""
        return -np.log(np.maximum(p, FLT_MIN))

    def _softmax_slope(self, p: NDArray) -> NDArray:
        """What multiplies the gradient of the plain cross entropy, softmax minus target."""
        return np.ones_like(p)

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        weight = top[0].diff[()] / self.normalizer
        of_codes, of_confidences = self._shapes(bottom)
        if propagate_down[0]:
            gradient = self._cleared(bottom[0], of_codes)
            gradient[tuple(self.places)] = self._box_gradient(self.difference) * (self.loc_weight * weight)
        if propagate_down[1]:
            gradient = self._cleared(bottom[1], of_confidences)
            gradient[self.chosen] = self._confidence_gradient(self.rows, self.target) * weight

    @staticmethod
    def _cleared(blob: Blob, shape: tuple[int, ...]) -> Any:
        blob.diff.fill(0)
        return blob.diff.reshape(shape)


class MultiBoxFocalLoss(MultiBoxLoss):
    """MultiBoxLoss with the focal loss (Lin et al. 2017) in the place of the softmax's cross entropy.

    ``focal_loss_param``: ``alpha`` (0.25) and ``gamma`` (2), as for FocalLoss; mining ranks by plain cross entropy.
    Source: jolibrain/caffe.
    """

    type = "MultiBoxFocalLoss"
    common_params = ("loss_param", "focal_loss_param")

    alpha: float
    gamma: float

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.balance = self.given("alpha", 0.25)

    def _softmax_losses(self, p: NDArray) -> NDArray:
        return self.balance * (1 - p) ** self.gamma * super()._softmax_losses(p)

    def _softmax_slope(self, p: NDArray) -> NDArray:
        rest = np.where(p < 1, 1 - p, 1)
        slope = 1 - p - self.gamma * p * np.log(np.maximum(p, FLT_MIN))
        return np.where(p < 1, self.balance * rest ** (self.gamma - 1) * slope, 0)


def _logistic_losses(scores: NDArray, target: NDArray) -> NDArray:
    """Cross entropy of each sigmoid and its target."""
    positive = scores >= 0
    return np.log1p(np.exp(-np.abs(scores))) - scores * (target - positive)
