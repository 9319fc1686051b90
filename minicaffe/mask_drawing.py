"""Pictures of the labels of pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.box_drawing import color_of, font_size, picture_of

_OPACITY = 0.6


def draw_labels(image: NDArray, labels: NDArray, names: Mapping[int, str]) -> Any:
    """A Pillow image of an image (height, width, channels) of 0 to 1 with a colour over the pixels of each label
    (height, width) but 0, and a legend below."""
    from PIL import Image

    picture, factor = picture_of(image)
    pixels = np.asarray(picture, np.float64).copy()
    large = labels.repeat(factor, axis=0).repeat(factor, axis=1)
    shown = [int(label) for label in np.unique(labels) if label]
    for label in shown:
        pixels[large == label] *= 1 - _OPACITY
        pixels[large == label] += _OPACITY * np.array(color_of(label))
    return _with_legend(Image.fromarray(np.rint(pixels).astype(np.uint8)), shown, names)


def _with_legend(picture: Any, labels: list[int], names: Mapping[int, str]) -> Any:
    """The picture with the names of labels below, each before its colour, in as many lines as they need."""
    from PIL import Image, ImageDraw, ImageFont

    height = font_size(picture)
    font, line = ImageFont.load_default(size=height), round(1.5 * height)
    places: list[tuple[int, int]] = []
    x, y, gap = 0, picture.height, height // 2
    for label in labels:
        width = round(font.getlength(str(names.get(label, label)))) + 2 * height + gap
        if x and x + width > picture.width:
            x, y = 0, y + line
        places.append((x, y))
        x += width
    result = Image.new("RGB", (picture.width, y + line if labels else y), "white")
    result.paste(picture, (0, 0))
    pen = ImageDraw.Draw(result)
    for label, (x, y) in zip(labels, places, strict=True):
        top = y + (line - height) // 2
        pen.rectangle((x + gap, top, x + gap + height, top + height), fill=color_of(label))
        pen.text((x + 2 * height, y + line // 2), str(names.get(label, label)), fill="black", font=font, anchor="lm")
    return result
