"""Batches of image files that a text file lists, read and transformed ahead of their use."""

from __future__ import annotations

import logging
import os
import re
from typing import Any

import numpy as np

from minicaffe import limits
from minicaffe.backend import ranks
from minicaffe.backend.random import Stream
from minicaffe.data import varied_crops
from minicaffe.data.image import decode_packed, read_with, resize
from minicaffe.data.packed import PackedImage, planes
from minicaffe.data.prefetch import Finish
from minicaffe.data.source import Batch, BatchSource, ImageReader, check_sizes, state_of_text, text_of_state
from minicaffe.data.transform import Transformer
from minicaffe.errors import DataError

_log = logging.getLogger(__name__)


def read_list(path: str | os.PathLike[str]) -> list[tuple[str, int]]:
    """The images and labels in a text file of lines ``path label``; DataError if it cannot be read or holds none.

    Caffe: the label is what follows the last space, as far as it is a number, else 0; a line without a space is both;
    so paths may contain spaces.
    """
    lines = read_lines(path)
    entries: list[tuple[str, int]] = []
    odd: int | None = None
    for n, line in enumerate(lines, 1):
        name, space, label = line.rpartition(" ")
        match = re.match(r"\s*([+-]?\d{1,18})", label)
        number = int(match.group(1)) if match else 0
        if odd is None and space and not _means(label, number):
            odd = n
        entries.append((name if space else line, number))
    if odd is not None:
        label = lines[odd - 1].rpartition(" ")[2]
        _log.warning(
            "list of images %s, line %d: the label '%s' is read as %d: labels are whole numbers; for others, make a "
            "database (convert_imageset --labels 1), or use HDF5Data",
            os.path.abspath(path), odd, label, entries[odd - 1][1],
        )  # fmt: skip
    return entries


def ends_in_number(name: str) -> bool:
    """Whether an image's name, as a list of images has it, ends in what may be another label."""
    return re.search(r"\s[-+.\deE]*\d\.?$", name) is not None


def _means(text: str, number: int) -> bool:
    try:
        return float(text) == number
    except ValueError:
        return False


def read_labels(path: str | os.PathLike[str], count: int) -> list[tuple[str, np.ndarray]]:
    """The images in a text file of lines ``path label label ...``, and the ``count`` labels of each, float32.

    Paths may contain spaces.  Raises DataError: as ``read_list``; a line that has not as many numbers.
    """
    entries = []
    for n, line in enumerate(read_lines(path), 1):
        name, *words = line.rstrip().rsplit(None, count) or [""]
        try:
            labels = np.array(words, np.float32)
        except ValueError:
            labels = np.empty(0, np.float32)
        if labels.size != count or not np.isfinite(labels).all():
            raise DataError(
                f"list of images {os.path.abspath(path)}, line {n}: expected a path and {count} numbers; found '{line}'"
            )
        entries.append((name, labels))
    return entries


