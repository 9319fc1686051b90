"""How good maps of scores and codes of boxes are: accuracies of MS-CNN and Cascade R-CNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.fields import Bounds, Fields, planes_last
from minicaffe.boxes.pixels import IOU, overlap
from minicaffe.layers.base import Count
from minicaffe.layers.box_codes import Coded
from minicaffe.layers.box_output import expect_fields
from minicaffe.layers.field_truth import Truth, check_field_options, expect_groups, field_of


class FieldAccuracy(Coded):
    """Base.  Tops: (1, 1, 1, 2), the share of cells whose label is among the ``top_k`` best classes, of all that count
    and of those with an object; if a second is named, (1, 1, 1, 1), the mean intersection over union of the boxes of
    these and their objects; -1 where there is none.

    Cells without an object whose field overlaps others by ``bg_threshold`` (0.5) do not count, nor those with
    ``loss_param.ignore_label``.  Codes lie between ``field_xyr`` and ``field_whr`` (``boxes.fields``).
    """

    common_params: ClassVar[Sequence[str]] = ("loss_param", "bbox_reg_param")
    tops: Count = (1, 2)
    differentiable = forcible = ()
    reads_bottoms = reads_tops = ()
    per_element = 0
    least_in_common: ClassVar[float] = 0
    top_k: int = 1
    cls_num: int
    field_whr: float
    field_xyr: float
    bg_threshold: float
    objectness: bool

    def check_options(self) -> None:
        super().check_options()
        self.require(self.cls_num > 1, f"must be given, 2 or more; found {self.cls_num}", "cls_num")
        self.require(not self.objectness or self.cls_num == 2, f"needs cls_num: 2; found {self.cls_num}", "objectness")
        self.require(self.field_xyr > 0, f"must be positive; found {self.field_xyr:g}", "field_xyr")
        self.require(self.field_whr >= 1, f"must be at least 1; found {self.field_whr:g}", "field_whr")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, width in zip(top, (2, 1), strict=False):
            blob.reshape(1, 1, 1, width)

    def judge(self, scores: NDArray, codes: NDArray, truth: Truth, fields: Fields, top: Sequence[Blob]) -> None:
        """Fill the tops, for scores (N, H, W, C) and codes (N, H, W, 4)."""
        labels = np.minimum(truth.labels, 1) if self.objectness else truth.labels
        counts = (labels != 0) | (truth.overlaps < self.bg_threshold)
        objects = truth.labels != 0
        if self.has("ignore_label"):
            ignored = self.given("ignore_label", 0)
            counts, objects = counts & (labels != ignored), objects & (truth.labels != ignored)
        right = self.is_right(self.numbers("scores", scores), labels)
        top[0].data[...] = [_mean(right[counts]), _mean(right[counts & (labels != 0)])]
        for blob in top[1:]:
            restored = Bounds.of(self.field_xyr, self.field_whr).clip(self.scaling().restored(codes))
            blob.data[...] = _mean(self._shares(fields.decode(restored)[objects], truth.boxes[objects]))

    def is_right(self, scores: NDArray, labels: NDArray) -> NDArray:
        """Whether the label of each cell is the class of the highest score; of equal ones the first is."""
        return scores.argmax(axis=-1) == labels

    def _shares(self, boxes: NDArray, truth: NDArray) -> NDArray:
        """Overlaps of boxes (M, 4), corner and size, with ground truth (M, 4), middle and size."""
        corners = truth[:, :2] - truth[:, 2:] / 2
        found, wanted = (
            np.hstack([near, near + size]) for near, size in ((boxes[:, :2], boxes[:, 2:]), (corners, truth[:, 2:]))
        )
        return overlap(found, wanted, IOU, self.least_in_common)


def _mean(values: NDArray) -> float:
    return float(values.mean()) if len(values) else -1.0


class DetectionAccuracy(FieldAccuracy):
    """How good a map of scores and codes of boxes is (MS-CNN, Cai et al. 2016); see ``FieldAccuracy``.

    Bottoms: scores of classes and codes (N, ``cls_num`` + 4, H, W); ground truth (N, 6, H, W) of ImageGtData.
    ``field_w``, ``field_h``, ``downsample_rate``: ``boxes.fields``; ``top_k`` (1).
    Computed on the host.  Source: mscnn.
    """

    type = "DetectionAccuracy"
    param = "detection_accuracy_param"
    bottoms = 2
    coord_num: int
    field_h: int
    field_w: int
    downsample_rate: int

    def check_options(self) -> None:
        super().check_options()
        check_field_options(self)
        self.require(0 < self.top_k <= self.cls_num, f"lies in 1 .. cls_num; found {self.top_k}", "top_k")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.fields = field_of(self, bottom)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        maps = planes_last(bottom[0].data)
        self.judge(maps[..., :-4], maps[..., -4:], Truth.of(self, bottom[1]), self.fields, top)

    def is_right(self, scores: NDArray, labels: NDArray) -> NDArray:
        """Whether the label of each cell is among the best classes; of equal scores the later class is better."""
        best = np.argsort(-scores[..., ::-1], axis=-1, kind="stable")[..., : self.top_k]
        return (self.cls_num - 1 - best == labels[..., None]).any(axis=-1)


class DetectionGroupAccuracy(FieldAccuracy):
    """How good a region proposal network is (Cascade R-CNN, Cai and Vasconcelos 2018); see ``FieldAccuracy``.

    Bottoms: scores of classes (N A, ``cls_num``, H, W) and codes of boxes (N A, 4, H, W), of A fields ``field_w``,
    ``field_h``, ``stride`` (``boxes.fields``); ground truth (N A, 6, H, W) of DetectionData.
    Computed on the host.  Source: cascade-rcnn, where what two boxes have in common counts from one pixel on.
    """

    type = "DetectionGroupAccuracy"
    param = "detection_group_accuracy_param"
    bottoms = 3
    least_in_common = 1
    field_h: Sequence[int]
    field_w: Sequence[int]
    stride: int

    def check_options(self) -> None:
        super().check_options()
        expect_fields(self, self.field_w, self.field_h, None, "group")
        self.require(self.stride > 0, "must be given, and positive", "stride")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.fields = Fields(self.field_w, self.field_h, self.stride)
        expect_groups(self, self.fields, bottom)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scores, codes = (planes_last(blob.data) for blob in bottom[:2])
        self.judge(scores, codes, Truth.of(self, bottom[2]), self.fields, top)
