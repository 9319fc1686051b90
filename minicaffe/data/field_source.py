"""Batches of images, maps of what each cell stands for, and objects, for MS-CNN and Cascade R-CNN to train on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np

from minicaffe.backend.random import Stream
from minicaffe.boxes.pixels import overlap, overlap_of_pixels
from minicaffe.data.distortion import Distortion, between, chance
from minicaffe.data.field_targets import FieldTargets, Level, Rules, cells, ignore_beyond
from minicaffe.data.listed_boxes import ListedImage
from minicaffe.data.listed_source import ListedReader, object_rows
from minicaffe.data.scene_of_boxes import BoxScene, Place, place, rounded
from minicaffe.data.source import Batch
from minicaffe.errors import DataError

Size = tuple[int, int]

_MOST_TIMES = 1000
"""That the list may name an image again."""


class FieldReader(ListedReader):
    """Base: an image is placed on a canvas, around one of its objects where it is larger, now and then rescaled.

    ``Batch.more``: a map (N, 6, H, W) for each level of fields, and with ``output_gt_boxes`` the objects.
    """

    row_width: int
    no_object: Sequence[float]

    def __init__(
        self, name: str, param: Any, strides: Sequence[int], rules: Rules, transform: Any, scale: float, *where: Any
    ) -> None:
        if not len(strides) == len(param.field_w) == len(param.field_h):
            raise DataError(
                f"{name}: field_w, field_h and strides must be given equally often; found {len(param.field_w)}, "
                f"{len(param.field_h)} and {len(strides)}"
            )
        if min((*strides, *param.field_w, *param.field_h), default=1) < 1:
            raise DataError(f"{name}: field_w, field_h and strides must be positive")
        if param.coord_num != 4:
            raise DataError(f"{name}.coord_num: must be 4; found {param.coord_num}")
        super().__init__(name, param, transform, scale, *where)
        self._levels = [Level(*each) for each in zip(strides, param.field_w, param.field_h, strict=True)]
        self._targets = FieldTargets(self._levels, rules)
        self.shape = (3, *self.first_canvas())

    @abstractmethod
    def first_canvas(self) -> Size:
        """Height and width of the canvas before the first batch."""

    def shapes(self) -> list[tuple[int, ...]]:
        size, canvas = self._param.batch_size, self.shape[1:]
        maps = [(size, 6, *(cells(side, level.stride) for side in canvas)) for level in self._levels]
        return maps + ([(1, self.row_width, 1, 1)] if self._param.output_gt_boxes else [])

    def start(self) -> None:
        """What is drawn once a batch."""

    @abstractmethod
    def prepared(self, scene: BoxScene) -> BoxScene:
        """The image in the size that the layer asks for."""

    @abstractmethod
    def canvas_for(self, scene: BoxScene) -> Size:
        """Height and width of the canvas of a batch that begins with this image."""

    @abstractmethod
    def factors(self, scene: BoxScene, chosen: int | None) -> tuple[float, float]:
        """By what width and height are rescaled, given which object is to be seen."""

    def fill(self, batch: Batch) -> None:
        self.start()
        found: list[np.ndarray] = []
        maps: list[list[np.ndarray]] = []
        for n in range(self._param.batch_size):
            scene = self.prepared(self.next_scene())
            if n == 0:
                canvas = self.canvas_for(scene)
                batch.resize((3, *canvas), np.float32)
                batch.pixels.fill(0)
            scene, places = self._put(scene, batch.pixels[n])
            objects = ignore_beyond(scene, canvas, (self._param.min_gt_width, self._param.min_gt_height))
            maps.append(self._targets(objects, scene.unwanted, canvas, places))
            found.append(objects)
        batch.more = [np.stack(level) for level in zip(*maps, strict=True)]
        if self._param.output_gt_boxes:
            batch.more.append(object_rows(found, self.row_width, list(self.no_object)))

    def _put(self, scene: BoxScene, out: np.ndarray) -> tuple[BoxScene, tuple[Place, Place]]:
        """Put an image onto a canvas (3, H, W); the image as it lies there, and where, along x and y."""
        sides = out.shape[:0:-1]
        chosen = self.below(len(scene.objects)) if len(scene.objects) else None
        if chosen is not None:
            box = scene.objects[chosen, :4]
            center = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
        else:
            center = self._anywhere(sides[0], scene.size[1]), self._anywhere(sides[1], scene.size[0])
        factors = self.factors(scene, chosen)
        scene, center = scene.rescaled(factors, center)
        noise = [self.below(20) - 10 for _ in range(2)]
        x = place(sides[0], scene.size[1], center[0] * factors[0], noise[0])
        y = place(sides[1], scene.size[0], center[1] * factors[1], noise[1])
        part = scene.pixels[:, y.in_image : y.in_image + y.count, x.in_image : x.in_image + x.count]
        out[:, y.on_canvas : y.on_canvas + y.count, x.on_canvas : x.on_canvas + x.count] = self.finished(part)
        return scene.moved(shift=(x.on_canvas - x.in_image, y.on_canvas - y.in_image)), (x, y)

    def _anywhere(self, canvas: int, image: int) -> float:
        """A middle of what is seen of a side, where there is no object to see."""
        return image / 2 if canvas > image else self.below(image - canvas + 1) + canvas / 2


class ImageGtReader(FieldReader):
    """Fills batches for MS-CNN's ImageGtData."""

    difficult = False
    row_width, no_object = 7, (0, 1, 1, 2, 2, 1, 1)
    UNWANTED, PICK_UP = 0.4, 0.2

    def __init__(self, param: Any, transform_param: Any, *where: Any) -> None:
        rules = Rules(overlap, 0, param.fg_threshold, self.UNWANTED, True, self.PICK_UP)
        if bool(param.resize_width) != bool(param.resize_height):
            raise DataError("image_gt_data_param: give resize_width and resize_height, or neither")
        if not 1 <= param.fg_img_multiple <= _MOST_TIMES:
            raise DataError(
                f"image_gt_data_param: fg_img_multiple lies in 1 .. {_MOST_TIMES}; found {param.fg_img_multiple}"
            )
        if param.do_multiple_scale and param.HasField("min_scale") and param.HasField("max_scale"):
            if not 0 < param.min_scale <= param.max_scale:
                raise DataError(
                    f"image_gt_data_param: needs 0 < min_scale <= max_scale; found {param.min_scale} and "
                    f"{param.max_scale}"
                )
        name = "image_gt_data_param"
        super().__init__(name, param, list(param.downsample_rate), rules, transform_param, param.scale, *where)

    def listed(self, images: list[ListedImage]) -> list[ListedImage]:
        """Images with an object that is not ignored ``fg_img_multiple`` times."""
        return [
            image
            for image in images
            for _ in range(self._param.fg_img_multiple if (image.objects[:, 5] == 0).any() else 1)
        ]

    def order(self, shuffler: Stream) -> np.ndarray:
        numbers = super().order(shuffler)
        if self._param.shuffle:
            shuffler.shuffle(numbers)
        return numbers

    def first_canvas(self) -> Size:
        p, last = self._param, self._images[-1].size
        height, width = (p.resize_height, p.resize_width) if p.resize_width else last[1:]
        if p.crop_height > height or p.crop_width > width:
            raise DataError(
                f"image_gt_data_param: a crop of {p.crop_height} x {p.crop_width} is larger than the image, {height} x "
                f"{width} (height x width)"
            )
        return p.crop_height or height, p.crop_width or width

    def canvas_for(self, scene: BoxScene) -> Size:
        return self.shape[1], self.shape[2]

    def prepared(self, scene: BoxScene) -> BoxScene:
        scene = scene.mirrored() if self._mirror and self.below(2) else scene
        p = self._param
        return scene.resized(p.resize_height, p.resize_width) if p.resize_width else scene

    def factors(self, scene: BoxScene, chosen: int | None) -> tuple[float, float]:
        """In half of all cases the object is brought to one of the sizes from ``min_scale`` to ``max_scale``, by half
        octaves, and in half of these to another proportion of ``min_whaspect`` .. ``max_whaspect``."""
        p = self._param
        wanted = p.do_multiple_scale and p.HasField("min_scale") and p.HasField("max_scale")
        if not wanted or chosen is None or not self.below(2):
            return 1, 1
        box = scene.objects[chosen, :4]
        width, height = (max(float(side), 1) for side in box[2:] - box[:2])
        octaves = np.arange(rounded(2 * np.log2(p.max_scale / p.min_scale) + 1)) / 2
        areas = (p.min_scale * 2**octaves) ** 2
        alike = np.minimum(areas, width * height) / np.maximum(areas, width * height)
        factor = float(2 ** (octaves[self.below(len(octaves))] - octaves[alike.argmax()]))
        if not (p.HasField("min_whaspect") and p.HasField("max_whaspect")) or not self.below(2):
            return factor, factor
        steps = max(rounded((p.max_whaspect - p.min_whaspect) / 0.05), 1)
        change = (self.below(steps) * 0.05 + p.min_whaspect) / (width / height)
        low, high = p.min_scale * 0.8, p.max_scale * 1.2
        if self.below(2):
            return (factor * change if low <= width * factor * change <= high else factor), factor
        return factor, (factor / change if low <= height * factor / change <= high else factor)


