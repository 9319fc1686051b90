"""Average precision over all batches of a test, from what DetectionEvaluate layers tell of each."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from minicaffe.boxes.evaluation import average_precision


class Precision:
    """Gathers the rows of DetectionEvaluate's tops."""

    def __init__(self) -> None:
        self._positives: Counter[int] = Counter()
        self._rows: list[NDArray] = []

    def add(self, rows: NDArray) -> None:
        """Take the rows (…, 5) of a batch: (-1, label, ground truths, …), or (item, label, score, right, wrong)."""
        rows = rows.reshape(-1, 5)
        counts = rows[:, 0] == -1
        for label, count in rows[counts, 1:3].astype(int).tolist():
            self._positives[label] += count
        judged = (rows[:, 3] != 0) | (rows[:, 4] != 0)  # what finds a difficult object is neither right nor wrong
        self._rows.append(rows[~counts & judged, 1:4].copy())

    def of_classes(self, version: str) -> dict[int, float]:
        """The average precision of each class, by ``version`` (``boxes.evaluation.AP_VERSIONS``)."""
        rows = np.concatenate([np.empty((0, 3)), *self._rows])
        found = {}
        for label in sorted(self._positives):
            own = rows[rows[:, 0] == label]
            found[label] = average_precision(own[:, 1], own[:, 2], self._positives[label], version)
        return found

    def mean(self, version: str) -> float:
        """The mean over the classes, mAP."""
        values = list(self.of_classes(version).values())
        return float(np.mean(values)) if values else 0.0
