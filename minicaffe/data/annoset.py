"""Databases of image files with boxes or labels, as SSD's ``convert_annoset`` makes them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from minicaffe import proto
from minicaffe.data.annotations import Annotations, Box
from minicaffe.data.datum import from_array
from minicaffe.data.db import open_db
from minicaffe.data.image import read_image, resize
from minicaffe.data.imageset import Recoding
from minicaffe.data.write import Written
from minicaffe.errors import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sides(Recoding):
    """A ``Recoding`` that may also resize images in proportion: so that the shorter side becomes ``min_dim``, but the
    longer one not more than ``max_dim``."""

    min_dim: int = 0
    max_dim: int = 0

    def pixels(self, path: str) -> np.ndarray:
        """The image in a file, uint8 (channels, height, width); DataError if it cannot be read."""
        pixels = read_image(path, self.color)
        height, width = self.height, self.width
        if self.min_dim or self.max_dim:
            sides = pixels.shape[1:]
            scale = self.min_dim / min(sides) if self.min_dim else 1.0
            if self.max_dim:
                scale = min(scale, self.max_dim / max(sides))
            height, width = (max(int(side * scale), 1) for side in sides)
        return resize(pixels, height, width) if height > 0 and width > 0 else pixels


def annotated(datum: proto.Datum, boxes: Sequence[Box] | None) -> proto.AnnotatedDatum:
    """A record of an image and the boxes in it, grouped by class, those of a class numbered; None: no annotation."""
    record = proto.AnnotatedDatum(datum=datum)
    if boxes is None:
        return record
    record.type = proto.AnnotatedDatum.BBOX
    groups: dict[int, proto.AnnotationGroup] = {}
    for box in boxes:
        if box.label not in groups:
            groups[box.label] = record.annotation_group.add(group_label=box.label)
        group = groups[box.label]
        annotation = group.annotation.add(instance_id=len(group.annotation))
        b = annotation.bbox
        b.xmin, b.ymin, b.xmax, b.ymax, b.difficult = box[1:]
    return record


def write_annotated(
    path: str | os.PathLike[str],
    images: Iterable[np.ndarray],
    boxes: Iterable[Sequence[Box]],
    backend: str = "lmdb",
    overwrite: bool = False,
) -> Written:
    """Write a database of uint8 images (channels, height, width), each with its boxes, under the keys 00000000, …

    What is counted by label are the boxes.  Otherwise as ``write.write_images``.
    """
    labels: Counter[int] = Counter()
    with open_db(path, backend, "replace" if overwrite else "new") as database:
        for n, (image, own) in enumerate(zip(images, boxes, strict=True)):
            database.put(b"%08d" % n, annotated(from_array(image, -1), own).SerializeToString())
            labels.update(box.label for box in own)
    return Written(database.path, database.backend, database.count, dict(sorted(labels.items())))


def write_annoset(
    path: str | os.PathLike[str],
    root: str,
    entries: Iterable[tuple[str, str]],
    recoding: Sides,
    annotations: Annotations | None,
    backend: str = "lmdb",
    overwrite: bool = False,
    check_size: bool = False,
) -> tuple[Written, list[str]]:
    """Write a database of image files (the first of each entry) and what is in them; what was written, and the files
    that were left out.

    With ``annotations`` the second of an entry is a file of boxes, without a label.  Files are found in ``root``; keys
    are ``%08d_name``; images that cannot be read are logged and left out.  Records tell the sizes of encoded images,
    too.  What is counted by label are the boxes, or the images.

    Raises DataError: as ``open_db`` does; annotations that cannot be read; images of several sizes, if they are
    checked; not one image.
    """
    labels: Counter[int] = Counter()
    skipped: list[str] = []
    expected = None
    with open_db(path, backend, "replace" if overwrite else "new") as database:
        for n, (name, what) in enumerate(entries):
            file = os.path.join(root, name)
            try:
                pixels = recoding.pixels(file)
            except DataError as error:
                _log.warning("Failed to read %s: %s", name, error)
                skipped.append(name)
                continue
            expected = expected or pixels.shape
            if check_size and pixels.shape != expected:
                raise DataError(
                    f"image {file}: its shape is {pixels.shape} (channels, height, width), that of the first "
                    f"{expected}; resize them to one size"
                )
            height, width = _size(file, recoding, pixels)
            boxes = annotations.read(os.path.join(root, what), name, height, width) if annotations else None
            datum = _datum(recoding, file, pixels, -1 if annotations else int(what))
            database.put(b"%08d_%s" % (n, os.fsencode(name)), annotated(datum, boxes).SerializeToString())
            labels.update([datum.label] if boxes is None else [box.label for box in boxes])
        if not database.count:
            raise DataError(f"{backend} database {database.path}: not one of {len(skipped)} images could be read")
    return Written(database.path, database.backend, database.count, dict(sorted(labels.items()))), skipped


def _size(file: str, recoding: Sides, pixels: np.ndarray) -> tuple[int, int]:
    """The height and width of an image file, to which its boxes are relative."""
    resized = recoding.height or recoding.width or recoding.min_dim or recoding.max_dim
    shape = read_image(file, recoding.color).shape if resized else pixels.shape
    return shape[1], shape[2]


def _datum(recoding: Sides, file: str, pixels: np.ndarray, label: int) -> proto.Datum:
    """The record of an image; an encoded one tells its sizes."""
    if recoding.min_dim or recoding.max_dim:  # the file itself has other sizes
        recoding = replace(recoding, height=pixels.shape[1], width=pixels.shape[2])
    datum = recoding.datum(file, pixels, label)
    datum.channels, datum.height, datum.width = pixels.shape
    return datum
