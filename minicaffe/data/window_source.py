"""Batches of windows cut out of images, as R-CNN trains on them (Girshick et al. 2014)."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from minicaffe import limits
from minicaffe.backend import ranks
from minicaffe.backend.random import Stream
from minicaffe.data.image import decode_image, read_image, resize
from minicaffe.data.source import Batch, BatchSource, TurnTaking, check_sizes, state_of_text, text_of_state
from minicaffe.data.transform import Transformer, read_mean
from minicaffe.errors import DataError

_log = logging.getLogger(__name__)

_LARGEST = 2**24  # of a class or corner: float32 holds all whole numbers below


class Window(NamedTuple):
    """A window of image number ``image``: its class, and its first and last column and row."""

    image: int
    label: int
    x1: int
    y1: int
    x2: int
    y2: int


_INT = r"[+-]?\d+"
BLOCK = re.compile(
    rf"""\s* \# \s* (?P<index>{_INT}) \s+
    (?: (?P<path>[^\n]*?\S) [^\S\n]+ (?={_INT} (?: [^\S\n]+ {_INT}){{3}} (?:\s|$))  # all on one line
      | (?P<line>[^\n]*\S) \s+ )
    (?P<sizes>{_INT} \s+ {_INT} \s+ {_INT}) \s+ (?P<count>{_INT}) (?=\s|$)""",
    re.VERBOSE,
)
"""The beginning of an image's block in a window file."""
_WINDOW = re.compile(r"\s*(\S+)" + r"\s+(\S+)" * 5)


def read_window_file(path: str) -> tuple[str, str]:
    """What a window file is called in messages, and its text; DataError if it cannot be read."""
    where = f"window file {os.path.abspath(path)}"
    try:
        return where, os.fsdecode(limits.read_file(path, times=32))
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror})") from error


def block_at(where: str, text: str, position: int, number: int, things: str) -> re.Match:
    """The beginning of block ``number`` of a window file; DataError if none stands there."""
    block = BLOCK.match(text, position)
    if block is None or int(block["index"]) != number:
        found = " ".join(text[position : position + 200].split()[:3])
        raise DataError(
            f"{where}: block {number} must begin with '# {number}', a path, channels, height, width and the number of "
            f"{things}; found '{found}'"
        )
    return block


def read_windows(path: str, fg_threshold: float, bg_threshold: float) -> tuple[list[str], list[Window], list[Window]]:
    """Image paths, foreground and background windows of a window file.

    The file holds blocks ``# index path channels height width count``, each followed by ``count`` times ``class overlap
    x1 y1 x2 y2``, all separated by white space; a path may have spaces inside a line.  Windows of at least
    ``fg_threshold`` overlap are foreground, others of less than ``bg_threshold`` background, whose class becomes 0; the
    rest are dropped.  Corners between pixels are rounded, and a warning tells of it.
    Caffe: paths end at the first space; reading ends without a word at the first number that is not whole.

    Raises DataError for a file that cannot be read or that reads otherwise.
    """
    where, text = read_window_file(path)
    paths: list[str] = []
    foreground: list[Window] = []
    background: list[Window] = []
    rounded: str | None = None
    position, end = 0, len(text.rstrip())
    while position < end:
        block = block_at(where, text, position, len(paths), "windows")
        paths.append(block["path"] or block["line"])
        position = block.end()
        for _ in range(int(block["count"])):
            line = _WINDOW.match(text, position)
            if line is None:
                raise DataError(f"{where} ends in the middle of block {len(paths) - 1}")
            position = line.end()
            try:
                window, overlap, whole = _window(len(paths) - 1, line.groups())
            except ValueError as error:
                raise DataError(f"{where}, block {len(paths) - 1}: {error}") from None
            if not whole:
                rounded = rounded or " ".join(line.groups()[2:])
            if overlap >= fg_threshold:
                if window.label <= 0:
                    raise DataError(
                        f"{where}: a foreground window of image {window.image} has class {window.label}; it must be "
                        "positive"
                    )
                foreground.append(window)
            elif overlap < bg_threshold:
                background.append(window._replace(label=0))
    if not paths:
        raise DataError(f"{where} is empty")
    if rounded is not None:
        _log.warning("%s: corners that are no whole pixels, such as '%s', are rounded", where, rounded)
    return paths, foreground, background


