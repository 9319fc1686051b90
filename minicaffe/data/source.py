"""Batches of images, read, decoded, cropped and mirrored ahead of their use."""

from __future__ import annotations

import base64
import functools
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike

from minicaffe import limits
from minicaffe.backend import threads
from minicaffe.backend.random import Stream
from minicaffe.data.packed import PackedImage, planes
from minicaffe.data.prefetch import Finish, Prefetcher, done
from minicaffe.data.transform import Transformer
from minicaffe.errors import DataError
from minicaffe.kernels.cpu.transform import crop, subtract_mean

_BYTES_A_RECORD, _BYTES_A_BATCH = 512, 1024  # beside its pixels

Item = TypeVar("Item")


class Batch:
    """Images and labels, and where the source stands after them.

    ``label`` is float32, (N,), or (N, L) where an image has several; ``sizes`` (N, 2) are heights and widths before the
    crop, where a source tells them.  The images are kept as they were read, cropped
    and mirrored, mostly bytes; ``write_to`` puts them where they go, less the mean and scaled.
    """

    def __init__(self, num: int, shape: tuple[int, int, int], labels: tuple[int, ...] = ()) -> None:
        self.pixels = np.empty((num, *shape), np.uint8)
        self.label = np.empty((num, *labels), np.float32)
        self.sizes = np.zeros((num, 2), np.float32)
        self.offsets, self.mirror = np.zeros((num, 2), np.int64), np.zeros(num, np.bool_)
        self.mean = np.zeros((shape[0], 1, 1), np.float32)
        self.scale = np.float32(1)
        self.more: list[np.ndarray] = []  # for further tops
        self.position: Any = None

    def resize(self, shape: tuple[int, int, int], dtype: DTypeLike) -> None:
        """Make room for images of ``shape`` (C, h, w); memory that fits is kept."""
        if self.pixels.shape[1:] != shape or self.pixels.dtype != dtype:
            whole = (len(self.pixels), *shape)
            size = math.prod(whole) * np.dtype(dtype).itemsize
            limits.require_memory(size, f"a batch of shape {whole}", "use a smaller batch_size")
            self.pixels = np.empty(whole, dtype)

    def write_to(self, out: np.ndarray) -> None:
        """Put the finished images into ``out`` (N, C, h, w), float32, in C order."""
        subtract_mean(self.pixels, self.mean, self.scale, self.offsets, self.mirror, out)

    @property
    def data(self) -> np.ndarray:
        """The finished images (N, C, h, w), float32, as a new array."""
        out = np.empty(self.pixels.shape, np.float32)
        self.write_to(out)
        return out


class BatchReader(ABC):
    """Fills batches one after the other: all that a prefetch thread works on.

    ``shape`` is that of the first item, transformed, (C, h, w); ``labels`` that of an item's label.  A position, as
    ``begin`` leaves it in each batch, is what ``encode`` takes.
    """

    shape: tuple[int, int, int]
    labels: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.stopped = threading.Event()
        """Set when nobody waits for batches any more: those at hand may be left as they are."""

    @abstractmethod
    def begin(self, batch: Batch) -> Finish:
        """Begin to read, decode and transform the next items into ``batch``; one may begin before another is full.

        DataError, here or from what is returned, for what cannot be read.
        """

    @abstractmethod
    def position(self) -> Any:
        """Where the reader stands."""

    @abstractmethod
    def encode(self, position: Any) -> dict[str, Any]:
        """A position as values that JSON can hold."""

    @abstractmethod
    def go_to(self, state: dict[str, Any]) -> None:
        """Continue from an encoded position; DataError if there is nothing to read there."""

    def draw_anew(self, stream: Stream) -> None:  # noqa: B027  (some draw nothing)
        """Take from ``stream`` the seeds of all random numbers but those that say in which order items come."""

    def rehearse(self) -> None:  # noqa: B027  (most readers call none for a whole batch)
        """Call the kernels that ``begin`` calls, where none runs and nothing may be read."""

    def close(self) -> None:  # noqa: B027  (most readers hold nothing open)
        """Give up what is open; may be called twice."""


