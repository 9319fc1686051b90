"""Boxes as the losses of MobileNet-YOLO take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minicaffe.data.annotated_image import AnnotatedImage

ROWS = (300, 5)
"""Rows of an image, and what each of them holds."""


def yolo_rows(images: Sequence[AnnotatedImage], options: Any) -> np.ndarray:
    """Labels (N, 1, 300, 5) of images with boxes: class, x and y of the centre, width, height, relative to the image.

    Labels of the database begin at 1, classes at 0.  Rows without a box are 0; of more than 300 boxes the first count,
    as in eric612/MobileNet-YOLO.  ``options``: an AnnotatedDataParameter; difficult objects count if
    ``train_diffcult``, and with ``single_class`` all are of class 0.
    """
    labels = np.zeros((len(images), 1, *ROWS), np.float32)
    for image, rows in zip(images, labels[:, 0], strict=True):
        counted = image if options.train_diffcult else image.chosen(image.difficult == 0, image.boxes)
        low, high = counted.boxes[:, :2], counted.boxes[:, 2:]
        classes = counted.labels * 0 if options.single_class else counted.labels - 1
        found = np.column_stack([classes, (low + high) / 2, high - low])[: len(rows)]
        rows[: len(found)] = found
    return labels
