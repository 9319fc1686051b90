"""Pairs of images, similar or not: drawn by label, or from a user's own list or folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minicaffe.backend.random import Stream
from minicaffe.data.image import read_image, resize
from minicaffe.errors import DataError

_SHOWN = 10  # problems of a list that an error spells out


class Pairs(NamedTuple):
    """``images`` uint8 (N, channels, height, width); ``pairs`` (count, 2), their numbers; ``similar``
    (count,), 0 or 1.
    """

    images: np.ndarray
    pairs: np.ndarray
    similar: np.ndarray


def draw_pairs(
    labels: np.ndarray, count: int | None = None, seed: int = 1, balance: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Draw ``count`` pairs (default: as many as there are images): numbers int64 (count, 2), similar uint8 (count,).

    As Caffe's converter does, both images are drawn from all, with replacement: of ten classes about a tenth of the
    pairs is similar. With ``balance`` every other pair is: its second image is drawn from the first one's class, or
    from all other classes. Raises DataError without images, or for ``balance`` without a second class.
    """
    num = len(labels)
    if num == 0:
        raise DataError("pairs need at least one image; there is none")
    count = num if count is None else count
    if count < 1:
        raise DataError(f"{count} pairs: the number of pairs must be at least 1")
    draws = Stream(seed).draws(2 * count).reshape(-1, 2).astype(np.int64)
    pairs = draws % num
    if balance:
        pairs[:, 1] = _balanced(labels, pairs[:, 0], draws[:, 1])
    first, second = labels[pairs].T
    return pairs, (first == second).astype(np.uint8)


def _balanced(labels: np.ndarray, first: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """The second images: of the first one's class in pairs 0, 2, ..., of another in pairs 1, 3, ..."""
    by_class = np.argsort(labels, kind="stable")
    classes, start, size = np.unique(labels[by_class], return_index=True, return_counts=True)
    if len(classes) < 2:
        raise DataError("balanced pairs need images of at least two classes; all of these have one label")
    own = np.searchsorted(classes, labels[first])
    same = start[own] + draws % size[own]
    other = draws % (len(labels) - size[own])
    other += np.where(other >= start[own], size[own], 0)
    return by_class[np.where(np.arange(len(first)) % 2 == 0, same, other)]


def pairs_from_folder(
    folder: str | os.PathLike[str],
    height: int,
    width: int,
    color: bool = False,
    count: int | None = None,
    seed: int = 1,
    balance: bool = False,
) -> Pairs:
    """Pairs of the images in a folder of folders, one for each class; ``count``, ``seed``, ``balance`` as in
    ``draw_pairs``.

    Images are decoded to gray, or to BGR with ``color``, and resized. Hidden files are left out. Raises DataError: no
    such folder, no images in it, or a file that is no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            f"image folder {root.absolute()}: not found; give a folder that holds one folder of images a class"
        )
    classes = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted(name.iterdir())
        if file.is_file() and not file.name.startswith(".")
    ]
    if not files:
        raise DataError(f"image folder {root.absolute()}: no images; it must hold one folder of images a class")
    images = _load([file for file, _ in files], height, width, color)
    return Pairs(images, *draw_pairs(np.array([label for _, label in files]), count, seed, balance))


def pairs_from_list(list_file: str | os.PathLike[str], height: int, width: int, color: bool = False) -> Pairs:
    """The pairs that a text file lists, a line each: ``path_a path_b same``, ``same`` being 1 or 0.

    Fields are separated by tabs, or by spaces where the line has no tab. Relative paths start at the list's folder;
    empty lines are skipped. Images are decoded to gray, or to BGR with ``color``, and resized.

    Raises DataError: a list that cannot be read or is empty, naming each bad line (file:line), a file that is no image.
    """
    path = Path(list_file)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"pair list {path.absolute()}: cannot be read ({error})") from error
    numbers: dict[Path, int] = {}
    pairs, similar, problems = [], [], []
    for n, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = line.strip().split("\t" if "\t" in line else None)
        problem = _problem(fields, path.parent)
        if problem:
            problems.append(f"{path}:{n}: {problem}")
            continue
        pairs.append([numbers.setdefault(path.parent / name, len(numbers)) for name in fields[:2]])
        similar.append(int(fields[2]))
    if problems:
        more = f"\n(and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        raise DataError("\n".join(problems[:_SHOWN]) + more)
    if not pairs:
        raise DataError(f"pair list {path.absolute()}: empty; it takes lines 'path_a path_b same', same being 1 or 0")
    return Pairs(_load(list(numbers), height, width, color), np.array(pairs), np.array(similar, np.uint8))


def _problem(fields: list[str], folder: Path) -> str | None:
    """What is wrong with a line of a pair list, or None."""
    if len(fields) != 3:
        return (
            f"{len(fields)} fields, expected 3: path_a path_b same (separate them by tabs if a path has spaces in it)"
        )
    if fields[2] not in ("0", "1"):
        return f"the third field is {fields[2]!r}, expected 1 (same) or 0 (different)"
    missing = [name for name in fields[:2] if not (folder / name).is_file()]
    return f"no such file: {', '.join(missing)} (relative paths start at {folder.absolute()})" if missing else None


def _load(files: list[Path], height: int, width: int, color: bool) -> np.ndarray:
    """The images of ``files``, resized, uint8 (N, channels, height, width)."""
    if height < 1 or width < 1:
        raise DataError(f"images cannot be resized to {height} x {width} (height x width); both must be at least 1")
    images = np.empty((len(files), 3 if color else 1, height, width), np.uint8)
    for image, file in zip(images, files, strict=True):
        image[:] = resize(read_image(file, color), height, width)
    return images
