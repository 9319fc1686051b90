"""An image with boxes, and what moves both together: cutting out, placing on a canvas, resizing, mirroring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from minicaffe.boxes import geometry
from minicaffe.boxes.frames import FIT_LARGE_SIZE_AND_PAD, FIT_SMALL_SIZE
from minicaffe.data.datum import to_array
from minicaffe.data.opencv_resize import LINEAR, resample
from minicaffe.errors import DataError
from minicaffe.limits import require_memory

CONSTANT, MIRRORED, REPEAT_NEAREST = 1, 2, 3
"""Values of ResizeParameter.Pad_mode."""
CENTER, MIN_OVERLAP = 0, 1
"""Values of EmitConstraint.EmitType."""


@dataclass(frozen=True)
class AnnotatedImage:
    """``pixels`` (channels, H, W); ``boxes`` (G, 4) relative to the image, ``labels``, ``instances`` and ``difficult``
    (G,); ``label``, the image's own."""

    pixels: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    instances: np.ndarray
    difficult: np.ndarray
    label: int

    @classmethod
    def of(cls, message: Any, force_color: bool = False, force_gray: bool = False) -> AnnotatedImage:
        """What an AnnotatedDatum holds; DataError for an image that cannot be read."""
        rows = [
            (annotation.bbox.xmin, annotation.bbox.ymin, annotation.bbox.xmax, annotation.bbox.ymax,
             group.group_label, annotation.instance_id, annotation.bbox.difficult)
            for group in message.annotation_group
            for annotation in group.annotation
        ]  # fmt: skip
        table = np.array(rows, np.float32).reshape(-1, 7)
        pixels = to_array(message.datum, force_color, force_gray)
        return cls(pixels, table[:, :4], table[:, 4], table[:, 5], table[:, 6], message.datum.label)

    def chosen(self, which: np.ndarray, boxes: np.ndarray) -> AnnotatedImage:
        """With these of its boxes only, which now lie at ``boxes`` (G, 4)."""
        return replace(
            self,
            boxes=boxes[which],
            labels=self.labels[which],
            instances=self.instances[which],
            difficult=self.difficult[which],
        )

    def seen_from(self, frame: np.ndarray, emit: Any = None) -> AnnotatedImage:
        """With the boxes relative to ``frame``; what lies outside is cut off.  Boxes that an EmitConstraint ``emit``
        does not let pass are left out."""
        boxes, inside = geometry.project(frame, self.boxes)
        if emit is not None:
            inside = inside & emitted(frame, self.boxes, emit)
        return self.chosen(inside, boxes)

    def cut_out(self, frame: np.ndarray, emit: Any = None) -> AnnotatedImage:
        """The part of the image inside ``frame`` (4,), which is cut off at the image's borders."""
        frame = geometry.clip(frame)
        _, height, width = self.pixels.shape
        left, top, right, bottom = (frame * np.array([width, height, width, height], np.float32)).tolist()
        x, y, w, h = int(left), int(top), max(int(right - left), 1), max(int(bottom - top), 1)
        return replace(self.seen_from(frame, emit), pixels=self.pixels[:, y : y + h, x : x + w])

    def on_canvas(self, height: int, width: int, top: int, left: int, fill: np.ndarray, emit: Any) -> AnnotatedImage:
        """The image on a larger canvas of the colour ``fill`` (channels,)."""
        channels, h, w = self.pixels.shape
        require_memory(channels * height * width * self.pixels.itemsize, "the canvas", "lower max_expand_ratio")
        canvas = np.empty((channels, height, width), self.pixels.dtype)
        canvas[...] = fill[:, None, None]
        canvas[:, top : top + h, left : left + w] = self.pixels
        frame = np.array([-left / w, -top / h, (width - left) / w, (height - top) / h], np.float32)
        return replace(self.seen_from(frame, emit), pixels=canvas)

    def mirrored_boxes(self) -> np.ndarray:
        """The boxes (G, 4) in the mirrored image."""
        x0, y0, x1, y1 = self.boxes.T
        return np.stack([1 - x1, y0, 1 - x0, y1], axis=1)

    def resized(self, resize: Any, mode: int) -> AnnotatedImage:
        """As a ResizeParameter asks for, with the interpolation ``mode``."""
        if self.pixels.dtype != np.uint8:
            raise DataError("transform_param.resize_param: resizes images of bytes; the record holds float_data")
        boxes = resized_boxes(self.boxes, resize, *self.pixels.shape[1:])
        return replace(self, pixels=resized_pixels(self.pixels, resize, mode), boxes=boxes)


def emitted(frame: np.ndarray, boxes: np.ndarray, emit: Any) -> np.ndarray:
    """Which boxes belong to ``frame``: those with their centre in it, or with more than ``emit_overlap`` of them."""
    if emit.emit_type == CENTER:
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        return ((centers >= frame[:2]) & (centers <= frame[2:])).all(axis=1)
    return geometry.coverage(boxes, frame) > np.float32(emit.emit_overlap)


def resized_pixels(pixels: np.ndarray, resize: Any, mode: int = LINEAR) -> np.ndarray:
    """The image in the size that a ResizeParameter asks for."""
    height, width = resize.height, resize.width
    if resize.resize_mode not in (FIT_SMALL_SIZE, FIT_LARGE_SIZE_AND_PAD):
        return resample(pixels, height, width, mode)
    aspect, wanted = pixels.shape[2] / pixels.shape[1], width / height
    wide = aspect > wanted
    if wide == (resize.resize_mode == FIT_LARGE_SIZE_AND_PAD):
        inner = max(int(width / np.float32(aspect)), 1), width
    else:
        inner = height, max(int(np.float32(aspect) * height), 1)
    scaled = resample(pixels, *inner, mode)
    if resize.resize_mode == FIT_SMALL_SIZE:
        return scaled
    above, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    room = ((0, 0), (above, height - inner[0] - above), (left, width - inner[1] - left))
    if resize.pad_mode != CONSTANT:
        return np.pad(scaled, room, mode="reflect" if resize.pad_mode == MIRRORED else "edge")
    require_memory(pixels.itemsize * len(pixels) * height * width, "the padded image", "take a smaller size")
    padded = np.empty((len(pixels), height, width), pixels.dtype)
    padded[...] = channel_values(resize.pad_value, len(pixels), "resize_param.pad_value")[:, None, None]
    padded[:, above : above + inner[0], left : left + inner[1]] = scaled
    return padded


def resized_boxes(boxes: np.ndarray, resize: Any, height: int, width: int) -> np.ndarray:
    """Boxes relative to an image of these sizes, relative to what ``resized_pixels`` makes of it."""
    if resize.resize_mode != FIT_LARGE_SIZE_AND_PAD:
        return geometry.clip(boxes)
    aspect, size = width / height, np.array([resize.width, resize.height], np.float32)
    if aspect > resize.width / resize.height:
        edge = np.array([0, (resize.height - resize.width / aspect) / 2], np.float32)
    else:
        edge = np.array([(resize.width - resize.height * aspect) / 2, 0], np.float32)
    edges, sizes = np.tile(edge, 2), np.tile(size, 2)
    return (edges + geometry.clip(boxes) * (sizes - 2 * edges)) / sizes


def channel_values(given: Any, channels: int, field: str) -> np.ndarray:
    """A value for each channel, of none (0), one or as many; DataError for another number."""
    values = np.array(given or [0], np.float32)
    if len(values) not in (1, channels):
        raise DataError(
            f"transform_param.{field}: specify either 1 value or as many as channels: {channels}; found {len(values)}"
        )
    return np.broadcast_to(values, channels)
