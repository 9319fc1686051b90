"""Databases of the image files that a list or a folder names, as Caffe's ``convert_imageset`` makes them."""

from __future__ import annotations

import io
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minicaffe import limits, proto
from minicaffe.data.datum import from_array, set_label
from minicaffe.data.db import open_db
from minicaffe.data.image import read_image, resize
from minicaffe.data.image_source import ends_in_number
from minicaffe.data.store import COMMIT_EVERY
from minicaffe.data.write import Written
from minicaffe.errors import DataError

_log = logging.getLogger(__name__)

_JPEG_QUALITY = 95  # OpenCV's

Entry = tuple[str, "int | np.ndarray"]
"""The name of an image file, and its label, or its several (L,)."""


@dataclass(frozen=True)
class Recoding:
    """What becomes of an image file on its way into a database.

    ``color``: three channels (BGR), else one.  ``height`` and ``width``: the size it is resized to, if both are
    positive.  ``encoded``: keep it compressed, in the file's own format or in ``encode_type`` ("png", "jpg", ...),
    which means ``encoded`` too.
    """

    color: bool = True
    height: int = 0
    width: int = 0
    encoded: bool = False
    encode_type: str = ""

    def pixels(self, path: str) -> np.ndarray:
        """The image in a file, uint8 (channels, height, width); DataError if it cannot be read."""
        pixels = read_image(path, self.color)
        return resize(pixels, self.height, self.width) if self.height > 0 and self.width > 0 else pixels

    def datum(self, path: str, pixels: np.ndarray, label: int | np.ndarray) -> proto.Datum:
        """The record of an image file that holds ``pixels``.

        Caffe: a file that is to keep its size and format is stored byte by byte, even in other colours than asked for;
        encoded records do not tell their shape.  Raises DataError for an unknown format.
        """
        if not (self.encoded or self.encode_type):
            datum = from_array(pixels, label)
            datum.encoded = False
            return datum
        extension = os.path.splitext(path)[1].removeprefix(".").lower()
        kind = self.encode_type or extension
        kept = self.height <= 0 and self.width <= 0 and _same_format(extension, kind.lower())
        datum = proto.Datum(data=limits.read_file(path) if kept else _encode(pixels, kind), encoded=True)
        set_label(datum, label)
        return datum


def _same_format(a: str, b: str) -> bool:
    return a == b or {a, b} == {"jpg", "jpeg"}


def _encode(pixels: np.ndarray, kind: str) -> bytes:
    """An image file of type ``kind`` that holds ``pixels`` (channels, height, width), BGR or gray."""
    from PIL import Image

    name = Image.registered_extensions().get(f".{kind.lower()}")
    if name not in Image.SAVE:
        raise DataError(f"images cannot be encoded as {kind!r}; set encode_type to png or jpg")
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0)))
    content = io.BytesIO()
    image.save(content, format=name, **({"quality": _JPEG_QUALITY} if name == "JPEG" else {}))
    return content.getvalue()


def files_by_class(folder: str | os.PathLike[str]) -> tuple[list[tuple[str, int]], list[str]]:
    """The images in a folder of folders, one for each class: (path in it, label), and the classes' names by label.

    Both are sorted by name; hidden files are left out.  DataError: no such folder, or nothing in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"image folder {root.absolute()}: not found; it must hold one folder of images a class")
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    entries = [
        (f"{name}/{file.name}", label)
        for label, name in enumerate(classes)
        for file in sorted((root / name).iterdir())
        if file.is_file() and not file.name.startswith(".")
    ]
    if not entries:
        raise DataError(f"image folder {root.absolute()}: no images; it must hold one folder of images a class")
    return entries, classes


def write_imageset(
    path: str | os.PathLike[str],
    root: str,
    entries: Iterable[Entry],
    recoding: Recoding,
    backend: str = "lmdb",
    overwrite: bool = False,
    check_size: bool = False,
) -> tuple[Written, list[str]]:
    """Write a database of image files and labels; what was written, and the names of the files that were left out.

    Caffe: a file's path is ``root`` and its name, put together as they are; its key ``%08d_name`` counts the entries;
    files that cannot be read are logged and skipped.  ``check_size``: all must be of one shape (Caffe's own check fails
    for encoded images).

    Raises DataError: as ``open_db`` does; images of several sizes, if they are checked; not one image; an image that
    cannot be encoded as asked for.
    """
    labels: Counter[int] = Counter()
    skipped: list[str] = []
    expected = None
    with open_db(path, backend, "replace" if overwrite else "new") as database:
        for n, (name, label) in enumerate(entries):
            file = root + name
            try:
                pixels = recoding.pixels(file)
            except DataError as error:
                _log.error("Could not open or find file %s: %s", file, error)
                skipped.append(name)
                continue
            expected = expected or pixels.shape
            if check_size and pixels.shape != expected:
                raise DataError(
                    f"image {file}: its shape is {pixels.shape} (channels, height, width), that of the first "
                    f"{expected}; resize them to one size"
                )
            datum = recoding.datum(file, pixels, label)
            database.put(b"%08d_%s" % (n, os.fsencode(name)), datum.SerializeToString())
            if np.ndim(label) == 0:
                labels[int(label)] += 1
            if database.count % COMMIT_EVERY == 0:
                _log.info("Processed %d files.", database.count)
        if database.count % COMMIT_EVERY:
            _log.info("Processed %d files.", database.count)
        if not database.count:
            several = skipped and ends_in_number(skipped[0])
            raise DataError(
                f"{backend} database {database.path}: not one of {len(skipped)} images could be read"
                + (f"; '{skipped[0]}' ends in a number: tell how many --labels an image has" if several else "")
            )
    return Written(database.path, database.backend, database.count, dict(sorted(labels.items()))), skipped
