"""Prior boxes with the variances of their codes."""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from minicaffe.boxes import coding


class PriorBoxes:
    """The boxes and variances, (P, 4) each, that PriorBox layers have put in a blob (1, 2, 4P).

    ``code_type``: how boxes are written down (``boxes.coding``).  ``in_target``: whether the variances are part of what
    a net predicts; otherwise it predicts codes divided by them.
    """

    def __init__(self, values: NDArray, code_type: int, in_target: bool) -> None:
        self.boxes, self.variances = values.reshape(values.shape[1], -1, 4)
        self.code_type = code_type
        self.in_target = in_target

    def __len__(self) -> int:
        return len(self.boxes)

    def decode(self, codes: NDArray) -> NDArray:
        """The boxes (…, P, 4) that are meant by ``codes``, as a net predicts them."""
        return coding.decode(self.boxes, codes if self.in_target else codes * self.variances, self.code_type)

    def decode_corners(self, codes: NDArray) -> NDArray:
        """The quadrilaterals (…, P, 8), x and y of corners clockwise from the upper left, that are meant by ``codes``,
        as a net predicts them: how far they are from those of the priors, in sides of these (TextBoxes++)."""
        sides = self.boxes[:, 2:] - self.boxes[:, :2]
        scales = sides if self.in_target else sides * self.variances[:, :2]
        return self.boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]] + codes * np.tile(scales, 4)

    def refined(self, codes: NDArray) -> PriorBoxes:
        """Prior boxes of the same variances where ``codes`` (P, 4) say that these should lie (RefineDet)."""
        moved = copy.copy(self)
        moved.boxes = self.decode(codes)
        return moved

    def encode(self, boxes: NDArray, which: NDArray) -> NDArray:
        """What a net should predict at the priors numbered ``which`` (M,) for ``boxes`` (M, 4)."""
        codes = coding.encode(self.boxes[which], boxes, self.code_type)
        return codes if self.in_target else codes / self.variances[which]
