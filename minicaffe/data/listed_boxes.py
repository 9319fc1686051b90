"""Images and the boxes in them that a text file lists, as MS-CNN and Cascade R-CNN write their window files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from minicaffe.data.window_source import block_at, read_window_file
from minicaffe.errors import DataError


class ListedImage(NamedTuple):
    """An image of the list: its path, its size (channels, height, width) there, and what is in it.

    ``objects`` (G, 7): x1, y1, x2, y2, label, ignored, difficult; ``unwanted`` (K, 4): regions that do not count.
    """

    path: str
    size: tuple[int, int, int]
    objects: np.ndarray
    unwanted: np.ndarray


_WORD = re.compile(r"\s*(\S+)")


def read_boxes(path: str, difficult: bool) -> list[ListedImage]:
    """The images of a window file of blocks ``# index path channels height width count``, each followed by ``count``
    times ``label ignored [difficult] x1 y1 x2 y2``, the number of regions that do not count, and for each its ``x1 y1
    x2 y2``; all separated by white space.  Whether a line tells if an object is difficult is for the caller to know.

    Raises DataError for a file that cannot be read or that reads otherwise.
    """
    where, text = read_window_file(path)
    found: list[ListedImage] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        block = block_at(where, text, position, len(found), "objects")
        try:
            image, position = _image(block, text, difficult)
        except ValueError as error:
            raise DataError(f"{where}, block {len(found)}: {error}") from None
        found.append(image)
    if not found:
        raise DataError(f"{where} is empty")
    return found


def _image(block: re.Match, text: str, difficult: bool) -> tuple[ListedImage, int]:
    """The image of a block, and where the text goes on; ValueError if it is none."""
    position = block.end()

    def numbers(count: int) -> Iterator[float]:
        nonlocal position
        for _ in range(count):
            word = _WORD.match(text, position)
            if word is None:
                raise ValueError("the file ends in the middle of it")
            position = word.end()
            yield float(word.group(1))

    width = 7 if difficult else 6
    count = int(block["count"])
    table = np.fromiter(numbers(count * width), np.float32).reshape(count, width)
    if not difficult:
        table = np.insert(table, 2, 0, axis=1)
    labels = table[:, 0]
    if not (np.isfinite(table).all() and (labels > 0).all() and (labels == np.floor(labels)).all()):
        raise ValueError("objects need a label, a positive whole number, and corners")
    regions = next(numbers(1))
    if regions < 0 or regions != int(regions):
        raise ValueError(f"'{regions:g}' is no number of regions that do not count")
    unwanted = np.fromiter(numbers(4 * int(regions)), np.float32).reshape(int(regions), 4)
    channels, height, columns = (int(word) for word in block["sizes"].split())
    name = block["path"] or block["line"]
    return ListedImage(name, (channels, height, columns), table[:, [3, 4, 5, 6, 0, 1, 2]], unwanted), position
