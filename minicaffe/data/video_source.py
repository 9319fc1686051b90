"""Batches of clips: frames in image files, of the videos that a text file lists."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from minicaffe import proto
from minicaffe.backend.random import Stream
from minicaffe.data.image import read_image, resize
from minicaffe.data.image_source import ImageSource, ListReader, read_lines
from minicaffe.data.source import state_of_text, text_of_state
from minicaffe.errors import DataError

RGB, FLOW = range(2)
"""Values of VideoDataParameter.Modality."""

_NAMES = {RGB: "image_%04d.jpg", FLOW: "flow_%c_%04d.jpg"}
_C3D_NAME = "%06d.jpg"


class SegmentSource(ImageSource):
    """Snippets of videos for temporal segment networks (Wang et al. 2016), as yjxiong's VideoData reads them.

    ``param`` is a VideoDataParameter.  A line of ``source`` is a folder of frames, how many there are, and a label.
    Each video is cut into ``num_segments`` of equal length, and of each a snippet of ``new_length`` frames is taken:
    from a random place in TRAIN, else from the middle.  ``name_pattern`` makes a frame's file of its number, from 1 on;
    with ``modality: FLOW`` of the letter x or y and the number.  An image is all frames of a video one above the other:
    3 channels each, or x and y of flow.
    yjxiong: a snippet of a segment that is too short begins at frame 2; a video that cannot be read leaves in the batch
    what was there, and is an error here.
    """

    param_name = "video_data_param"

    def reader(self, *how: Any) -> ListReader:
        return _SegmentReader(self.phase, *how)


class ClipSource(ImageSource):
    """Clips of C3D: ``new_length`` frames, every ``sampling_rate``-th, of a folder with files ``000001.jpg``, ….

    ``param`` is an ImageDataParameter or a VideoDataParameter with ``use_image``.  A line of ``source`` is a folder,
    the number of its clip's first frame, and a label; with ``use_temporal_jitter`` the number is how many frames there
    are, and in TRAIN a clip begins at a random one, else at the first.  An image is first the blue of all frames, then
    their green and red.
    C3D: what cannot be read is passed over in TRAIN; here it is an error.
    """

    param_name = "image_data_param"

    def reader(self, *how: Any) -> ListReader:
        return _ClipReader(self.phase, *how)


class _VideoReader(ListReader):
    """Fills batches with clips; an item is a line and the numbers of the frames that begin its clips."""

    remedy = "set new_height and new_width, or transform_param.crop_size"

    def __init__(self, phase: int, *how: Any) -> None:
        self._training = phase == proto.TRAIN
        super().__init__(*how)

    def read_entries(self) -> list[tuple[str, int, int]]:
        entries = []
        for n, line in enumerate(read_lines(self._param.source), 1):
            name, *numbers = line.rstrip().rsplit(None, 2) or [""]
            try:
                count, label = (int(number) for number in numbers)
            except ValueError:
                raise DataError(
                    f"{self._where()}, line {n}: expected a folder of frames and two whole numbers, {self.meaning}; "
                    f"found '{line}'"
                ) from None
            entries.append((name, count, label))
        return entries

    meaning: str
    """What the numbers of a line are."""

    def first_item(self, stream: Stream) -> Any:
        self._frames = Stream(stream.draw())
        line = self._order[self._place]
        return line, self.starts(line)

    def next_item(self) -> Any:
        line = super().next_item()
        return line, self.starts(line)

    def starts(self, line: int) -> list[int]:
        """The frames that begin the clips of a line, drawn at random in training."""
        raise NotImplementedError

    def names(self, folder: str, starts: list[int]) -> Iterator[str]:
        """The files of an item, in order."""
        raise NotImplementedError

    color = True

    def read(self, item: Any) -> tuple[np.ndarray, int]:
        line, starts = item
        folder, _, label = self._entries[line]
        frames = [self._frame(name) for name in self.names(self._param.root_folder + folder, starts)]
        if len({frame.shape for frame in frames}) > 1:
            raise DataError(f"its frames differ in size; {self.remedy}")
        return self.joined(np.stack(frames)), label

    def joined(self, frames: np.ndarray) -> np.ndarray:
        """The channels of an image from frames (L, channels, H, W)."""
        return frames.reshape(-1, *frames.shape[2:])

    def _frame(self, name: str) -> np.ndarray:
        pixels, size = read_image(name, self.color), (self._param.new_height, self._param.new_width)
        return resize(pixels, *size) if any(size) and pixels.shape[1:] != size else pixels

    def position(self) -> tuple:
        return *super().position(), self._frames.get_state()

    def encode(self, position: Any) -> dict[str, Any]:
        *lines, frames = position
        return {**super().encode(lines), "frames": text_of_state(frames)}

    def go_to(self, state: dict[str, Any]) -> None:
        super().go_to(state)
        self._frames.set_state(state_of_text(state["frames"]) or b"")

    def draw_anew(self, stream: Stream) -> None:
        super().draw_anew(stream)
        self._frames = Stream(stream.draw())

    def at(self, item: Any, error: DataError) -> DataError:
        return super().at(item[0], error)

    def _where(self) -> str:
        return f"list of videos {os.path.abspath(self._param.source)}"


class _SegmentReader(_VideoReader):
    meaning = "how many frames there are and a label"

    def __init__(self, phase: int, param: Any, *how: Any) -> None:
        self.color = param.modality == RGB
        self._name = param.name_pattern or _NAMES[param.modality]
        try:
            self._named("", 1)
        except (TypeError, ValueError) as error:
            like = _NAMES[param.modality]
            raise DataError(
                f"video_data_param.name_pattern: '{self._name}' makes no name of a frame ({error}); expected one like "
                f"'{like}'"
            ) from None
        super().__init__(phase, param, *how)

    def starts(self, line: int) -> list[int]:
        segments, length = self._param.num_segments, self._param.new_length
        whole = self._entries[line][1] // segments
        room = whole - length + 1
        if room < 1:
            return [2] * segments
        offsets = (self._frames.draws(segments) % room).tolist() if self._training else [room // 2] * segments
        return [1 + offset + i * whole for i, offset in enumerate(offsets)]

    def names(self, folder: str, starts: list[int]) -> Iterator[str]:
        for start in starts:
            for number in range(start, start + self._param.new_length):
                yield from self._named(folder, number)

    def _named(self, folder: str, number: int) -> list[str]:
        if self.color:
            return [f"{folder}/{self._name % number}"]
        return [f"{folder}/{self._name % (axis, number)}" for axis in "xy"]


class _ClipReader(_VideoReader):
    meaning = "the first frame, or with use_temporal_jitter how many there are, and a label"

    def starts(self, line: int) -> list[int]:
        number = self._entries[line][1]
        if not self._param.use_temporal_jitter:
            return [number]
        room = number - self._param.new_length * self._param.sampling_rate + 1
        if room < 1:
            raise self.at((line, []), DataError(f"a clip takes more than its {number} frames; leave the line out"))
        return [1 + self._frames.draw() % room] if self._training else [1]

    def names(self, folder: str, starts: list[int]) -> Iterator[str]:
        rate = self._param.sampling_rate
        for number in range(starts[0], starts[0] + self._param.new_length * rate, rate):
            yield f"{folder}/{_C3D_NAME % number}"

    def joined(self, frames: np.ndarray) -> np.ndarray:
        return super().joined(np.ascontiguousarray(frames.swapaxes(0, 1)))
