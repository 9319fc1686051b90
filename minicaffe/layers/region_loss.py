"""RegionLoss and Yolov3: losses of YOLO's second and third version."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.centered import L2, iou, likeness, likeness_gradient
from minicaffe.layers.loss import Loss
from minicaffe.layers.yolo import (
    Grid,
    anchors_of,
    best_overlaps,
    by_item,
    expect_grid,
    expect_truth,
    sigmoid,
    slope,
    truths,
)


class GridLoss(Loss):
    """Base of losses whose value is the sum of squares of what is also their gradient, ``delta``, over the items."""

    bottoms = 2
    reads_bottoms = ()
    empty_batch = True
    per_element = 0
    num: int
    num_class: int
    biases: Sequence[float]

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        expect_grid(self, bottom[0], self.num, self.num_class)
        expect_truth(self, bottom[1], bottom[0].shape[0])

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        if propagate_down[0]:
            scale = top[0].diff[()] / max(bottom[0].shape[0], 1)
            bottom[0].diff[...] = (self.delta * scale).reshape(bottom[0].shape)

    delta: NDArray

    def check_truth(self, rows: NDArray) -> None:
        """An error unless the rows of ground truth that are read are finite, and their boxes not negative."""
        read = rows[: max(len(truths(rows, 1)), len(truths(rows, 3)))]
        self.require(
            bool(np.isfinite(read).all()),
            "the ground truth must be finite; found NaN or infinity in a row of it",
        )
        for row in read:
            self.require(
                bool((row[1:] >= 0).all()),
                f"centres and sides of the ground truth must not be negative; found {row[1:].tolist()}",
            )

    def mark_unknown(self, boxes: NDArray) -> None:
        """NaN for the objectness of predicted boxes (N, B, H, W, 4) that are NaN: what they overlap is unknown."""
        self.delta[:, :, 4][np.isnan(boxes).any(axis=-1)] = np.nan

    def class_of(self, row: NDArray) -> int:
        """The class of a row of ground truth; an error if there is no such class."""
        self.require_whole(row[:1], "classes in the ground truth")
        label = int(row[0])
        self.require(
            0 <= label < self.num_class, f"found the class {label} in the ground truth; there are {self.num_class}",
            "num_class",
        )  # fmt: skip
        return label


class RegionLoss(GridLoss):
    r"""Loss of YOLO's second version (Redmon, Farhadi 2017): boxes at the cells of a grid, softmax over classes.

    Bottoms: predictions (N, num (5 + num_class), H, W); ground truth, 300 rows (class, x, y, width, height), relative
    to the image, for each item, up to one that is 0.  Top: the loss, a scalar.

    Objectness goes to 0, weighted by ``noobject_scale``, where no ground truth overlaps the predicted box by more than
    ``thresh``.  Each ground truth takes the box of its cell whose anchor (``biases``, in cells; or predicted sides,
    without ``bias_match``) is most like it: that box's codes go to its own (``coord_scale``; without ``rescore`` times
    2 less its area), objectness to their overlap, or to 1 (``object_scale``), classes to its class (``class_scale``).
    Loss: the squares of all these differences, over N; the gradient is the differences themselves.
    Source: eric612/MobileNet-YOLO; computed on the host.
    """

    type = "RegionLoss"
    param = "region_loss_param"
    bias_match: int
    coords: int
    rescore: int
    object_scale: float
    noobject_scale: float
    class_scale: float
    coord_scale: float
    thresh: float
    softmax_tree: str

    def check_options(self) -> None:
        self.require(self.coords == 4, f"must be 4; found {self.coords}", "coords")
        self.require(not self.softmax_tree, "a tree of classes is not in minicaffe", "softmax_tree")
        anchors_of(self, self.biases, self.num)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        values = bottom[0].data.copy()
        size = np.array(values.shape[:1:-1])
        grid = Grid(values, self.num, anchors_of(self, self.biases, self.num)[: self.num] / size)
        v = grid.values
        v[:, :, [0, 1, 4]] = sigmoid(v[:, :, [0, 1, 4]])
        powers = np.exp(v[:, :, 5:] - v[:, :, 5:].max(axis=2, keepdims=True))
        v[:, :, 5:] = powers / powers.sum(axis=2, keepdims=True)
        boxes, self.delta = grid.boxes(), np.zeros_like(v)
        self.delta[:, :, 4] = self.noobject_scale * v[:, :, 4] * slope(v[:, :, 4])
        for n, rows in enumerate(by_item(bottom[1], len(v))):
            self.check_truth(rows)
            self.delta[n, :, 4][best_overlaps(boxes[n], rows) > self.thresh] = 0
            for row in truths(rows, 3):
                self._find(grid, boxes[n], n, row)
        self.mark_unknown(boxes)
        top[0].data[...] = (self.delta.astype(np.float64) ** 2).sum() / max(len(v), 1)

    def _find(self, grid: Grid, boxes: NDArray, n: int, row: NDArray) -> None:
        """Let the box that is most like a ground truth find it."""
        truth, cell = row[1:], grid.cell_of(row[1:])
        sides = grid.anchors if self.bias_match else boxes[(slice(None), *cell)][:, 2:]
        shapes = np.concatenate([np.zeros_like(sides), sides], axis=1)
        best = int(iou(shapes, np.array([0, 0, *truth[2:]], shapes.dtype)).argmax())
        values, delta = grid.values[(n, best, slice(None), *cell)], self.delta[(n, best, slice(None), *cell)]
        scale = self.coord_scale * (1 if self.rescore else 2 - truth[2] * truth[3])
        delta[:4] = scale * (values[:4] - grid.targets(truth, cell, best))
        delta[:2] *= slope(values[:2])
        wanted = iou(boxes[(best, *cell)], truth) if self.rescore else 1
        delta[4] = self.object_scale * (values[4] - wanted) * slope(values[4])
        delta[5:] = self.class_scale * values[5:]
        delta[5 + self.class_of(row)] -= self.class_scale


class Yolov3(GridLoss):
    r"""Loss of YOLO's third version (Redmon, Farhadi 2018): one of several grids, sigmoids for classes.

    Bottoms and top as for RegionLoss.  ``biases``: the anchors of all grids, in pixels of the net's input, of which a
    cell is ``anchors_scale``; ``mask``: the ``num`` of them that this grid has.  Objectness goes to 0 where no ground
    truth overlaps the predicted box by more than ``thresh``.  A ground truth whose best anchor is one of the grid's, or
    that overlaps one by more than ``iou_thresh`` (0.5), takes that box of its cell: codes (``coord_scale``, times 2
    less its area), objectness to 1, classes (``class_scale``) to its class, smoothed by ``label_smooth_eps`` (0.1) or
    weighted as in a focal loss (``use_focal_loss``).  ``iou_loss``: codes follow the gradient of an overlap instead
    (``boxes.centered``), times ``iou_normalizer`` (0.25), at most ``max_delta``, added up if ``accumulate`` (true).
    ``use_logic_gradient`` multiplies by the sigmoid's derivative, and objectness by ``object_scale``.
    Loss: squares of all differences, over N; with ``iou_loss`` the mean of 1 less the overlap in the place of codes.
    Source: eric612/MobileNet-YOLO; computed on the host.
    """

    type = "Yolov3"
    param = "yolov3_param"
    mask: Sequence[int]
    anchors_scale: int
    object_scale: float
    class_scale: float
    coord_scale: float
    thresh: float
    use_logic_gradient: bool
    use_focal_loss: bool
    iou_loss: int
    OTHER = ("scale_x_y", "objectness_smooth", "gaussian_box")

    def check_options(self) -> None:
        anchors = anchors_of(self, self.biases, 1)
        self.require(
            len(self.mask) == self.num and all(m < len(anchors) for m in self.mask),
            f"must name {self.num} of the {len(anchors)} anchors; found {list(self.mask)}",
            "mask",
        )
        for field in self.OTHER:
            self.require(not self.has(field), "is of a later version, and not in minicaffe", field)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        super().reshape(bottom, top)
        self.smooth = self.given("label_smooth_eps", 0.1)
        self.normalizer = self.given("iou_normalizer", 0.25)
        self.least = self.given("iou_thresh", 0.5)
        self.adds_up = self.given("accumulate", True)
        self.most = self.given("max_delta", np.inf)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        values = bottom[0].data.copy()
        size = np.array(values.shape[:1:-1]) * self.anchors_scale
        anchors = anchors_of(self, self.biases, 1) / size
        grid = Grid(values, self.num, anchors[list(self.mask)])
        v = grid.values
        v[:, :, [0, 1]], v[:, :, 4:] = sigmoid(v[:, :, [0, 1]]), sigmoid(v[:, :, 4:])
        boxes, self.delta = grid.boxes(), np.zeros_like(v)
        self.delta[:, :, 4] = v[:, :, 4]
        self.losses: list[float] = []
        for n, rows in enumerate(by_item(bottom[1], len(v))):
            self.check_truth(rows)
            overlaps = best_overlaps(boxes[n], rows, lambda a, b: likeness(a, b, self.iou_loss))
            self.delta[n, :, 4][overlaps > self.thresh] = 0
            for row in truths(rows, 3):
                for box in self._takers(anchors, row):
                    self._find(grid, boxes[n], n, box, row)
        self.mark_unknown(boxes)
        self._finish(grid, bottom, top)

    def _takers(self, anchors: NDArray, row: NDArray) -> list[int]:
        """The boxes of a cell, by their number in ``mask``, that take a ground truth."""
        shapes = np.concatenate([np.zeros_like(anchors), anchors], axis=1)
        overlaps = likeness(shapes, np.array([0, 0, *row[3:5]]), self.iou_loss)
        best = int(overlaps.argmax()) if overlaps.max() > 0 else -1
        mask = list(self.mask)
        found = [mask.index(best)] if best in mask else []
        passed = found[0] if found else best  # by its place in the mask, not its number: as the fork has it
        if self.least < 1:
            others = [n for n in range(len(anchors)) if n in mask and n != passed and overlaps[n] > self.least]
            found += [mask.index(n) for n in others]
        return found

    def _find(self, grid: Grid, boxes: NDArray, n: int, box: int, row: NDArray) -> None:
        """Let a box find a ground truth."""
        truth, cell = row[1:], grid.cell_of(row[1:])
        values, delta = grid.values[(n, box, slice(None), *cell)], self.delta[(n, box, slice(None), *cell)]
        if self.iou_loss == L2:
            scale = self.coord_scale * (2 - truth[2] * truth[3])
            delta[:4] = scale * (values[:4] - grid.targets(truth, cell, box))
        else:
            self._follow_overlap(boxes[(box, *cell)].astype(np.float64), truth.astype(np.float64), values, delta)
        delta[4] = (values[4] - 1) * (self.object_scale if self.use_logic_gradient else 1)
        self._classify(values[5:], delta[5:], self.class_of(row))

    def _follow_overlap(self, box: NDArray, truth: NDArray, values: NDArray, delta: NDArray) -> None:
        kind = self.iou_loss
        up = likeness_gradient(box, truth, kind)
        up[2:] *= np.exp(values[2:4])
        up = np.clip(np.nan_to_num(up * self.normalizer, nan=0, posinf=0, neginf=0), -self.most, self.most)
        delta[:4] = (delta[:4] if self.adds_up else 0) - up
        self.losses.append(float(1 - likeness(box, truth, 3 if kind == 1 else kind)))

    def _classify(self, values: NDArray, delta: NDArray, label: int) -> None:
        """Differences of the classes; a box that has found one already adds only the second class."""
        wanted = np.zeros(len(values))
        wanted[label] = 1
        if self.smooth:
            wanted = wanted * (1 - self.smooth) + 0.5 * self.smooth
        if delta[label] != 0:
            delta[label] = self.class_scale * (values[label] - wanted[label])
        elif self.use_focal_loss:
            p = values[label] + 1e-15
            focus = -0.5 * (1 - p) * (2 * p * np.log(p) + p - 1)
            delta[:] = self.class_scale * values * focus
            delta[label] -= self.class_scale * focus
        else:
            delta[:] = self.class_scale * (values - wanted)

    def _finish(self, grid: Grid, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """The loss; and what the gradient is multiplied by."""
        counted = self.delta if self.iou_loss == L2 else self.delta[:, :, 4:]
        loss = (counted.astype(np.float64) ** 2).sum()
        if self.losses:
            loss += self.normalizer * np.mean(self.losses)
        top[0].data[...] = loss / max(len(grid.values), 1)
        if self.use_logic_gradient:
            values = grid.values
            if self.iou_loss != L2:  # of codes, the fork takes what the net predicts for the sigmoids
                values[:, :, :2] = bottom[0].data.reshape(values.shape)[:, :, :2]
            self.delta[:, :, [0, 1]] *= slope(values[:, :, [0, 1]])
            self.delta[:, :, 4:] *= slope(values[:, :, 4:])
