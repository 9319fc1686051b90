"""Boxes in images, as files describe them: PASCAL VOC's XML, COCO's JSON, lines of text."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from minicaffe import limits, proto
from minicaffe.errors import DataError
from minicaffe.proto.text import read_text

_log = logging.getLogger(__name__)
_LABELS = range(-(2**31), 2**31)  # those that a record holds
_FARTHEST = 2.0**31  # pixels
_DAMAGES = (
    ElementTree.ParseError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading something that is not a file of boxes ends in."""


class Box(NamedTuple):
    """A box of class ``label``, relative to its image."""

    label: int
    xmin: float
    ymin: float
    xmax: float
    ymax: float
    difficult: bool = False


class LabelMap:
    """The classes of a LabelMap file (prototxt): names to labels, and labels to the names to show.

    Raises DataError for a file that cannot be read, and with ``unique`` for a name or label that occurs twice.
    """

    def __init__(self, path: str | os.PathLike[str], unique: bool = False) -> None:
        self.path = os.fspath(path)
        message = read_text(self.path, proto.LabelMap)
        self.label_of: dict[str, int] = {}
        self.shown: dict[int, str] = {}
        for item in message.item:
            if unique and (item.name in self.label_of or item.label in self.shown):
                raise DataError(f"label map {self.path}: the name {item.name!r} or label {item.label} occurs twice")
            self.label_of[item.name] = item.label
            self.shown[item.label] = item.display_name or item.name

    def label(self, name: str) -> int:
        """The label of a name; DataError naming it if there is none."""
        if name not in self.label_of:
            known = ", ".join(list(self.label_of)[:10])
            raise DataError(f"Unknown name: {name!r}; the label map {self.path} has {known}")
        return self.label_of[name]


class Annotations:
    """Reads the boxes of images from files of one ``kind``: ``xml`` (PASCAL VOC), ``json`` (COCO) or ``txt``.

    ``txt`` gives labels as numbers; the others names, which ``labels`` translates.  A JSON file is one image's
    (``image``, ``annotation``), or that of a whole data set, in which images are found by their ``file_name``; there
    ``labels`` may also have the names of the categories, and without it labels are the categories' numbers.
    """

    def __init__(self, kind: str, labels: LabelMap | None) -> None:
        self._kind, self._labels = kind, labels
        self._sets: dict[str, dict[str, list[Box]]] = {}

    def read(self, path: str, image: str, height: int, width: int) -> list[Box]:
        """The boxes of an image of these sizes, which count where the file does not tell them.

        Raises DataError for a file that cannot be read or is not so, a name that is no class, an unknown image.
        """
        try:
            if path not in self._sets:
                return self._of(limits.read_file(path, times=8), path, height, width)
            return self._of_set(path, image)
        except _WholeSet:
            return self._of_set(path, image)
        except OSError as error:
            raise DataError(f"annotation {path}: cannot be read ({error.strerror})") from None
        except DataError as error:
            raise DataError(f"annotation {path}: {error}") from None
        except _DAMAGES as error:
            raise DataError(
                f"annotation {path}: not a file of boxes ({self._kind}): {type(error).__name__}: {error}"
            ) from None

    def _of(self, content: bytes, path: str, height: int, width: int) -> list[Box]:
        if self._kind == "txt":
            return _of_text(content.decode(), height, width)
        if self._kind == "json" and "images" in (tree := json.loads(content)):
            self._sets[path] = _of_set(tree, self._labels)
            raise _WholeSet
        if self._labels is None:
            raise DataError("names of classes need a label map; give --label_map_file")
        if self._kind == "json":
            return _of_json(tree, self._labels, height, width)
        return _of_xml(ElementTree.fromstring(content), self._labels, height, width)

    def _of_set(self, path: str, image: str) -> list[Box]:
        for name in (image, os.path.basename(image)):
            if name in self._sets[path]:
                return self._sets[path][name]
        raise DataError(f"annotation {path}: has no image of the file_name {image!r}")


class _WholeSet(Exception):  # noqa: N818  (no error: the file is read otherwise)
    """A JSON file that describes a whole data set."""


