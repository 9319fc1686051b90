"""What each cell of a map stands for: the object that its field overlaps most (MS-CNN, Cascade R-CNN)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minicaffe.boxes.pixels import IOFU, IOU, Overlap
from minicaffe.data.scene_of_boxes import BoxScene, Place, rounded


class Level(NamedTuple):
    """A map: pixels a cell, and the size of the cells' fields."""

    stride: int
    width: int
    height: int


class Rules(NamedTuple):
    """When a field stands for an object: overlaps above ``least``.  Fields whose overlaps with unwanted regions sum up
    to ``unwanted`` do not count; in MS-CNN, whatever else they overlap (``unwanted_first``).  An object that no field
    stands for is given to the cell at its middle if some field overlaps it by ``pick_up``.  ``edge``: 1 if far corners
    belong to boxes."""

    measure: Overlap
    edge: int
    least: float
    unwanted: float
    unwanted_first: bool
    pick_up: float
    margin: float | None = None
    """Fields that reach beyond the image by more than this share of half their size do not count."""
    inside: float | None = None
    """Fields of which a smaller share lies in the image do not count."""


def cells(size: int, stride: int) -> int:
    """Cells along an axis of a canvas."""
    return rounded(size / stride)


def ignore_beyond(scene: BoxScene, canvas: tuple[int, int], least: tuple[float, float]) -> np.ndarray:
    """The objects (G, 7), ignored if their middle lies beyond the canvas (height, width), or if they are smaller than
    ``least`` (width, height)."""
    objects = scene.objects.copy()
    middle = (objects[:, :2] + objects[:, 2:4]) / 2
    outside = (middle < 0) | (middle >= np.array(canvas[::-1]))
    small = objects[:, 2:4] - objects[:, :2] + 1 < np.array(least, np.float32)
    objects[(outside | small).any(axis=1), 5] = 1
    return objects


class FieldTargets:
    """The maps (6, H, W) of all levels: label, middle, width and height of the object, and the overlap.

    A cell that stands for nothing has the overlap with what it overlaps most, or 1 where it does not count.
    """

    def __init__(self, levels: Sequence[Level], rules: Rules) -> None:
        self.levels, self.rules = levels, rules

    def __call__(
        self, objects: np.ndarray, unwanted: np.ndarray, canvas: tuple[int, int], places: tuple[Place, Place]
    ) -> list[np.ndarray]:
        """For objects (G, 7) on a canvas (height, width), which the image fills at these places along x and y."""
        maps, best = [], np.zeros((len(self.levels), len(objects)), np.float32)
        matched = np.zeros(len(objects), bool)
        for n, level in enumerate(self.levels):
            found, overlaps, own = self._level(level, objects, unwanted, canvas, places)
            best[n] = overlaps.max(axis=(0, 1), initial=0)
            matched[own] = True
            maps.append(found)
        for k in np.flatnonzero(~matched & (objects[:, 5] == 0)) if self.levels else ():
            n = int(best[:, k].argmax())
            if best[n, k] >= self.rules.pick_up:
                self._pick_up(maps[n], objects[k], self.levels[n].stride, best[n, k])
        return maps

    def _level(self, level: Level, objects: np.ndarray, unwanted: np.ndarray, canvas: tuple, places: tuple) -> tuple:
        """The map of a level, overlaps (H, W, G) of its fields that count, and which objects fields stand for."""
        rules, (rows, columns) = self.rules, (cells(side, level.stride) for side in canvas)
        fields = _fields(level, rows, columns)
        counts = self._counts(level, fields, places)
        regions = rules.measure(fields[:, :, None], unwanted, IOFU).sum(axis=2)
        unsure = regions >= rules.unwanted
        if rules.unwanted_first:
            counts, unsure = counts & ~unsure, np.zeros_like(unsure)
        overlaps = np.where(counts[:, :, None], rules.measure(objects[:, :4], fields[:, :, None], IOU), 0)
        largest = overlaps.max(axis=2, initial=0)
        stands = largest > rules.least
        found = np.zeros((6, rows, columns), np.float32)
        found[5] = np.where(~counts | (unsure & ~stands), 1, largest)
        own = overlaps[stands].argmax(axis=1) if len(objects) else np.empty(0, int)
        found[:5, stands] = self._rows(objects[own]).T
        return found, overlaps, own

    def _counts(self, level: Level, fields: np.ndarray, places: tuple[Place, Place]) -> np.ndarray:
        """Which cells (H, W) count: those in the image whose fields reach little beyond it."""
        counts = np.ones(fields.shape[:2], bool)
        first, last = (
            np.array([place.on_canvas + end * place.count for place in places], np.float32) for end in (0, 1)
        )
        for axis, place in enumerate(places):
            start, many = rounded(place.on_canvas / level.stride), rounded(place.count / level.stride)
            at = np.arange(fields.shape[1 - axis])
            inside = (at >= start) & (at < start + many)
            counts &= inside if axis == 0 else inside[:, None]
        if self.rules.margin is not None:
            margin = np.float32(self.rules.margin) * np.array([level.width, level.height], np.float32) / 2
            counts &= ((fields[..., :2] >= first - margin) & (fields[..., 2:] < last + margin)).all(axis=2)
        elif self.rules.inside is not None:
            share = self.rules.measure(fields, np.concatenate([first, last]), IOFU)
            counts &= share >= self.rules.inside
        return counts

    def _rows(self, objects: np.ndarray) -> np.ndarray:
        """Label, middle, width and height of objects (M, 7); an ignored one's label is 0."""
        labels = np.where(objects[:, 5] != 0, 0, objects[:, 4])
        middle = (objects[:, :2] + objects[:, 2:4]) / 2
        return np.column_stack([labels, middle, objects[:, 2:4] - objects[:, :2] + self.rules.edge])

    def _pick_up(self, found: np.ndarray, one: np.ndarray, stride: int, overlap: float) -> None:
        """Let the cell at the middle of an object stand for it, unless it stands for another."""
        row = self._rows(one[None])[0]
        x, y = (min(max(int(row[1 + k] // stride), 0), found.shape[2 - k] - 1) for k in (0, 1))
        if found[0, y, x] == 0:
            found[:5, y, x] = row
            if not self.rules.unwanted_first:
                found[5, y, x] = overlap


def _fields(level: Level, rows: int, columns: int) -> np.ndarray:
    """The boxes (H, W, 4) of a level's fields."""
    middle = (np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1) + 0.5) * level.stride
    half = np.array([level.width, level.height]) / 2
    return np.concatenate([middle - half, middle + half], axis=-1).astype(np.float32)
