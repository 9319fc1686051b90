"""From what MS-CNN and Cascade R-CNN predict to boxes: BoxOutput, BoxGroupOutput, FrcnnOutput."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.fields import Bounds, Fields, decode_from, planes_last
from minicaffe.boxes.pixels import MODES, Overlap, kept, overlap, overlap_of_pixels
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count
from minicaffe.layers.box_codes import Coded, put_rows, rows

_log = logging.getLogger(__name__)


class Selecting(Coded):
    """Base of layers that rank boxes by their scores and drop those that overlap better ones."""

    differentiable = forcible = ()
    stops_gradients = True
    reads_bottoms = reads_tops = ()
    per_element = 0
    iou_thr: float
    nms_type: str

    def check_options(self) -> None:
        super().check_options()
        self.require(self.iou_thr >= 0, f"must not be negative; found {self.iou_thr:g}", "iou_thr")
        self.require(self.nms_type in MODES, f"must be one of {', '.join(MODES)}; found '{self.nms_type}'", "nms_type")


class Proposing(Selecting):
    """Base of layers that propose regions: of each item the best boxes, rows (item, x1, y1, x2, y2).

    Boxes with a score of at least ``fg_thr`` and sides of at least ``min_size`` (15) are ranked; of the ``max_nms_num``
    best those are kept that overlap no better one by more than ``iou_thr`` (0.5; ``nms_type``: of what), up to
    ``max_post_nms_num``.  Codes lie between ``field_xyr`` and ``field_whr`` (``boxes.fields``).  0 sets no limit.
    """

    tops: Count = (1, 2)
    measure: Overlap
    fg_thr: float
    field_whr: float
    field_xyr: float
    max_nms_num: int
    max_post_nms_num: int
    min_size: float

    def check_options(self) -> None:
        super().check_options()
        self.require(self.field_xyr > 0, f"must be positive; found {self.field_xyr:g}", "field_xyr")
        self.require(self.field_whr >= 1, f"must be at least 1; found {self.field_whr:g}", "field_whr")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, width in zip(top, (5, 6), strict=False):
            blob.reshape(1, width, 1, 1)

    def select(self, boxes: NDArray, scores: NDArray) -> NDArray:
        """Which of the boxes (M, 4) are proposed, the best first; of equal scores the first."""
        self.numbers("scores", scores)
        order = np.argsort(-scores, kind="stable")[: self.max_nms_num or None]
        return order[kept(boxes[order], self.iou_thr, self.measure, self.nms_type, self.max_post_nms_num)]

    def put(self, found: list[NDArray], top: Sequence[Blob]) -> None:
        """Fill the tops with the rows (K, 6) of all items: item, box, score; a stand-in where there is none."""
        table = np.concatenate([np.empty((0, 6), self.dtype), *found])
        put_rows(top[0], table[:, :5] if len(table) else np.array([[0, 1, 1, 10, 10]], self.dtype))
        for blob in top[1:]:
            put_rows(blob, table if len(table) else np.zeros((1, 6), self.dtype))


def expect_fields(layer: Any, widths: Sequence[int], heights: Sequence[int], count: int | None, what: str) -> None:
    """An error unless there are as many widths as heights of fields, all positive; ``count`` if that is given."""
    good = len(widths) == len(heights) > 0 and count in (None, len(widths)) and min((*widths, *heights)) > 0
    wanted = f"one for each {what}" if count is None else f"one for each of the {count} {what}s"
    layer.require(good, f"field_w and field_h must be positive, {wanted}; found {list(widths)} and {list(heights)}")


class BoxOutput(Proposing):
    """The regions that maps at several scales propose (MS-CNN, Cai et al. 2016); see ``Proposing``.

    Bottoms: maps (N, C + 4, H, W), of any sizes: scores of classes, the first for none, and codes of boxes.  Tops:
    regions (K, 5, 1, 1); if a second is named, with the scores (K, 6, 1, 1).  A score is that of the best class less
    that of none.  ``field_w``, ``field_h`` and ``downsample_rate``, one for each bottom: ``boxes.fields``.  Boxes are
    cut off where the image ends; their far corners do not belong to them.  If there is none, (0, 1, 1, 10, 10).
    Computed on the host.  Source: mscnn.  Of equal scores the later box wins.
    """

    type = "BoxOutput"
    param = "box_output_param"
    bottoms: Count = (1, None)
    measure = staticmethod(overlap)
    field_h: Sequence[int]
    field_w: Sequence[int]
    downsample_rate: Sequence[int]

    def check_options(self) -> None:
        super().check_options()
        expect_fields(self, self.field_w, self.field_h, len(self.layer_param.bottom), "bottom")
        self.require(
            len(self.downsample_rate) == len(self.field_w) and min(self.downsample_rate) > 0,
            f"must be positive, one for each bottom; found {list(self.downsample_rate)}",
            "downsample_rate",
        )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob in bottom:
            good = len(blob.shape) == 4 and blob.shape[1] >= 6 and blob.shape[:2] == bottom[0].shape[:2]
            found = ", ".join(each.shape_string for each in bottom)
            self.require(good, f"must be maps (N, C + 4, H, W) of two classes or more; found {found}", kind=ShapeError)
        super().reshape(bottom, top)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        levels = [self._boxes(n, blob) for n, blob in enumerate(bottom)]
        boxes, scores = (np.concatenate(parts, axis=1) for parts in zip(*levels, strict=True))
        found = []
        for item, (own, score) in enumerate(zip(boxes, scores, strict=True)):
            large = (score >= self.fg_thr) & (own[:, 2:] - own[:, :2] >= self.min_size).all(axis=1)
            own, score = own[large][::-1], score[large][::-1]
            best = self.select(own, score)
            found.append(np.column_stack([np.full(len(best), item), own[best], score[best]]).astype(self.dtype))
        self.put(found, top)

    def _boxes(self, level: int, blob: Blob) -> tuple[NDArray, NDArray]:
        """The boxes (N, H W, 4) of a map, and their scores (N, H W)."""
        maps = planes_last(blob.data)
        stride = self.downsample_rate[level]
        codes = Bounds.of(self.field_xyr, self.field_whr).clip(self.scaling().restored(maps[..., -4:]))
        boxes = Fields([self.field_w[level]], [self.field_h[level]], stride).decode(codes)
        near = np.maximum(boxes[..., :2], 0)
        room = np.array([blob.shape[3] * stride, blob.shape[2] * stride], self.dtype) - near
        boxes = np.concatenate([near, near + np.minimum(boxes[..., 2:], room)], axis=-1)
        scores = self.numbers("scores", maps[..., 1:-4].max(axis=-1) - maps[..., 0])
        cells = blob.span(2)
        return boxes.reshape(len(maps), cells, 4), scores.reshape(len(maps), cells)


class BoxGroupOutput(Proposing):
    """The regions that a region proposal network proposes (Cascade R-CNN, Cai and Vasconcelos 2018); see ``Proposing``.

    Bottoms, in pairs, one for each ``box_group_param``: probabilities (N A, C, H, W), the first of none, and codes of
    boxes (N A, 4, H, W); groups n, n + A, … are of the n-th of the fields ``field_w``, ``field_h``, with ``stride``.
    Tops: regions (K, 5, 1, 1); if a second is named, with the scores (K, 6, 1, 1).  A score is 1 less the probability
    of none.  Boxes are cut off where the image ends; both corners belong to them.  If there is none, (0, 1, 1, 10, 10).
    Computed on the host.  Source: cascade-rcnn, which leaves open which of equal scores wins; here the first does.
    """

    type = "BoxGroupOutput"
    param = "box_group_output_param"
    bottoms: Count = (2, None)
    measure = staticmethod(overlap_of_pixels)
    box_group_param: Sequence[Any]

    def check_options(self) -> None:
        super().check_options()
        bottoms = len(self.layer_param.bottom)
        self.require(
            2 * len(self.box_group_param) == bottoms,
            f"must be given once for each pair of the {bottoms} bottoms; found {len(self.box_group_param)}",
            "box_group_param",
        )
        for group in self.box_group_param:
            expect_fields(self, group.field_w, group.field_h, None, "group")
            self.require(group.stride > 0, "stride must be given, and positive", "box_group_param")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.fields = tuple(Fields(each.field_w, each.field_h, each.stride) for each in self.box_group_param)
        items = {self._items(*pair) for pair in zip(self.fields, bottom[::2], bottom[1::2], strict=True)}
        self.require(
            len(items) == 1, f"all pairs must be of equally many items; found {sorted(items)}", kind=ShapeError
        )
        (self.items,) = items
        super().reshape(bottom, top)

    def _items(self, fields: Fields, scores: Blob, codes: Blob) -> int:
        good = len(scores.shape) == 4 and codes.shape == (scores.shape[0], 4, *scores.shape[2:])
        self.require(
            good and scores.shape[1] > 0 and scores.shape[0] % len(fields) == 0,
            f"of {len(fields)} fields probabilities must be (N {len(fields)}, C, H, W) and codes (N {len(fields)}, 4, "
            f"H, W); found {scores.shape_string} and {codes.shape_string}",
            kind=ShapeError,
        )
        return scores.shape[0] // len(fields)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        levels = [self._boxes(*level) for level in zip(self.fields, bottom[::2], bottom[1::2], strict=True)]
        boxes, scores = (np.concatenate(parts, axis=1) for parts in zip(*levels, strict=True))
        found = []
        for item, (own, score) in enumerate(zip(boxes, scores, strict=True)):
            large = (score >= self.fg_thr) & (own[:, 2:] - own[:, :2] + 1 >= self.min_size).all(axis=1)
            own, score = own[large], score[large]
            best = self.select(own, score)
            found.append(np.column_stack([np.full(len(best), item), own[best], score[best]]).astype(self.dtype))
        self.put(found, top)

    def _boxes(self, fields: Fields, scores: Blob, codes: Blob) -> tuple[NDArray, NDArray]:
        """The boxes (N, A H W, 4) of a map by their corners, and their scores (N, A H W)."""
        restored = self.scaling().restored(planes_last(codes.data))
        boxes = fields.decode(Bounds.of(self.field_xyr, self.field_whr).clip(restored))
        size = np.array([scores.shape[3] * fields.stride, scores.shape[2] * fields.stride], self.dtype)
        near = np.maximum(boxes[..., :2], 0)
        far = np.minimum(boxes[..., :2] + boxes[..., 2:] - 1, size)
        chances = self.numbers("probabilities", 1 - scores.data[:, 0])
        shape = self.items, len(fields) * scores.span(2)
        return np.concatenate([near, far], axis=-1).reshape(*shape, 4), chances.reshape(shape)


class FrcnnOutput(Selecting):
    """The boxes that the last stage finds in an image (Cascade R-CNN, Cai and Vasconcelos 2018).

    Bottoms: probabilities of classes (R, C), the first of none; codes of boxes (R, 4 C), or without
    ``bbox_reg_param.cls_aware`` (R, 8), of which the last four count; regions, rows (0, x1, y1, x2, y2) or with a score
    behind; height and width of the image (1, 2).  Top (K + 1, 7, 1, 1): a row (0, -1, …), then for each box found item,
    x1, y1, x2, y2, label, probability, ordered by label and falling probability.
    Boxes of at least ``conf_thr`` are cut off where the image ends; of a class those are kept that overlap no better
    one by more than ``iou_thr`` (0.5; ``nms_type``: of what); of all the best ``max_det_num``, unless that is 0.

    ``save_output_param`` is without effect, and logged so.
    Computed on the host.  Source: cascade-rcnn, which leaves open which of equal probabilities wins; here the first.
    """

    type = "FrcnnOutput"
    param = "frcnn_output_param"
    bottoms = 4
    conf_thr: float
    max_det_num: int
    save_output_param: Any

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        if self.save_output_param.output_directory:
            _log.warning(
                "layer '%s' (FrcnnOutput): save_output_param is without effect: no files are written", self.name
            )

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scores, codes, regions, size = bottom
        self.expect_rows("regions", regions, 5, 6)
        self.expect_as_many(scores, codes, regions)
        good = len(scores.shape) >= 2 and scores.count == scores.shape[0] * scores.shape[1] and scores.shape[1] > 1
        self.require(
            good,
            f"the probabilities must be (R, C) of two classes or more; found {scores.shape_string}",
            kind=ShapeError,
        )
        self.expect_rows("codes", codes, 4 * scores.shape[1] if self.cls_aware else 8)
        self.require(
            size.shape[:2] == (1, 2) and size.count == 2,
            f"the image's height and width must be (1, 2), of one image; found {size.shape_string}",
            kind=ShapeError,
        )
        top[0].reshape(1, 7, 1, 1)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        scores, codes, regions = (self.numbers("bottoms", rows(blob)) for blob in bottom[:3])
        self.require(not regions[:, 0].any(), "takes regions of one image, item 0")
        self.require(bool((regions[:, 3:5] >= regions[:, 1:3]).all()), "found a region that is turned inside out")
        boxes = decode_from(regions[:, 1:5], self.scaling().restored(codes.reshape(len(codes), codes.shape[1] // 4, 4)))
        height, width = bottom[3].data.reshape(2)
        boxes[..., :2] = np.maximum(boxes[..., :2], 0)
        boxes[..., 2:] = np.minimum(boxes[..., 2:], np.array([width, height], self.dtype))
        found = [self._detect(label, boxes, scores[:, label]) for label in range(1, scores.shape[1])]
        table = np.concatenate([np.array([[0] + [-1] * 6], self.dtype), self._best(np.concatenate(found))])
        put_rows(top[0], table.astype(self.dtype))

    def _detect(self, label: int, boxes: NDArray, scores: NDArray) -> NDArray:
        """The rows (M, 7) of a class, the best first."""
        own = boxes[:, label if self.cls_aware else 1]
        likely = np.flatnonzero(scores >= self.conf_thr)
        order = likely[np.argsort(-scores[likely], kind="stable")]
        order = order[kept(own[order], self.iou_thr, overlap_of_pixels, self.nms_type)]
        ends = np.full(len(order), 0), np.full(len(order), label)
        return np.column_stack([ends[0], own[order], ends[1], scores[order]])

    def _best(self, found: NDArray) -> NDArray:
        if not self.max_det_num or len(found) <= self.max_det_num:
            return found
        best = np.argsort(-found[:, 6], kind="stable")[: self.max_det_num]
        return found[best[np.argsort(found[best, 5], kind="stable")]]
