"""Folders of images and of the labels of their pixels, with the lists that DenseImageData and ImageSegData read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from minicaffe.errors import DataError
from minicaffe.proto.atomic import write_atomic


def write_label_maps(
    folder: str | os.PathLike[str], name: str, items: Iterable[tuple[np.ndarray, np.ndarray]], overwrite: bool = False
) -> str:
    """Write gray images uint8 (1, height, width) and the labels of their pixels, uint8 (height, width), as PNG files of
    equal names into ``folder``/``name`` and ``folder``/``name``_labels; the path of their list, ``name``.txt beside
    them, whose paths start from ``folder``.

    The list is written last: where it is, all is there.  DataError if there is one, unless it is to be overwritten, or
    if something cannot be written.
    """
    from PIL import Image

    places, written = (name, f"{name}_labels"), Path(folder, f"{name}.txt")
    if written.exists() and not overwrite:
        raise DataError(f"{written} exists; give --overwrite (overwrite=True) to replace it and its images")
    try:
        written.unlink(missing_ok=True)
        for place in places:
            Path(folder, place).mkdir(parents=True, exist_ok=True)
        lines = []
        for n, (image, labels) in enumerate(items):
            pair = [f"{place}/{n:05}.png" for place in places]
            for file, pixels in zip(pair, (image[0], labels), strict=True):
                Image.fromarray(pixels).save(Path(folder, file))
            lines.append(" ".join(pair) + "\n")
    except OSError as error:
        raise DataError(f"{folder} cannot be written to: {error.strerror or error}") from None
    write_atomic(written, "".join(lines).encode())
    return str(written)
