"""Connectionist temporal classification (Graves et al. 2006): its losses, the greedy decoder, accuracies of sequences.

All compute on the host: how far each sequence goes depends on values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count, Layer
from minicaffe.layers.loss import Loss

IMPOSSIBLE = -np.inf
"""The logarithm of no probability."""


class CtcLoss(Loss):
    r"""How unlikely label sequences are, however they are spread over the steps (Graves et al. 2006; warp-ctc).

    .. math:: L = -\frac{1}{N} \sum_n \log \sum_{\pi: B(\pi) = l_n} \prod_t \mathrm{softmax}(x_{tn})_{\pi_t}

    B drops repeats, then blanks.  Bottoms: scores x (T, N, C); labels (N, L), integers in 0 .. C - 1, of which blanks
    are skipped.  Top: the loss, a scalar.  ``ctc_loss_param``: ``blank_label`` (0); ``time_step``, the steps that count
    (default: T); ``alphabet_size``, which must be C.  A label sequence for which there are too few steps costs 0.
    DeepDetect: the gradient is that of the sum over the batch, not of the mean.
    On the host.
    """

    type = "CtcLoss"
    param = "ctc_loss_param"
    reads_bottoms = ()
    per_element = 20
    time_step: int
    alphabet_size: int
    blank_label: int

    OF_OTHERS = ("output_delay", "preprocess_collapse_repeated", "loss_calculation_t")

    def check_options(self) -> None:
        for field in (*self.OF_OTHERS, "blank_index"):
            self.require(not self.has(field), "is of ChWick's CTCLoss, which is not supported; see blank_label", field)
        self.require(self.given("ctc_merge_repeated", True), "is of ChWick's CTCLoss", "ctc_merge_repeated")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, labels = bottom
        fits = len(x.shape) >= 3 and x.span(3) == 1 and labels.shape[:1] == x.shape[1:2]
        self.require(
            fits, f"must be (T, N, C) and (N, L); found {x.shape_string} and {labels.shape_string}", kind=ShapeError
        )
        self.require(x.count > 0, f"has no scores; found {x.shape_string}", kind=ShapeError)
        steps, _, classes = x.shape[:3]
        self.require(
            self.time_step <= steps, f"must not be more than there are, {steps}; found {self.time_step}", "time_step"
        )
        self.require(
            self.alphabet_size in (0, classes), f"must be the scores' {classes}; found {self.alphabet_size}",
            "alphabet_size",
        )  # fmt: skip
        self.require(
            0 <= self.blank_label < classes, f"must be one of {classes} classes; found {self.blank_label}",
            "blank_label",
        )  # fmt: skip
        self.steps = self.time_step or steps
        self.gradient = np.zeros((0, 0, 0), self.dtype)
        self.bad_label = self.flag("bad_label")
        top[0].reshape()

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, labels = bottom
        self.check_indices(labels.xdata.reshape(-1), x.shape[2], self.bad_label, hint=" among the labels")
        scores = x.data.reshape(x.shape[:3])[: self.steps].astype(np.float64)
        log_prob = scores - scores.max(axis=2, keepdims=True)
        log_prob -= np.log(np.exp(log_prob).sum(axis=2, keepdims=True))
        losses, self.gradient = ctc(log_prob, labels.data.reshape(x.shape[1], -1).astype(int), self.blank_label)
        lost = np.isnan(scores).any(axis=(0, 2))  # a sequence that cannot be read costs nothing, one of NaN must not
        losses[lost], self.gradient[:, lost] = np.nan, np.nan
        top[0].data[...] = losses.mean()

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            dx = bottom[0].diff.reshape(bottom[0].shape[:3])
            dx[: self.steps] = self.gradient * top[0].diff
            dx[self.steps :] = 0


class WarpCTCLoss(CtcLoss):
    """CtcLoss under the name that it has in caffe_ocr, with its two bottoms.

    Bottoms: scores (T, N, C); labels (N, L), of which blanks, 0, are skipped.  Top: the loss, a scalar.
    caffe_ocr: the gradient does not look at ``loss_weight``, which is obeyed here.
    On the host.
    """

    type = "WarpCTCLoss"


class CTCGreedyDecoder(Layer):
    """The likeliest class of each step, without repeats and blanks (caffe_ocr), or how close that is to labels.

    Bottoms: scores (T, N, C); optionally labels (N, L), of which blanks are skipped and a negative one ends a sequence.
    Top: the sequences, (N, T, 1, 1), -1 behind their ends and for scores of NaN; or, with labels, (1, 2, 1, 1): 1 less
    the mean of edit distance over the longer length, and the share of sequences that are right; one that should be and
    is empty counts in the first only.  ``ctc_decoder_param``: ``blank_index`` (0; -1 is the last class),
    ``ctc_merge_repeated`` (true).
    On the host.
    """

    type = "CTCGreedyDecoder"
    param = "ctc_decoder_param"
    bottoms: Count = (1, 2)
    differentiable = ()
    reads_bottoms = reads_tops = ()
    per_element = 1
    blank_index: int
    ctc_merge_repeated: bool

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        self.require(
            len(x.shape) >= 3 and x.span(3) == 1 and x.shape[2] > 0,
            f"the scores must be (T, N, C); found {x.shape_string}",
            kind=ShapeError,
        )
        steps, num, classes = x.shape[:3]
        self.blank = self.given("blank_index", 0)
        self.blank = classes - 1 if self.blank < 0 else self.blank
        if len(bottom) > 1:
            self.require(
                bottom[1].shape[:1] == (num,),
                f"the labels must be (N, L), N = {num}; found {bottom[1].shape_string}.  Where sequences go on, "
                "(T, N), is for ChWick's CTCGreedyDecoder, which is not supported",
                kind=ShapeError,
            )
            self.require(num > 0, f"the batch has no sequences; found {x.shape_string}", kind=ShapeError)
            top[0].reshape(1, 2, 1, 1)
        else:
            top[0].reshape(num, steps, 1, 1)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x = bottom[0]
        best = best_classes(x.data.reshape(x.shape[:3])).T if x.count else np.zeros(x.shape[1::-1], int)
        found = [collapsed(steps, self.blank, self.ctc_merge_repeated) for steps in best]
        if len(bottom) > 1:
            top[0].data[...] = np.reshape(self._agreement(found, bottom[1].data.reshape(len(found), -1)), top[0].shape)
            return
        top[0].data.fill(-1)
        for row, sequence in zip(top[0].data[:, :, 0, 0], found, strict=True):
            row[: len(sequence)] = sequence

    def _agreement(self, found: list[list[int]], labels: NDArray) -> tuple[float, float]:
        self.require_whole(labels, "labels")
        distance, right = 0.0, 0
        for sequence, row in zip(found, labels, strict=True):
            ends = np.flatnonzero(row < 0)
            target = [int(label) for label in row[: ends[0] if len(ends) else None] if label != self.blank]
            if longest := max(len(target), len(sequence)):
                edits = edit_distance(target, sequence)
                distance += edits / longest
                right += edits == 0
        return 1 - distance / len(found), right / len(found)


class LabelsequenceAccuracy(Layer):
    """The share of sequences that are read without a mistake, after repeats and blanks are dropped (DeepDetect).

    Bottoms: scores (N, T, C); labels (N, L), of which blanks are skipped.  Top: the accuracy, a scalar.
    ``blank_label``: 0.
    On the host.
    """

    type = "LabelsequenceAccuracy"
    param = "labelsequence_accuracy_param"
    bottoms = 2
    differentiable = ()
    reads_bottoms = reads_tops = ()
    per_element = 1
    blank_label: int

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        x, labels = bottom
        self.require(
            len(x.shape) >= 3 and x.span(3) == 1 and x.count > 0 and labels.shape[:1] == x.shape[:1],
            f"must be (N, T, C) and (N, L); found {x.shape_string} and {labels.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape()

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        best = best_classes(bottom[0].data.reshape(bottom[0].shape[:3]))
        labels = bottom[1].data.reshape(len(best), -1)
        self.require_whole(labels, "labels")
        hits = [
            collapsed(steps, self.blank_label, True) == [label for label in row if label != self.blank_label]
            for steps, row in zip(best, labels, strict=True)
        ]
        top[0].data[...] = sum(hits) / len(hits)


def best_classes(scores: NDArray) -> NDArray:
    """The classes with the highest of scores (…, C); -1, which none is, where one of them is NaN."""
    return np.where(np.isnan(scores).any(axis=-1), -1, scores.argmax(axis=-1))


def collapsed(steps: NDArray, blank: int, merges: bool) -> list[int]:
    """The classes of steps without blanks and, where it ``merges``, repeats that no blank divides."""
    before = np.concatenate([[-2], steps[:-1]])
    return steps[(steps != blank) & ~(merges & (steps == before))].tolist()


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """The least number of insertions, deletions and replacements that make b of a (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def ctc(log_prob: NDArray, labels: NDArray, blank: int) -> tuple[NDArray, NDArray]:
    """Losses (N,) of label sequences (N, L), blanks in them skipped, and the gradient of their sum with respect to
    scores, (T, N, C), whose softmax has the logarithms ``log_prob`` (T, N, C); 0 where there are too few steps.

    Forward and backward sums over the states of Graves et al. 2006, section 4.1: blank, label, blank, …, blank.
    """
    steps, num, classes = log_prob.shape
    lengths = (labels != blank).sum(axis=1)
    states = np.full((num, 2 * lengths.max(initial=0) + 1), blank)
    for row, own, length in zip(states, labels, lengths, strict=True):
        row[1 : 2 * length : 2] = own[own != blank]
    skips = np.zeros(states.shape, bool)
    skips[:, 2:] = (states[:, 2:] != blank) & (states[:, 2:] != states[:, :-2])
    emitted = np.take_along_axis(log_prob, states[None], axis=2)
    inside = np.arange(states.shape[1]) <= 2 * lengths[:, None]
    begins = np.where(inside & (np.arange(states.shape[1]) < 2), 0.0, IMPOSSIBLE)
    ends = np.where(inside & (np.arange(states.shape[1]) >= 2 * lengths[:, None] - 1), 0.0, IMPOSSIBLE)

    reached = np.empty(emitted.shape)
    reached[0] = begins + emitted[0]
    for t in range(1, steps):
        reached[t] = _summed(reached[t - 1], skips, 1) + np.where(inside, emitted[t], IMPOSSIBLE)
    left = np.empty(emitted.shape)
    left[-1] = ends
    skips_on = np.zeros(states.shape, bool)
    skips_on[:, :-2] = skips[:, 2:]
    for t in range(steps - 1, 0, -1):
        left[t - 1] = _summed(left[t] + emitted[t], skips_on, -1)

    total = np.logaddexp.reduce(reached[-1] + ends, axis=1)
    possible = np.isfinite(total)
    losses = np.where(possible, -total, 0.0)
    share = np.exp(reached + left - np.where(possible, total, 0.0)[:, None]) * possible[:, None]
    gradient = np.exp(log_prob) * possible[:, None]
    step, item = np.ogrid[:steps, :num]
    np.subtract.at(gradient, (step[..., None], item[..., None], states[None]), share)
    return losses, gradient


def _summed(values: NDArray, skips: NDArray, way: int) -> NDArray:
    """From each state (N, S) and its neighbours before (``way`` 1) or behind (-1), two away where it ``skips``."""
    near, far = (np.full(values.shape, IMPOSSIBLE) for _ in range(2))
    ahead, behind = (slice(1, None), slice(None, -1)) if way > 0 else (slice(None, -1), slice(1, None))
    near[:, ahead] = values[:, behind]
    ahead, behind = (slice(2, None), slice(None, -2)) if way > 0 else (slice(None, -2), slice(2, None))
    far[:, ahead] = values[:, behind]
    return np.logaddexp(np.logaddexp(values, near), np.where(skips, far, IMPOSSIBLE))
