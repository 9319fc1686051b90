"""Databases of images and of image pairs, as Caffe's MNIST converters write them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from minicaffe.data.datum import from_array
from minicaffe.data.db import open_db
from minicaffe.errors import DataError


class Written(NamedTuple):
    """What was written: where, in which backend, how many records, in all and of each label (none if images have
    several, or fractions).
    """

    path: str
    backend: str
    records: int
    labels: dict[int, int]


def write_images(
    path: str | os.PathLike[str],
    images: np.ndarray,
    labels: np.ndarray,
    backend: str = "lmdb",
    overwrite: bool = False,
    digits: int = 8,
) -> Written:
    """Write a database of uint8 images (N, height, width) or (N, channels, height, width) and their labels.

    ``labels`` are (N,), or (N, L), several an image; those and fractions are stored as floats, which the Data layer
    gives as (N, L).  Caffe has one whole number an image.

    Keys are the images' numbers in so many ``digits``. The database appears at ``path`` when it is complete; one that
    exists is left as it is, unless ``overwrite``. Raises DataError: as ``open_db`` does, a full disk, counts that
    differ.
    """
    if len(images) != len(labels):
        raise DataError(f"{len(images)} images but {len(labels)} labels")
    if images.ndim == 3:
        images = images[:, np.newaxis]
    if labels.ndim == 1 and not np.array_equal(labels, labels.astype(np.int32)):
        labels = labels[:, np.newaxis]
    return _write(path, zip(images, labels, strict=True), backend, overwrite, digits)


def write_pairs(
    path: str | os.PathLike[str],
    images: np.ndarray,
    pairs: np.ndarray,
    similar: np.ndarray,
    backend: str = "leveldb",
    overwrite: bool = False,
) -> Written:
    """Write a siamese database: record k holds images ``pairs[k]`` one behind the other, and ``similar[k]`` as its
    label.

    ``images`` uint8 (N, height, width) or (N, channels, height, width): the records have 2 or 2 x channels channels.
    ``pairs`` (count, 2), ``similar`` (count,). Otherwise as ``write_images``.
    """
    if len(pairs) != len(similar):
        raise DataError(f"{len(pairs)} pairs but {len(similar)} labels")
    if images.ndim == 3:
        images = images[:, np.newaxis]
    return _write(path, _joined(images, pairs, similar), backend, overwrite)


def _joined(images: np.ndarray, pairs: np.ndarray, similar: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    for (i, j), label in zip(pairs, similar, strict=True):
        yield np.concatenate([images[i], images[j]]), label


def _write(
    path: str | os.PathLike[str],
    records: Iterable[tuple[np.ndarray, int | np.ndarray]],
    backend: str,
    overwrite: bool,
    digits: int = 8,
) -> Written:
    labels: Counter[int] = Counter()
    with open_db(path, backend, "replace" if overwrite else "new") as database:
        for n, (image, label) in enumerate(records):
            database.put(b"%0*d" % (digits, n), from_array(image, label).SerializeToString())
            if np.ndim(label) == 0:
                labels[int(label)] += 1
    return Written(database.path, database.backend, database.count, dict(sorted(labels.items())))