def read_pairs(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """The images and the images of their labels in a text file of lines ``path path``; DataError if it is no such."""
    entries = []
    for n, line in enumerate(read_lines(path), 1):
        words = line.split()
        if len(words) != 2:
            raise DataError(
                f"list of images {os.path.abspath(path)}, line {n}: expected the paths of an image and of its labels, "
                f"without spaces in them; found '{line}'"
            )
        entries.append((words[0], words[1]))
    return entries


def read_names(path: str | os.PathLike[str]) -> list[str]:
    """The images in a text file, the first word of each line; DataError if it cannot be read or holds none."""
    return [words[0] for line in read_lines(path) if (words := line.split())]


def read_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a list of images; DataError if it cannot be read or is empty."""
    try:
        lines = os.fsdecode(limits.read_file(path, times=8)).splitlines()
    except OSError as error:
        raise DataError(
            f"list of images {os.path.abspath(path)} cannot be read ({error.strerror}); relative to {os.getcwd()}"
        ) from error
    if not lines:
        raise DataError(
            f"list of images {os.path.abspath(path)}: File is empty; it needs a line 'path label' for each image"
        )
    return lines


class ImageSource(BatchSource):
    """What Caffe's ImageData layer reads: the images of a list, again and again, in batches.

    ``param`` is an ImageDataParameter: ``source`` (the list), ``root_folder`` (put before each path), ``batch_size``,
    ``new_height`` and ``new_width`` (both or neither), ``is_color`` (BGR, else gray), ``shuffle`` (before each round),
    ``rand_skip`` (begin at a random place before this one). Of ``solver_count`` solvers each reads the images whose
    number modulo ``solver_count`` is its ``rank``, the numbers going on from one round to the next, in an order that is
    the same for all, as a position is. ``stream`` is the stream Caffe would seed the layer from,
    in this order: the transformer, the shuffling, the place to begin at, the transformer again, the prefetch thread.

    A batch takes the shape of its first image. Raises DataError: an unreadable or empty list, an unreadable image
    (naming it and its line), images of different sizes in one batch.
    """

    param_name = "image_data_param"

    def __init__(
        self,
        param: Any,
        transform_param: Any,
        prefetch: int,
        phase: int,
        stream: Stream,
        rank: int = 0,
        solver_count: int = 1,
    ) -> None:
        check_sizes(param.batch_size, prefetch, self.param_name)
        if (param.new_height > 0) != (param.new_width > 0):
            raise DataError(
                f"{self.param_name}: new_height and new_width must be set at the same time; "
                f"found {param.new_height} and {param.new_width}"
            )
        self.phase = phase
        transformer = self.transformer(transform_param, phase, stream)
        reader = self.reader(param, transformer, stream, rank, solver_count)
        transformer.seed(stream)  # Caffe seeds it twice; the second seed is the one in use
        stream.draw()  # Caffe's prefetch thread takes its own seed
        super().__init__(reader, param.batch_size, prefetch)

    def transformer(self, param: Any, phase: int, stream: Stream) -> Transformer:
        """What crops, mirrors and scales the images."""
        return varied_crops.transformer(param, phase, stream)

    def reader(self, *how: Any) -> ListReader:
        """What fills the batches."""
        return ListReader(*how)


class ListReader(ImageReader):
    """Fills batches with the images of a list."""

    remedy = "set image_data_param.new_height and new_width, transform_param.crop_size, or batch_size: 1"

    def __init__(self, param: Any, transformer: Transformer, stream: Stream, rank: int, shares: int) -> None:
        super().__init__(transformer)
        self._param = param
        self._before, self._after = rank, shares - rank  # images to pass before and after each that is read
        self._entries = self.read_entries()
        self._order = np.arange(len(self._entries))
        self._shuffler = Stream(ranks.agreed(stream.draw(), shares)) if param.shuffle else None
        self._shuffle()
        _log.info("A total of %d images.", len(self._entries))
        self._place = ranks.agreed(stream.draw(), shares) % param.rand_skip if param.rand_skip else 0
        if self._place >= len(self._entries):
            raise DataError(
                f"image_data_param.rand_skip: Not enough points to skip: {self._place} of {len(self._entries)}; set a "
                f"smaller rand_skip"
            )
        first = self.first_item(stream)
        try:
            self.shape = transformer.output_shape(self.read(first)[0].shape)
        except DataError as error:
            raise self.at(first, error) from error

    def first_item(self, stream: Stream) -> Any:
        """The item whose shape all have; ``stream`` seeds what else draws random numbers."""
        return self._order[self._place]

    def read_entries(self) -> list[Any]:
        """The images of the list, and a label for each."""
        return read_list(self._param.source)

    def begin(self, batch: Batch) -> Finish:
        finish = self.begin_with(batch, [self.next_item() for _ in range(self._param.batch_size)])
        batch.position = self.position()
        return finish

    def next_item(self) -> Any:
        """What ``read`` takes for the next line."""
        self._advance(self._before)
        line = self._order[self._place]
        self._advance(self._after)
        return line

    def position(self) -> tuple:
        """The next place, the order of this round, the states of both random streams."""
        shuffler = self._shuffler.get_state() if self._shuffler else None
        return self._place, self._order, shuffler, self._transformer.get_state()

    def encode(self, position: Any) -> dict[str, Any]:
        place, order, shuffler, random = position
        lines = text_of_state(order.astype("<i4").tobytes()) if self._shuffler else None
        return {
            "place": place,
            "lines": len(order),
            "order": lines,
            "shuffler": text_of_state(shuffler),
            "random": text_of_state(random),
        }

    def go_to(self, state: dict[str, Any]) -> None:
        if state["lines"] != len(self._entries) or (state["order"] is None) != (self._shuffler is None):
            raise DataError(
                f"{self._where()}: the snapshot was taken with {state['lines']} lines, "
                f"{'' if state['order'] else 'not '}shuffled; now there "
                f"are {len(self._entries)}, {'' if self._shuffler else 'not '}shuffled; resume with the list that it "
                f"was trained on"
            )
        lines = len(self._entries)
        order = np.frombuffer(state_of_text(state["order"]) or b"", "<i4") if self._shuffler else np.arange(lines)
        if not 0 <= state["place"] < lines or not np.array_equal(np.sort(order), np.arange(lines)):
            raise DataError(f"{self._where()}: the snapshot names no place in it; resume from another one")
        self._place = state["place"]
        if self._shuffler:
            self._order = order
            self._shuffler.set_state(state_of_text(state["shuffler"]) or b"")
        self._transformer.set_state(state_of_text(state["random"]))

    def _shuffle(self) -> None:
        if self._shuffler:
            self._order = self._order.copy()  # positions handed out before keep theirs
            self._shuffler.shuffle(self._order)

    def _advance(self, images: int) -> None:
        for _ in range(images):
            self._place += 1
            if self._place == len(self._order):
                _log.debug("Restarting data prefetching from start.")
                self._place = 0
                self._shuffle()

    def read(self, item: int) -> tuple[np.ndarray | PackedImage, Any]:
        """The image of a line, uint8 (channels, height, width), resized if the layer asks for it, and its label."""
        name, label = self._entries[item]
        try:
            return self.read_image(name), label
        except DataError as error:
            if not ends_in_number(name) or os.path.exists(self._param.root_folder + name):
                raise
            raise DataError(
                f"{error}; '{name}' ends in a number, but only the last one of a line is its label: for images of "
                "several labels, make a database (convert_imageset --labels 2), or use HDF5Data"
            ) from error

    def read_image(self, name: str) -> np.ndarray | PackedImage:
        """The image of this name, resized if the layer asks for it."""
        image = read_with(decode_packed, self._param.root_folder + name, self._param.is_color)
        if self._param.new_height and image.shape[1:] != (self._param.new_height, self._param.new_width):
            return resize(planes(image), self._param.new_height, self._param.new_width)
        return image

    def at(self, item: int, error: DataError) -> DataError:
        return DataError(f"{self._where()}, line {item + 1}: {error}")

    def _where(self) -> str:
        return f"list of images {self._param.source}"
