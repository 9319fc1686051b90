"""EvalDetection: which boxes of YOLO's second version hit an object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minicaffe.blob import Blob
from minicaffe.boxes.centered import iou
from minicaffe.errors import ShapeError
from minicaffe.layers.base import Layer
from minicaffe.layers.yolo import Grid, anchors_of, sigmoid, truths

_LEAST_SCORE = 0.005  # Darknet's; boxes below it count as not found


class EvalDetection(Layer):
    """Count objects, and the predicted boxes that find one (YOLO 9000, Redmon and Farhadi 2016).

    Bottoms: predictions (N, num_object (5 + num_class), side, side); ground truth, rows (class, x, y, width, height)
    for each item, up to the first whose x is 0.  ``biases``: ``num_object`` anchors, in cells.
    Top: (N, num_class + 4 num_object side^2): how many objects there are of each class, then rows of class, score, 1
    for a box that finds an object, 1 for one that does not; classes in order, the best score of each first; then 0.
    A box finds the object of its class that it overlaps most, if by ``threshold`` and no better box has found it.
    A box's class is the likeliest one; its score, by ``score_type``, objectness (OBJ), that likelihood (PROB) or their
    product.  Boxes that a better one of any class overlaps by ``nms`` are left out, unless that is negative, and those
    with a score below 0.005.
    Source: Intel Caffe; there a box that overlaps too little is marked neither way.  Computed on the host.
    """

    type = "EvalDetection"
    param = "eval_detection_param"
    bottoms = 2
    differentiable = ()
    forcible = ()
    reads_bottoms = reads_tops = ()
    per_element = 0
    side: int
    num_class: int
    num_object: int
    threshold: float
    score_type: int
    nms: float
    biases: Sequence[float]

    OBJ, PROB, MULTIPLY = range(3)

    def check_options(self) -> None:
        for field in ("side", "num_class", "num_object"):
            value = getattr(self, field)
            self.require(value > 0, f"must be positive; found {value}", field)
        self.require(bool(self.biases), "must be given: without anchors it is that of YOLO's first version", "biases")
        anchors_of(self, self.biases, self.num_object)

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        grid, rows = bottom
        wanted = (self.num_object * (5 + self.num_class), self.side, self.side)
        if len(grid.shape) != 4 or grid.shape[1:] != wanted:
            raise self.error(
                f"the predictions must be (N, {', '.join(map(str, wanted))}); found {grid.shape_string}",
                kind=ShapeError,
            )
        if not rows.shape or rows.shape[0] != grid.shape[0] or rows.span(1) % 5:
            raise self.error(
                f"the ground truth must be rows of 5 numbers for each of {grid.shape[0]} items; found "
                f"{rows.shape_string}",
                kind=ShapeError,
            )
        top[0].reshape(grid.shape[0], self.num_class + 4 * self.num_object * self.side**2)

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        values, y = bottom[0].data.copy(), top[0].data
        self.require(not np.isnan(values).any(), "the predictions must be numbers; found NaN")
        classes, scores, boxes = self._predicted(values)
        y.fill(0)
        for n, rows in enumerate(bottom[1].data.reshape(len(y), bottom[1].span(1) // 5, 5)):
            objects = self._objects(rows)
            y[n, : self.num_class] = np.bincount(objects[:, 0].astype(int), minlength=self.num_class)
            order = self._kept(scores[n], boxes[n])
            order = order[np.argsort(classes[n][order], kind="stable")]
            found = self._found(classes[n][order], boxes[n][order], objects)
            table = np.column_stack([classes[n][order], scores[n][order], found, ~found])
            y[n, self.num_class : self.num_class + table.size] = table.reshape(-1)

    def _objects(self, rows: NDArray) -> NDArray:
        """The ground truth of an item (G, 5); an error for what is no class."""
        objects = truths(rows, 1)
        classes = objects[:, 0]
        good = np.isfinite(objects).all() and ((classes >= 0) & (classes < self.num_class)).all()
        self.require(bool(good), f"the ground truth must be finite, and its classes lie in 0 .. {self.num_class - 1}")
        self.require_whole(classes, "the classes of the ground truth")
        return objects

    def _predicted(self, values: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Classes (N, K), scores (N, K) and boxes (N, K, 4) of all predictions, cell by cell."""
        anchors = anchors_of(self, self.biases, self.num_object)[: self.num_object] / self.side
        grid = Grid(values, self.num_object, anchors)
        v, count = grid.values, self.num_object * self.side**2
        v[:, :, [0, 1, 4]] = sigmoid(v[:, :, [0, 1, 4]])
        powers = np.exp(v[:, :, 5:] - v[:, :, 5:].max(axis=2, keepdims=True))
        likely = (powers / powers.sum(axis=2, keepdims=True)).max(axis=2)
        score = {self.OBJ: v[:, :, 4], self.PROB: likely}.get(self.score_type, v[:, :, 4] * likely)
        classes, scores = (part.transpose(0, 2, 3, 1).reshape(-1, count) for part in (powers.argmax(axis=2), score))
        return classes, scores, grid.boxes().transpose(0, 2, 3, 1, 4).reshape(-1, count, 4)

    def _kept(self, scores: NDArray, boxes: NDArray) -> NDArray:
        """The places of the boxes that count, the best first."""
        order, kept = np.argsort(-scores, kind="stable"), np.empty(0, int)
        for n in order[scores[order] >= np.float32(_LEAST_SCORE)]:
            if self.nms < 0 or not (iou(boxes[kept], boxes[n]) >= np.float32(self.nms)).any():
                kept = np.append(kept, n)
        return kept

    def _found(self, classes: NDArray, boxes: NDArray, objects: NDArray) -> NDArray:
        """Which boxes, the best of their class first, find an object that none has found before."""
        taken, found = np.zeros(len(objects), bool), np.zeros(len(boxes), bool)
        for n, (kind, box) in enumerate(zip(classes, boxes, strict=True)):
            own = np.flatnonzero(objects[:, 0] == kind)
            if not len(own):
                continue
            overlaps = iou(objects[own, 1:].astype(box.dtype), box)
            best = own[int(np.argmax(overlaps))]
            if overlaps.max() >= np.float32(self.threshold) and not taken[best]:
                taken[best] = found[n] = True
        return found