def _window(image: int, words: Sequence[str]) -> tuple[Window, float, bool]:
    """The window that a line tells of, its overlap, and whether its corners are whole pixels.

    ValueError if it tells of none.
    """
    label, overlap, *corners = map(float, words)
    if not all(abs(value) < _LARGEST for value in (label, *corners)) or label != int(label):
        raise ValueError(f"'{' '.join(words)}' is no class, a whole number, with the overlap and corners of an image")
    pixels = [_round(corner) for corner in corners]
    return Window(image, int(label), *pixels), overlap, pixels == corners


class WindowSource(BatchSource):
    """What Caffe's WindowData layer reads: windows drawn at random from a window file, warped to ``crop_size``.

    ``param`` is a WindowDataParameter. Of each batch the last ``int(batch_size * fg_fraction)`` windows are foreground.
    Without ``context_pad`` and with ``crop_mode: "warp"`` a window is resized to the crop. Else it is first widened so
    that the crop holds ``context_pad`` pixels around it, and to a square if ``crop_mode`` is "square"; what lies
    outside the image is 0. A mirrored window is flipped before the mean is subtracted. ``stream`` as for the other
    sources. Of ``solver_count`` solvers, which draw alike, each takes the batches whose number modulo ``solver_count``
    is its ``rank``.
    Caffe: the scale is that of ``param``, while mirror, crop_size and mean are those of ``transform_param``.

    Raises DataError: an unreadable window file or image, no windows of a kind that is asked for, no ``crop_size``, a
    window that does not lie in its image.
    """

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
        check_sizes(param.batch_size, prefetch, "window_data_param")
        if not transform_param.crop_size:
            raise DataError("transform_param.crop_size: must be positive, the size to which windows are warped")
        if param.crop_mode not in ("warp", "square"):
            raise DataError(f"window_data_param.crop_mode: must be 'warp' or 'square'; found '{param.crop_mode}'")
        if 2 * param.context_pad >= transform_param.crop_size:
            raise DataError(
                f"window_data_param.context_pad: {param.context_pad} leaves nothing of a crop of "
                f"{transform_param.crop_size}"
            )
        if not 0 <= param.fg_fraction <= 1:
            raise DataError(f"window_data_param.fg_fraction: must lie in [0, 1]; found {param.fg_fraction:g}")
        for field in ("fg_threshold", "bg_threshold"):
            if math.isnan(getattr(param, field)):
                raise DataError(f"window_data_param.{field}: must be a number; found nan")
        transformer = Transformer(transform_param, phase, stream)
        reader = _WindowReader(param, transform_param, stream, rank, solver_count)
        transformer.seed(stream)  # Caffe makes one, and seeds it twice, but draws from a stream of its own
        stream.draw()  # Caffe's prefetch thread takes its own seed
        super().__init__(reader, param.batch_size, prefetch)


