"""Pictures of boxes with their names."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minicaffe.box_detector import Found

_LEAST_SIDE = 480
"""Pixels: the longer side of smaller images is enlarged to it, so that names can be read."""


def draw_boxes(image: NDArray, found: Iterable[Found], names: Mapping[int, str]) -> Any:
    """A Pillow image of an image (height, width, channels) of 0 to 1 with the boxes that were found in it, each with
    its name and confidence; a colour for each label."""
    from PIL import ImageDraw, ImageFont

    picture, factor = picture_of(image)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(size=font_size(picture))
    for each in found:
        color = color_of(each.label)
        corners = [factor * side for side in (each.xmin, each.ymin, each.xmax, each.ymax)]
        pen.rectangle(corners, outline=color, width=max(2, max(picture.size) // 240))
        text = f"{names.get(each.label, each.label)} {each.confidence:.2f}"
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x = min(corners[0], picture.width - right)
        y = corners[1] - bottom - 2 if corners[1] > bottom + 2 else corners[3] + 2
        pen.rectangle((x + left, y + top, x + right, y + bottom), fill=color)
        pen.text((x, y), text, fill="black", font=font)
    return picture


def picture_of(image: NDArray) -> tuple[Any, int]:
    """A Pillow image of an image (height, width, channels) of 0 to 1, and how many times it was enlarged."""
    from PIL import Image

    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    factor = max(1, round(_LEAST_SIDE / max(picture.size)))
    if factor > 1:
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    return picture, factor


def font_size(picture: Any) -> int:
    """A height of letters, in pixels, that suits a picture."""
    return max(12, max(picture.size) // 32)


def color_of(label: int) -> tuple[int, int, int]:
    """A bright colour, far from those of neighbouring labels."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618 % 1, 0.7, 1)
    return round(255 * red), round(255 * green), round(255 * blue)
