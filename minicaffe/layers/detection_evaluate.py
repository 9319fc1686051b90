"""DetectionEvaluate: which of the boxes that were found are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from minicaffe import limits, proto
from minicaffe.blob import Blob
from minicaffe.boxes.evaluation import judge
from minicaffe.boxes.frames import in_pixels, read_sizes
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Count, Layer, LayerClass

MOST_CLASSES = 1 << 20
"""A row is written for each."""


class DetectionEvaluate(Layer):
    """Compare the boxes that DetectionOutput found with the ground truth, for ``eval_type: "detection"`` of a solver.

    Bottoms: detections (1, 1, K, 7), ground truth (1, 1, G, 8), of which a row with item -1 is the end.  Top
    (1, 1, R, 5): first (-1, label, number of ground truths, -1, -1) for each class but ``background_label_id``, then
    for each detection (item, label, confidence, right, wrong), ordered by item and label, in each the best first.

    A detection is right if it overlaps a ground truth of its class that no better one has found by at least
    ``overlap_threshold`` (intersection over union).  With ``evaluate_difficult_gt: false`` difficult ground truth does
    not count, and what finds it is neither right nor wrong.  With a ``name_size_file`` (rows: name, height, width; one
    for each image in order) boxes are compared in pixels, after ``resize_param`` is undone.
    Source: weiliu89/caffe, branch ssd.  Computed on the host.
    """

    type = "DetectionEvaluate"
    param = "detection_evaluate_param"
    bottoms: Count = (2, 3)
    differentiable = forcible = ()
    reads_bottoms = reads_tops = ()
    per_element = 0
    num_classes: int
    background_label_id: int
    overlap_threshold: float
    evaluate_difficult_gt: bool
    name_size_file: str
    resize_param: Any
    axis: ClassVar[int] = -1
    """Of the values of a row."""

    fixed = ("name_size_file",)

    @classmethod
    def dialect(cls, layer_param: proto.LayerParameter) -> LayerClass:
        """Cascade R-CNN's with three bottoms."""
        return EvaluatePixels if len(layer_param.bottom) == 3 else DetectionEvaluate

    def check_options(self) -> None:
        self.require(
            0 < self.num_classes <= MOST_CLASSES,
            f"must be given, 1 to {MOST_CLASSES}; found {self.num_classes}",
            "num_classes",
        )
        self.require(self.overlap_threshold > 0, "must be positive", "overlap_threshold")

    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.sizes: list[tuple[str, int, int]] = []
        self.images = 0
        if self.name_size_file:
            try:
                self.sizes = read_sizes(limits.read_file(self.find_file(self.name_size_file), times=8).decode())
            except (OSError, ValueError) as error:
                raise self.data_error(error, "name_size_file") from None

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob, width, what in ((bottom[0], 7, "detections"), (bottom[1], 8, "ground truth")):
            self.require(
                blob.shape[self.axis : self.axis + 1 or None] == (width,) and blob.count % width == 0,
                f"the {what} must be rows of {width}; found {blob.shape_string}",
                kind=ShapeError,
            )
        top[0].reshape(1, 1, len(self._classes()), 5)

    def _classes(self) -> list[int]:
        return [label for label in range(self.num_classes) if label != self.background_label_id]

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        truth = bottom[1].data.reshape(-1, 8)
        truth = truth[: int(np.argmax(np.append(truth[:, 0], -1) == -1))]
        self.evaluate(bottom[0].data.reshape(-1, 7), truth, top[0])

    def evaluate(self, found: NDArray, truth: NDArray, top: Blob) -> None:
        """Fill the top, for detections (K, 7) and ground truth (G, 8)."""
        both = ((found, "detections"), (truth, "ground truth"))
        for given, what in both:
            self.require(not np.isnan(given).any(), f"the {what} must be numbers; found NaN")
            self.require_whole(given[:, :2], f"the numbers of items and the labels in the {what}")
        for given, what in both:
            self.require(
                not (given[:, 1] == self.background_label_id).any(),
                f"found the background label {self.background_label_id} in the {what}",
                "background_label_id",
            )
        counted = truth if self.evaluate_difficult_gt else truth[truth[:, 7] == 0]
        rows = [np.array([-1, c, (counted[:, 1] == c).sum(), -1, -1], float) for c in self._classes()]
        for item in np.unique(found[found[:, 0] != -1, 0]):
            own = found[(found[:, 0] == item) & (found[:, 1] != -1)]
            rows += self._judge(item, own, truth[truth[:, 0] == item])
            self.images += 1
        top.reshape(1, 1, len(rows), 5)
        top.data[0, 0] = np.array(rows).reshape(-1, 5)

    def _judge(self, item: float, found: NDArray, truth: NDArray) -> list[NDArray]:
        """The rows of one item's detections."""
        rows: list[NDArray] = []
        for label in np.unique(found[:, 1]):
            own, wanted = found[found[:, 1] == label], truth[truth[:, 1] == label]
            if len(wanted):
                own = own[np.argsort(-own[:, 2], kind="stable")]
            ignored = (wanted[:, 7] != 0) & (not self.evaluate_difficult_gt)
            boxes, targets = (self.framed(each[:, 3:7], int(item)) for each in (own, wanted))
            right, wrong = judge(boxes, targets, ignored, self.overlap_threshold, bool(self.sizes))
            rows += [
                np.array(row) for row in zip(*[[item] * len(own), own[:, 1], own[:, 2], right, wrong], strict=True)
            ]
        return rows

    def framed(self, boxes: NDArray, item: int) -> NDArray:
        """The boxes in what they are compared in: relative to the image, or its pixels if its size is known."""
        if not self.sizes:
            return boxes
        _, height, width = self.sizes[self.images % len(self.sizes)]
        return in_pixels(boxes, height, width, self.resize_param if self.has("resize_param") else None)

    def state(self) -> dict[str, Any]:
        """The number of the next image among the sizes."""
        return {"images": self.images} if self.sizes else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a ``state``."""
        self.images = state["images"]


class EvaluatePixels(DetectionEvaluate):
    """Cascade R-CNN's DetectionEvaluate, of boxes in pixels of what the net saw; see ``DetectionEvaluate``.

    Bottoms: detections (K, 7) of FrcnnOutput, rows (item, x1, y1, x2, y2, label, confidence), and ground truth (G, 8),
    rows (item, x1, y1, x2, y2, label, ignored, difficult), where an item of -1 is none; heights and widths of the
    images that the net saw (N, 2).  Boxes are compared in pixels of the images of ``name_size_file``, which must be
    given.
    """

    type = ""
    axis = 1
    fixed = ("name_size_file",)

    def check_options(self) -> None:
        super().check_options()
        self.require(bool(self.name_size_file), "must be given, with the sizes of the images", "name_size_file")
        self.require(not self.has("resize_param"), "is of SSD's; it is not read here", "resize_param")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        sizes = bottom[2]
        self.require(
            len(sizes.shape) >= 2 and sizes.count == 2 * sizes.shape[0],
            f"the sizes of the images must be (N, 2); found {sizes.shape_string}",
            kind=ShapeError,
        )

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.seen = bottom[2].data.reshape(-1, 2)
        found, truth = bottom[0].data.reshape(-1, 7), bottom[1].data.reshape(-1, 8)
        found, truth = found[found[:, 0] != -1], truth[truth[:, 0] != -1]
        self.require(
            bool(np.isin(found[:, 0], np.arange(len(self.seen))).all()), "found an item that has no size of an image"
        )
        none = np.zeros(len(truth))
        ordered = np.column_stack([truth[:, 0], truth[:, 5], none, truth[:, 1:5], truth[:, 7]])
        self.evaluate(found[:, [0, 5, 6, 1, 2, 3, 4]], ordered, top[0])

    def framed(self, boxes: NDArray, item: int) -> NDArray:
        """The boxes in pixels of the image as it is."""
        _, height, width = self.sizes[self.images % len(self.sizes)]
        scale = np.array([width, height], boxes.dtype) / self.seen[item, ::-1]
        return boxes * np.tile(scale, 2)