class _WindowReader(TurnTaking):
    """Fills batches with windows."""

    def __init__(self, param: Any, transform_param: Any, stream: Stream, rank: int, shares: int) -> None:
        super().__init__(rank, shares)
        self._param = param
        self._crop, self._mirror = transform_param.crop_size, transform_param.mirror
        self._stream = Stream(ranks.agreed(stream.draw(), shares))
        self.shape = (3, self._crop, self._crop)
        paths, foreground, background = read_windows(param.source, param.fg_threshold, param.bg_threshold)
        self._paths = [param.root_folder + path for path in paths]
        count = int(np.float32(param.batch_size) * np.float32(param.fg_fraction))
        self._kinds = ((param.batch_size - count, background), (count, foreground))
        for (needed, windows), kind in zip(self._kinds, ("background", "foreground"), strict=True):
            if needed > 0 and not windows:
                raise DataError(
                    f"window file {param.source}: no {kind} windows, of which each batch needs {needed}; change the "
                    f"thresholds or fg_fraction"
                )
        self._mean = self._crop_mean(transform_param)
        self._contents = [self._content(path) for path in self._paths] if param.cache_images else None

    def _crop_mean(self, transform_param: Any) -> np.ndarray:
        """What to subtract from a crop: (3, crop, crop), or (3, 1, 1) where it is one number a channel."""
        values = np.array(transform_param.mean_value, np.float32)
        if not transform_param.mean_file:
            if values.size not in (0, 1, 3):
                raise DataError(
                    f"transform_param.mean_value: specify either 1 mean_value or as many as channels: 3; found "
                    f"{values.size}"
                )
            mean = np.zeros((3, 1, 1), np.float32)
            if values.size:
                mean[:, 0, 0] = values
            return mean
        mean = read_mean(transform_param.mean_file)
        start = (mean.shape[2] - self._crop) // 2
        crop = mean[:, start : start + self._crop, start : start + self._crop]
        if start < 0 or crop.shape != self.shape:
            raise DataError(
                f"transform_param.mean_file: a mean of shape {mean.shape} holds no {self._crop} x {self._crop} pixels "
                f"of 3 channels"
            )
        return crop

    def _content(self, path: str) -> bytes:
        try:
            return limits.read_file(path)
        except OSError as error:
            raise DataError(f"image {os.path.abspath(path)}: cannot be read ({error.strerror})") from error

    def fill(self, batch: Batch) -> None:
        batch.resize(self.shape, np.float32)
        batch.pixels.fill(0)
        for n, window in enumerate(self._draw()):
            if self.stopped.is_set():
                break
            mirrored = self._mirror and self._stream.draw() % 2 == 1
            self._warp(window, mirrored, batch.pixels[n])
            batch.label[n] = window.label

    def pass_over(self, batches: int) -> None:
        self._stream.draws(batches * self._param.batch_size * (2 if self._mirror else 1))

    def _draw(self) -> Iterator[Window]:
        for count, windows in self._kinds:
            for _ in range(count):
                yield windows[self._stream.draw() % len(windows)]

    def _warp(self, window: Window, mirrored: bool, out: np.ndarray) -> None:
        pixels = (
            decode_image(self._contents[window.image], True)
            if self._contents
            else read_image(self._paths[window.image], True)
        )
        (x1, x2, width, left, right), (y1, y2, height, above, _) = self._fit(window, *pixels.shape[:0:-1])
        if not (0 <= x1 <= x2 < pixels.shape[2] and 0 <= y1 <= y2 < pixels.shape[1]):
            raise DataError(
                f"window {window[2:]} (x1, y1, x2, y2) does not lie in image {self._paths[window.image]}, "
                f"{pixels.shape[2]} x {pixels.shape[1]}"
            )
        left = right if mirrored else left
        width, height = min(width, self._crop - left), min(height, self._crop - above)
        if width < 1 or height < 1:
            return
        patch = resize(pixels[:, y1 : y2 + 1, x1 : x2 + 1], height, width)
        if mirrored:
            patch = patch[:, :, ::-1]
        rows, cols = slice(above, above + height), slice(left, left + width)
        mean = self._mean[:, rows, cols] if self._mean.shape == self.shape else self._mean
        out[:, rows, cols] = (patch - mean) * np.float32(self._param.scale)

    def _fit(self, window: Window, columns: int, rows: int) -> tuple[tuple, tuple]:
        """For each axis, x first: first and last pixel to take, size to warp them to, padding before and after."""
        spans = ((window.x1, window.x2, columns), (window.y1, window.y2, rows))
        square = self._param.crop_mode == "square"
        if not (self._param.context_pad or square):
            return tuple((first, last, self._crop, 0, 0) for first, last, _ in spans)  # type: ignore[return-value]
        widen = np.float32(self._crop) / np.float32(self._crop - 2 * self._param.context_pad)
        halves = [np.float32((last - first + 1) / 2) for first, last, _ in spans]
        wanted = [max(halves)] * 2 if square else halves
        return tuple(  # type: ignore[return-value]
            self._fit_axis(np.float32(first) + own, half * widen, size)
            for (first, _, size), own, half in zip(spans, halves, wanted, strict=True)
        )

    def _fit_axis(self, centre: np.float32, half: np.float32, size: int) -> tuple[int, int, int, int, int]:
        first, last = _round(centre - half), _round(centre + half)
        scale = np.float32(self._crop) / np.float32(last - first + 1)
        before, after = max(0, -first), max(0, last - size + 1)
        first, last = first + before, last - after
        sizes = (np.float32(pixels) * scale for pixels in (last - first + 1, before, after))
        pixels, before, after = map(_round, sizes)
        return first, last, pixels, before, after

    def position(self) -> bytes:
        """The state of the random stream: all there is."""
        return self._stream.get_state()

    def encode(self, position: Any) -> dict[str, Any]:
        return {"random": text_of_state(position)}

    def go_to(self, state: dict[str, Any]) -> None:
        self._stream.set_state(state_of_text(state["random"]) or b"")


def _round(value: float | np.float32) -> int:
    """To the nearest integer, halves away from zero, as C rounds."""
    return int(math.copysign(math.floor(abs(float(value)) + 0.5), value))