def _of_text(text: str, height: int, width: int) -> list[Box]:
    """Lines ``label xmin ymin xmax ymax`` in pixels."""
    boxes = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 5:
            raise DataError(f"line {number}: expected 'label xmin ymin xmax ymax'; found {line.strip()!r}")
        boxes.append(_box(int(words[0]), [float(word) for word in words[1:]], height, width))
    return _kept(boxes)


def _of_xml(root: ElementTree.Element, labels: LabelMap, height: int, width: int) -> list[Box]:
    """``object`` elements with ``name``, ``bndbox`` and ``difficult``."""
    height, width = int(root.findtext("size/height") or height), int(root.findtext("size/width") or width)
    boxes = []
    for item in root.iter("object"):
        corners = [float(item.findtext(f"bndbox/{name}", "")) for name in ("xmin", "ymin", "xmax", "ymax")]
        label = labels.label((item.findtext("name") or "").strip())
        boxes.append(_box(label, corners, height, width, (item.findtext("difficult") or "0").strip() == "1"))
    return _kept(boxes)


def _of_json(content: Any, labels: LabelMap, height: int, width: int) -> list[Box]:
    """``annotation`` objects with ``category_id`` and ``bbox`` (x, y, width, height); ``iscrowd``: difficult."""
    image = content.get("image", {})
    height, width = image.get("height", height), image.get("width", width)
    return _kept(
        _coco_box(item, labels.label(str(item["category_id"])), height, width) for item in content["annotation"]
    )


def _coco_box(item: Mapping[str, Any], label: int, height: int, width: int) -> Box:
    x, y, w, h = item["bbox"]
    return _box(label, [x, y, x + w, y + h], height, width, bool(item.get("iscrowd", 0)))


def _of_set(content: Any, labels: LabelMap | None) -> dict[str, list[Box]]:
    """The boxes of each image, by its ``file_name``, of a whole data set in COCO's form."""
    images = {image["id"]: image for image in content["images"]}
    names = {item["id"]: item["name"] for item in content.get("categories", ())}
    boxes: dict[str, list[Box]] = {image["file_name"]: [] for image in images.values()}
    for item in content["annotations"]:
        image, category = images[item["image_id"]], item["category_id"]
        label = category
        if labels is not None:
            known = str(category) in labels.label_of
            label = labels.label(str(category) if known else names.get(category, str(category)))
        boxes[image["file_name"]] += _kept([_coco_box(item, label, image["height"], image["width"])])
    return boxes


def _box(label: int, corners: list[float], height: int, width: int, difficult: bool = False) -> Box:
    xmin, ymin, xmax, ymax = map(float, corners)
    if not (height > 0 and width > 0):
        raise DataError(f"the size of the image must be positive; found {height} x {width} (height, width)")
    if not all(abs(value) < _FARTHEST for value in (xmin, ymin, xmax, ymax, height, width)):
        raise DataError(f"corners of boxes must be numbers, of pixels; found {corners}")
    if type(label) is not int or label not in _LABELS:
        raise DataError(f"labels must be whole numbers of 32 bits; found {label!r}")
    return Box(label, xmin / width, ymin / height, xmax / width, ymax / height, difficult)


def _kept(boxes: Iterable[Box]) -> list[Box]:
    """The boxes that enclose something; the others are logged."""
    kept = []
    for box in boxes:
        if box.xmax > box.xmin and box.ymax > box.ymin:
            kept.append(box)
        else:
            _log.warning("a box of label %d encloses nothing, and is left out", box.label)
    return kept


def read_pairs(path: str) -> list[tuple[str, str]]:
    """The lines ``image annotation`` of a list of files; DataError for others."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise DataError(f"list of images {path}: cannot be read ({error.strerror})") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        image, space, annotation = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not space:
            raise DataError(f"list of images {path}, line {number}: expected 'image annotation'; found {line!r}")
        pairs.append((image.strip(), annotation))
    if not pairs:
        raise DataError(f"list of images {path}: names no image")
    return pairs