class TurnTaking(BatchReader):
    """Base of readers of which ``shares`` together go through the same batches: that of number ``rank`` takes every
    ``shares``-th.
    """

    def __init__(self, rank: int, shares: int) -> None:
        super().__init__()
        self._before, self._after = rank, shares - 1 - rank

    def begin(self, batch: Batch) -> Finish:
        self.pass_over(self._before)
        self.fill(batch)
        self.pass_over(self._after)
        batch.position = self.position()
        return done

    @abstractmethod
    def fill(self, batch: Batch) -> None:
        """Put the next items, and what belongs to them, into a batch."""

    @abstractmethod
    def pass_over(self, batches: int) -> None:
        """Go on as if so many batches were filled."""


class ImageReader(BatchReader):
    """Fills batches with images that are decoded one by one, on as many threads as nets compute on."""

    remedy: str
    """What to do about images of different sizes."""

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self._transformer = transformer
        self._threads = threads.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads, "decode")

    @abstractmethod
    def read(self, item: Any) -> tuple[np.ndarray | PackedImage, Any]:
        """Pixels (C, H, W) and label of an item."""

    def prepare(self, item: Any, drawn: np.ndarray) -> tuple[np.ndarray | PackedImage, Any]:
        """What ``read`` gives, changed by the random numbers ``drawn`` for the item, before it is cropped."""
        return self.read(item)

    @abstractmethod
    def at(self, item: Any, error: DataError) -> DataError:
        """``error``, naming the item."""

    def begin_with(self, batch: Batch, items: Sequence[Any]) -> Finish:
        """Begin to put items into a batch, which takes the shape of the first."""
        draws = self._transformer.draw(len(items))
        finish = self._begin(batch, items, draws)

        def finish_or_refill() -> None:
            try:
                finish()
            except _FloatsAmongBytes:
                self._begin(batch, items, draws, np.dtype(np.float32))()

        return finish_or_refill

    def _begin(self, batch: Batch, items: Sequence[Any], draws: np.ndarray, dtype: np.dtype | None = None) -> Finish:
        placement = functools.cache(functools.partial(self._transformer.place, draws))

        def place(n: int, item: tuple[np.ndarray | PackedImage, Any]) -> None:
            pixels, label = item
            shape = self._transformer.output_shape(pixels.shape)
            if n == 0:
                batch.resize(shape, dtype or pixels.dtype)
                batch.mean, batch.scale = self._transformer.mean_of(pixels.shape), self._transformer.scale
            elif shape != batch.pixels.shape[1:]:
                raise DataError(
                    f"its shape is {shape} (channels, height, width), that of the batch's first "
                    f"{batch.pixels.shape[1:]}; {self.remedy}"
                )
            if self._transformer.varies:
                pixels = self._transformer.prepared(planes(pixels), draws[n])
            if batch.pixels.dtype != pixels.dtype:
                if batch.pixels.dtype == np.uint8:
                    raise _FloatsAmongBytes
                pixels = planes(pixels).astype(batch.pixels.dtype)
            for mine, drawn in zip((batch.offsets, batch.mirror), placement(pixels.shape), strict=True):
                mine[n] = drawn[n]
            if isinstance(pixels, PackedImage):
                pixels.crop(batch.offsets[n], batch.mirror[n], batch.pixels[n])
            else:
                one = slice(n, n + 1)
                crop(pixels[np.newaxis], batch.offsets[one], batch.mirror[one], batch.pixels[one])
            self._transformer.touch_up(batch.pixels[n], bool(batch.mirror[n]))
            self.put_label(batch, n, label)

        return self.share(items, lambda n: self.prepare(items[n], draws[n]), place)

    def put_label(self, batch: Batch, n: int, label: Any) -> None:
        """Put the label of item n, whose image is there already, into a batch."""
        batch.label[n] = label

    def share(self, items: Sequence[Any], read: Callable[[int], Item], place: Callable[[int, Item], None]) -> Finish:
        """Begin, in other threads, to call ``read(n)`` for each of the items, and ``place`` with n and what it gave.

        Item 0 is in its place before any other is put there.  What is returned waits for all, unless the reader is
        stopped, and raises the error of the first item that is at fault, a DataError that names it.
        """
        errors: dict[int, Exception] = {}
        numbers, first_placed = iter(range(len(items))), threading.Event()

        def put(n: int) -> None:
            try:
                item = read(n)
                if n > 0:
                    first_placed.wait()
                if n < min([*errors, len(items)]):  # one before those at fault may be at fault, too
                    place(n, item)
            except DataError as error:
                raise self.at(items[n], error) from error

        def work() -> None:
            for n in numbers:  # each thread takes the next
                try:
                    put(n)
                except Exception as error:  # noqa: BLE001  (raised below)
                    errors[n] = error
                if n == 0:
                    first_placed.set()
                if errors or self.stopped.is_set():
                    return

        jobs = [self._pool.submit(work) for _ in range(self._threads)]

        def finish() -> None:
            for job in jobs:
                job.result()
            if errors:
                raise errors[min(errors)]

        return finish

    def draw_anew(self, stream: Stream) -> None:
        self._transformer.seed(stream)

    def close(self) -> None:
        self._pool.shutdown()