class DetectionReader(FieldReader):
    """Fills batches for Cascade R-CNN's DetectionData."""

    row_width, no_object = 8, (-1,) * 8
    SHUFFLES = ("random", "random_aspect", "random_mix_aspect")

    def __init__(self, param: Any, transform_param: Any, *where: Any) -> None:
        margin = param.anchor_ignore_margin_ratio if param.HasField("anchor_ignore_margin_ratio") else None
        inside = param.anchor_ignore_iou_thr if param.HasField("anchor_ignore_iou_thr") else None
        how = (param.ignore_fg_threshold, False, param.pickup_iou_thr, margin, inside)
        rules = Rules(overlap_of_pixels, 1, param.fg_threshold, *how)
        self._check(param)
        self._distortion = Distortion(param.distort_param) if param.HasField("distort_param") else None
        self._ratio = 1.0
        name, scale = "detection_data_param", transform_param.scale
        super().__init__(name, param, list(param.stride), rules, transform_param, scale, *where)

    def _check(self, param: Any) -> None:
        def problem(what: str) -> DataError:
            return DataError(f"detection_data_param: {what}")

        if param.HasField("shuffle") and param.shuffle not in self.SHUFFLES:
            raise problem(f"shuffle must be one of {', '.join(self.SHUFFLES)}; found '{param.shuffle}'")
        if param.mix_group_size < 1:
            raise problem("mix_group_size must be positive")
        if param.fg_threshold <= 0:
            raise problem(f"fg_threshold must be positive; found {param.fg_threshold:g}")
        for one, other in (
            *(("resize_width", "resize_height"), ("short_size", "long_size"), ("crop_width", "crop_height")),
            *(
                ("crop_short_size", "crop_long_size"),
                ("min_scale", "max_scale"),
                ("low_scale_ratio", "high_scale_ratio"),
            ),
            ("min_whaspect", "max_whaspect"),
        ):
            low, high = getattr(param, one), getattr(param, other)
            if param.HasField(one) != param.HasField(other):
                raise problem(f"give {one} and {other}, or neither")
            ordered = "size" in one or "min" in one or "low" in one
            if param.HasField(one) and not (0 < low < inf and 0 < high < inf and (low <= high or not ordered)):
                raise problem(f"needs 0 < {one}{' <= ' if ordered else ', '}{other}; found {low:g} and {high:g}")
        for kinds in (
            ("resize_width", "resize_ratio", "short_size"),
            ("crop_width", "crop_short_size"),
            ("min_scale", "low_scale_ratio"),
        ):
            given = [field for field in kinds if param.HasField(field)]
            if len(given) > 1:
                raise problem(f"{' and '.join(given)} contradict each other; give one")
        if param.HasField("resize_ratio") and not 0 < param.resize_ratio < inf:
            raise problem(f"resize_ratio must be a positive number; found {param.resize_ratio:g}")
        if min(param.template_ratio, default=1) <= 0 or not 0 <= param.multiscale_prob <= 1:
            raise problem("needs positive template_ratio, and multiscale_prob in 0 .. 1")

    def order(self, shuffler: Stream) -> np.ndarray:
        p, numbers = self._param, super().order(shuffler)
        if not p.HasField("shuffle"):
            return numbers
        if p.shuffle == "random":
            shuffler.shuffle(numbers)
            return numbers
        high = np.array([image.size[1] >= image.size[2] for image in self._images])
        groups = [np.flatnonzero(high), np.flatnonzero(~high)]
        for group in groups:
            shuffler.shuffle(group)
        first, second = groups if shuffler.draw() % 2 else groups[::-1]
        return np.concatenate(
            [first, second] if p.shuffle == "random_aspect" else _in_turn(first, second, p.mix_group_size)
        )

    def start(self) -> None:
        ratios = self._param.template_ratio
        self._ratio = float(ratios[self.below(len(ratios))]) if ratios else 1.0

    def first_canvas(self) -> Size:
        p, (_, height, width) = self._param, self._images[-1].size
        if p.crop_width:
            return p.crop_height, p.crop_width
        if p.crop_short_size:
            return p.crop_long_size, p.crop_short_size
        if p.resize_width:
            return p.resize_height, p.resize_width
        if p.resize_ratio:
            return rounded(height * p.resize_ratio), rounded(width * p.resize_ratio)
        return (p.long_size, p.short_size) if p.short_size else (height, width)

    def canvas_for(self, scene: BoxScene) -> Size:
        p, (height, width) = self._param, scene.size
        if p.crop_width or (p.resize_width and not p.crop_short_size):
            return self.shape[1], self.shape[2]
        if p.crop_short_size:
            sides = p.crop_short_size, p.crop_long_size
        elif p.short_size:
            short, long = (_of_32(side * self._ratio) for side in (p.short_size, p.long_size))
            sides = short, long
        else:
            return height, width
        return sides[::-1] if height >= width else sides

    def prepared(self, scene: BoxScene) -> BoxScene:
        p = self._param
        if self._distortion is not None:
            scene = BoxScene(self._distortion(scene.pixels, self._stream), scene.objects, scene.unwanted)
        scene = scene.mirrored() if self._mirror and self.below(2) else scene
        height, width = scene.size
        if p.resize_width:
            return scene.resized(p.resize_height, p.resize_width)
        factor = np.float32(p.resize_ratio or 1)
        if p.short_size:
            factor = np.float32(_of_32(p.short_size * self._ratio)) / np.float32(min(height, width))
        return scene.resized(*(max(rounded(float(side * factor)), 1) for side in (height, width)))

    def factors(self, scene: BoxScene, chosen: int | None) -> tuple[float, float]:
        """With ``multiscale_prob``: by a factor of ``low_scale_ratio`` .. ``high_scale_ratio``, or that brings the
        object to ``min_scale`` .. ``max_scale``, and to another proportion by ``min_whaspect`` .. ``max_whaspect``."""
        p = self._param
        wanted = chance(self._stream) < p.multiscale_prob
        if not wanted or not (p.HasField("min_scale") or p.HasField("low_scale_ratio")):
            return 1, 1
        if p.HasField("low_scale_ratio"):
            ends = np.log2([p.low_scale_ratio, p.high_scale_ratio])
        elif chosen is None:
            ends = np.ones(2)
        else:
            box = scene.objects[chosen, :4]
            size = np.sqrt(max(float(np.prod(box[2:] - box[:2] + 1)), 1))
            ends = np.log2([p.min_scale / size, p.max_scale / size])
        factor = 2 ** between(self._stream, *ends)
        if not p.HasField("min_whaspect"):
            return factor, factor
        aspect = 2 ** (between(self._stream, np.log2(p.min_whaspect), np.log2(p.max_whaspect)) / 2)
        return factor * aspect, factor / aspect


def _of_32(side: float) -> int:
    """The nearest multiple of 32."""
    return max(rounded(side / 32), 1) * 32


def _in_turn(first: np.ndarray, second: np.ndarray, size: int) -> list[np.ndarray]:
    """Groups of so many of both in turn, as long as there are any of both; then what is left."""
    parts: list[np.ndarray] = []
    taken = [0, 0]
    lists = (first, second)
    turn = 0
    while all(count < len(each) for count, each in zip(taken, lists, strict=True)):
        part = lists[turn][taken[turn] : taken[turn] + size]
        parts.append(part)
        taken[turn] += len(part)
        turn = 1 - turn
    return [*parts, *(each[count:] for count, each in zip(taken, lists, strict=True))]
