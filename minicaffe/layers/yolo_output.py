"""YoloDetectionOutput and Yolov3DetectionOutput: from YOLO's predictions to the boxes that it found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.centered import corners, iou
from minicaffe.layers.base import Count, Layer
from minicaffe.layers.yolo import Grid, anchors_of, expect_grid, sigmoid


class GridOutput(Layer):
    """Base of layers that give rows (1, 1, K, 7) of item, label, confidence, xmin, ymin, xmax, ymax, the most confident
    first, without those that overlap a better one by ``nms_threshold``; if there are none, a row (item, -1, …) for each
    item.

    As in the fork all items count as one: every row says item 0, and boxes of other classes and items are dropped, too.
    Labels begin at 1, after the background.  Computed on the host.
    """

    differentiable: tuple[int, ...] | None = ()
    forcible: tuple[int, ...] | None = ()
    reads_bottoms = reads_tops = ()
    per_element = 0
    num_classes: int
    num_box: int
    confidence_threshold: float
    nms_threshold: float
    biases: Sequence[float]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob in bottom:
            expect_grid(self, blob, self.num_box, self.num_classes)
        top[0].reshape(1, 1, 1, 7)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        for blob in bottom:
            self.require(not np.isnan(blob.data).any(), "the predictions must be numbers; found NaN")
        found = [self.candidates(k, blob.data.copy()) for k, blob in enumerate(bottom)]
        confidences, labels, boxes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(-confidences, kind="stable")
        kept: list[int] = []
        for n in order:
            if not kept or (iou(boxes[kept], boxes[n]) < np.float32(self.nms_threshold)).all():
                kept.append(int(n))
        rows = np.column_stack([np.zeros(len(kept)), labels[kept] + 1, confidences[kept], corners(boxes[kept])])
        if not kept:
            rows = np.full((bottom[0].shape[0], 7), -1.0)
            rows[:, 0] = np.arange(len(rows))
        top[0].reshape(1, 1, len(rows), 7)
        top[0].data[0, 0] = rows

    def candidates(self, k: int, values: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Confidences (M,), classes (M,) and centred boxes (M, 4) of bottom ``k`` that are confident enough, in the
        order item, cell, box, class."""
        raise NotImplementedError


class YoloDetectionOutput(GridOutput):
    """What YOLO's second version found: of each box its best class, by softmax, times objectness.

    Bottoms: one or two grids of predictions (N, num_box (5 + num_classes), H, W).  ``biases``: anchors, in cells.  See
    ``GridOutput``.
    Source: eric612/MobileNet-YOLO.
    """

    type = "YoloDetectionOutput"
    param = "yolo_detection_output_param"
    bottoms: Count = (1, 2)
    coords: int

    def check_options(self) -> None:
        self.require(self.coords == 4, f"must be 4; found {self.coords}", "coords")
        anchors_of(self, self.biases, self.num_box)

    def candidates(self, k: int, values: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        size = np.array(values.shape[:1:-1])
        grid = Grid(values, self.num_box, anchors_of(self, self.biases, self.num_box)[: self.num_box] / size)
        v = grid.values
        v[:, :, [0, 1, 4]] = sigmoid(v[:, :, [0, 1, 4]])
        powers = np.exp(v[:, :, 5:] - v[:, :, 5:].max(axis=2, keepdims=True))
        classes = powers / powers.sum(axis=2, keepdims=True)
        confidence = (v[:, :, 4] * classes.max(axis=2)).transpose(0, 2, 3, 1)
        chosen = confidence >= np.float32(self.confidence_threshold)
        boxes = grid.boxes().transpose(0, 2, 3, 1, 4)
        return confidence[chosen], classes.argmax(axis=2).transpose(0, 2, 3, 1)[chosen], boxes[chosen]


class Yolov3DetectionOutput(GridOutput):
    """What YOLO's third version found: of each box all classes, by sigmoids, times objectness.

    Bottoms: ``mask_group_num`` grids of predictions (N, num_box (5 + num_classes), H, W).  ``biases``: anchors, in
    pixels; ``mask``: those of each grid, one after the other; ``anchors_scale``: pixels of a cell, for each grid.  See
    ``GridOutput``.
    Source: eric612/MobileNet-YOLO.
    """

    type = "Yolov3DetectionOutput"
    param = "yolov3_detection_output_param"
    bottoms: Count = (1, None)
    mask: Sequence[int]
    mask_group_num: int
    anchors_scale: Sequence[int]
    gaussian_box: bool
    scale_x_y: Sequence[float]

    def check_options(self) -> None:
        anchors = anchors_of(self, self.biases, 1)
        groups = self.mask_group_num
        self.require(groups > 0, "must be positive", "mask_group_num")
        self.require(
            len(self.mask) == groups * self.num_box and all(m < len(anchors) for m in self.mask),
            f"must name {self.num_box} of {len(anchors)} anchors for each of {groups} grids; found {list(self.mask)}",
            "mask",
        )
        self.require(
            len(self.anchors_scale) == groups,
            f"must be given for each of {groups} grids; found {list(self.anchors_scale)}",
            "anchors_scale",
        )
        self.require(not self.gaussian_box, "is not in minicaffe", "gaussian_box")
        self.require(not self.scale_x_y, "is not in minicaffe", "scale_x_y")

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        self.require(
            len(bottom) == self.mask_group_num, f"must be the number of bottoms; found {self.mask_group_num} for "
            f"{len(bottom)}", "mask_group_num",
        )  # fmt: skip
        super().reshape(bottom, top)

    def candidates(self, k: int, values: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        size = np.array(values.shape[:1:-1]) * self.anchors_scale[k]
        own = list(self.mask[k * self.num_box : (k + 1) * self.num_box])
        grid = Grid(values, self.num_box, anchors_of(self, self.biases, 1)[own] / size)
        v = grid.values
        v[:, :, [0, 1]], v[:, :, 4:] = sigmoid(v[:, :, [0, 1]]), sigmoid(v[:, :, 4:])
        confidence = (v[:, :, 5:] * v[:, :, 4:5]).transpose(0, 3, 4, 1, 2)
        chosen = confidence > np.float32(self.confidence_threshold)
        places = np.nonzero(chosen)
        boxes = grid.boxes().transpose(0, 2, 3, 1, 4)
        return confidence[chosen], places[-1], boxes[places[:-1]]