class _FloatsAmongBytes(Exception):  # noqa: N818  (no error: the batch is filled again)
    """An image of floats in a batch that began with one of bytes."""


class BatchSource:
    """Batches of ``batch_size`` items that ``reader`` fills in a thread, ``depth`` of them ahead of their use."""

    def __init__(self, reader: BatchReader, batch_size: int, depth: int) -> None:
        self.batch_size = batch_size
        self.shape, self.labels = reader.shape, reader.labels
        self.label_shape: tuple[int, ...] = (batch_size, *reader.labels)
        each = batch_size * (4 * math.prod(reader.shape) + _BYTES_A_RECORD) + _BYTES_A_BATCH
        limits.require_memory(
            (depth + 1) * each, f"reading {depth} batches of {batch_size} ahead", "use a smaller batch_size or prefetch"
        )
        self._reader = reader
        self._depth = depth
        self._position = reader.position()
        self._prefetcher: Prefetcher[Batch] | None = None

    def next_batch(self) -> Batch:
        """The next batch; its arrays are valid until the next call. Raises what went wrong in the reading thread."""
        if self._prefetcher is None:
            buffers = [Batch(self.batch_size, self.shape, self.labels) for _ in range(self._depth + 1)]
            self._reader.stopped.clear()
            self._prefetcher = Prefetcher(self._reader.begin, buffers, self._reader.stopped)
        batch = self._prefetcher.get()
        self._position = batch.position
        return batch

    def rehearse(self) -> Batch:
        """Call the kernels that reading calls, where none runs; a batch of anything."""
        self._reader.rehearse()
        return Batch(self.batch_size, self.shape, self.labels)

    def state(self) -> dict[str, Any]:
        """Where the source stands after the last batch that ``next_batch`` gave, as values that JSON can hold."""
        return self._reader.encode(self._position)

    def restore(self, state: dict[str, Any]) -> None:
        """Continue after the batch at which ``state`` was taken, bit for bit.

        Raises DataError if there is nothing to read where the state stands.
        """
        self._stop()
        self._reader.go_to(state)
        self._position = self._reader.position()

    def draw_anew(self, stream: Stream) -> None:
        """Continue from here with other random numbers, seeded from ``stream``; the order of items stays."""
        self.restore(self.state())
        self._reader.draw_anew(stream)
        self._position = self._reader.position()

    def close(self) -> None:
        """Stop the thread and close what it reads from."""
        self._stop()
        self._reader.close()

    def _stop(self) -> None:
        if self._prefetcher is not None:
            self._prefetcher.close()
            self._prefetcher = None


def check_sizes(batch_size: int, prefetch: int, param: str) -> None:
    """DataError unless a batch holds an item and a batch is read ahead."""
    if batch_size < 1:
        raise DataError(f"{param}.batch_size: must be at least 1")
    if prefetch < 1:
        raise DataError("data_param.prefetch: must be at least 1 batch")


def text_of_state(content: bytes | None) -> str | None:
    """Bytes, such as the state of a random stream, as text."""
    return None if content is None else base64.b64encode(content).decode()


def state_of_text(text: str | None) -> bytes | None:
    """What ``text_of_state`` was given."""
    return None if text is None else base64.b64decode(text)
