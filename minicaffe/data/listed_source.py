"""Batches of images with boxes from a window file: base of what the data layers of MS-CNN and Cascade R-CNN read."""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import Any

import numpy as np

from minicaffe import limits
from minicaffe.backend import ranks
from minicaffe.backend.random import Stream
from minicaffe.data.image import decode_image
from minicaffe.data.listed_boxes import ListedImage, read_boxes
from minicaffe.data.scene_of_boxes import BoxScene, rounded
from minicaffe.data.source import Batch, BatchSource, TurnTaking, check_sizes, state_of_text, text_of_state
from minicaffe.errors import DataError


class ListedSource(BatchSource):
    """Batches of images and what belongs to them, which ``Batch.more`` holds; its shapes are those of the reader."""

    def __init__(self, reader: ListedReader, batch_size: int, prefetch: int) -> None:
        super().__init__(reader, batch_size, prefetch)
        self.shapes = reader.shapes()


class ListedReader(TurnTaking):
    """Fills batches with the images of a window file, in the ``order`` of each round.

    ``param`` has ``source``, ``root_folder``, ``batch_size`` and perhaps ``cache_images``; ``name`` is its field's.
    ``mean_value`` of ``transform_param`` is subtracted, then pixels are scaled.  Of ``shares`` readers together, whose
    rounds are in the same orders, that of number ``rank`` takes every ``shares``-th batch: images of one batch may have
    been put side by side for their proportions.  A position holds the state of both random streams, that of the orders
    and that of all else.  Raises DataError for a list or an image that cannot be read.
    """

    difficult = True
    """Whether lines tell if an object is difficult."""

    def __init__(
        self, name: str, param: Any, transform_param: Any, scale: float, stream: Stream, rank: int, shares: int
    ) -> None:
        super().__init__(rank, shares)
        check_sizes(param.batch_size, 1, name)
        self._name, self._param = name, param
        for field in ("mean_file", "crop_size"):
            if getattr(transform_param, field):
                raise DataError(f"transform_param.{field}: is not read here; give mean_value, and sizes in {name}")
        mean = np.array(transform_param.mean_value or [0], np.float32)
        if len(mean) not in (1, 3):
            raise DataError(
                f"transform_param.mean_value: specify either 1 or as many as channels, 3; found {len(mean)}"
            )
        self._mean, self._scale = mean[:, None, None], np.float32(scale)
        self._mirror = transform_param.mirror
        self._stream = Stream(stream.draw())
        self._shuffler = Stream(ranks.agreed(self._stream.draw(), shares))
        self._images = self.listed(read_boxes(param.source, self.difficult))
        cached = getattr(param, "cache_images", False)
        self._contents = [self._content(image) for image in self._images] if cached else None
        self._begin_round()

    def listed(self, images: list[ListedImage]) -> list[ListedImage]:
        """The images of a round, for those in the file."""
        return images

    def pass_over(self, batches: int) -> None:
        for _ in range(batches * self._param.batch_size):
            self._advance()

    def _advance(self) -> None:
        self._place += 1
        if self._place == len(self._order):
            self._begin_round()

    def _begin_round(self) -> None:
        """Begin a round; positions handed out before keep their orders."""
        self._place, self._order = 0, self.order(self._shuffler)

    def order(self, shuffler: Stream) -> np.ndarray:
        """The numbers of the images in the order of the next round, drawn from a stream of its own."""
        return np.arange(len(self._images))

    @abstractmethod
    def shapes(self) -> list[tuple[int, ...]]:
        """What the further tops are before the first batch."""

    def next_scene(self) -> BoxScene:
        """The next image of the list."""
        number = int(self._order[self._place])
        image = self._images[number]
        content = self._contents[number] if self._contents else self._content(image)
        try:
            pixels = decode_image(content, True)
        except DataError as error:
            raise DataError(f"image {self._path(image)}: {error}") from error
        self._advance()
        return BoxScene(pixels, image.objects, image.unwanted)

    def _path(self, image: ListedImage) -> str:
        return os.path.abspath(self._param.root_folder + image.path)

    def _content(self, image: ListedImage) -> bytes:
        try:
            return limits.read_file(self._path(image))
        except OSError as error:
            raise DataError(f"image {self._path(image)}: cannot be read ({error.strerror})") from error

    def finished(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (3, H, W) less the mean, scaled."""
        return (pixels.astype(np.float32) - self._mean) * self._scale

    def below(self, limit: int) -> int:
        """A random whole number below the limit."""
        return self._stream.draw() % limit

    def position(self) -> Any:
        return self._place, self._order, self._shuffler.get_state(), self._stream.get_state()

    def encode(self, position: Any) -> dict[str, Any]:
        place, order, shuffler, random = position
        return {
            "place": place,
            "order": text_of_state(order.astype("<i4").tobytes()),
            "shuffler": text_of_state(shuffler),
            "random": text_of_state(random),
        }

    def go_to(self, state: dict[str, Any]) -> None:
        order = np.frombuffer(state_of_text(state["order"]) or b"", "<i4").astype(int)
        if len(order) != len(self._images) or not 0 <= state["place"] < max(len(order), 1):
            raise DataError(
                f"window file {self._param.source}: the snapshot was taken with {len(order)} images, now there are "
                f"{len(self._images)}; resume with the list that it was trained on"
            )
        self._place, self._order = state["place"], order
        self._shuffler.set_state(state_of_text(state["shuffler"]) or b"")
        self._stream.set_state(state_of_text(state["random"]) or b"")

    def draw_anew(self, stream: Stream) -> None:
        self._stream = Stream(stream.draw())


def object_rows(scenes: list[np.ndarray], width: int, none: list[float]) -> np.ndarray:
    """The objects (G, 7) of all items as rows (item, x1, y1, x2, y2, label, ignored, difficult) of this width, with two
    axes of 1 behind; one row ``none`` where there is no object."""
    rows = [np.insert(objects, 0, n, axis=1)[:, :width] for n, objects in enumerate(scenes)]
    table = np.concatenate(rows)
    return (table if len(table) else np.array([none], np.float32))[:, :, None, None].astype(np.float32)


class EvalReader(ListedReader):
    """Fills batches for Cascade R-CNN's EvalData: whole images, resized, their objects and their sizes.

    The shorter side becomes ``short_size``, sides become ``long_size`` at most, or they are ``resize_width`` and
    ``resize_height``; then both become multiples of 32.  ``Batch.more``: objects and sizes.
    """

    def __init__(self, param: Any, transform_param: Any, *where: Any) -> None:
        super().__init__("eval_data_param", param, transform_param, transform_param.scale, *where)
        fixed = param.resize_width and param.resize_height
        if not fixed and param.batch_size != 1:
            raise DataError("eval_data_param.batch_size: must be 1 where images keep their proportions")
        if bool(param.short_size) != bool(param.long_size):
            raise DataError("eval_data_param: give short_size and long_size, or neither")
        self.shape = (3, *self._size(*self._images[0].size[1:]))

    def shapes(self) -> list[tuple[int, ...]]:
        return [(1, 8, 1, 1), (self._param.batch_size, 2, 1, 1)]

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """What an image of this height and width becomes."""
        p = self._param
        if p.resize_width and p.resize_height:
            sides = [p.resize_height, p.resize_width]
        elif p.short_size:
            scale = np.float32(p.short_size) / np.float32(min(height, width))
            sides = [min(rounded(float(side * scale)), p.long_size) for side in (height, width)]
        else:
            sides = [height, width]
        rows, columns = (max(rounded(side / 32), 1) * 32 for side in sides)
        return rows, columns

    def fill(self, batch: Batch) -> None:
        found: list[np.ndarray] = []
        sizes = []
        for n in range(self._param.batch_size):
            scene = self.next_scene()
            scene = scene.resized(*self._size(*scene.size))
            if n == 0:
                batch.resize((3, *scene.size), np.float32)
            batch.pixels[n] = self.finished(scene.pixels)
            found.append(scene.objects)
            sizes.append(scene.size)
        rows = object_rows(found, 8, [-1] * 8)
        batch.more = [rows, np.array(sizes, np.float32)[:, :, None, None]]
