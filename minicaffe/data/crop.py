"""Image files resized and cropped to squares, as Caffe's ``resize_and_crop_images`` does for ImageNet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np

from minicaffe import limits
from minicaffe.data.image import FORMATS, MOST_PIXELS, read_image, resize
from minicaffe.errors import DataError
from minicaffe.proto.atomic import atomic_path

LIBRARIES = ("opencv", "pil")
_QUALITY = {"opencv": 95, "pil": 75}  # of JPEG files, as each library or script has it


def image_files(folder: str) -> Iterator[str]:
    """The names of all files in a folder and those below, sorted, as seen from it; hidden ones are left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield os.path.relpath(os.path.join(place, name), folder)


def crop_all(
    source: str, target: str, names: Iterable[str], side: int = 256, library: str = "opencv"
) -> Iterator[tuple[str, DataError | None]]:
    """Write the square of each image of a folder into another, under the same name; each name, and what was wrong.

    ``opencv``: the shorter side becomes ``side`` by bilinear interpolation, then the middle is cut out.  ``pil``: the
    square in the middle is cut out, then resized with a filter against aliasing.
    """
    for name in names:
        try:
            crop(os.path.join(source, name), os.path.join(target, name), side, library)
        except DataError as error:
            yield name, error
        else:
            yield name, None


def crop(source: str, target: str, side: int, library: str) -> None:
    """Write the square of an image file; DataError if it cannot be read or written."""
    from PIL import Image

    square = Image.fromarray(_bilinear(source, side)) if library == "opencv" else _antialiased(source, side)
    name = Image.registered_extensions().get(os.path.splitext(target)[1].lower())
    if name not in Image.SAVE:
        raise DataError(f"{target}: no format of images that can be written has this ending")
    try:
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        with atomic_path(target) as temporary:
            square.save(temporary, format=name, **({"quality": _QUALITY[library]} if name == "JPEG" else {}))
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror or error}") from None


def _bilinear(source: str, side: int) -> np.ndarray:
    """The square (side, side, 3), RGB."""
    image = read_image(source)
    height, width = image.shape[1:]
    new_height, new_width = (side * height // width, side) if height > width else (side, side * width // height)
    resized = resize(image, new_height, new_width)
    top, left = (new_height - side) // 2, (new_width - side) // 2
    return np.ascontiguousarray(resized[::-1, top : top + side, left : left + side].transpose(1, 2, 0))


def _antialiased(source: str, side: int):  # type: ignore[no-untyped-def]  # an image of Pillow, which loads late
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(source, formats=FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise DataError(
                    f"image {source} has {image.width} x {image.height} pixels; up to {MOST_PIXELS} are read"
                )
            limits.require_memory(6 * image.width * image.height, f"image {source}", "make it smaller")
            shorter = min(image.size)
            left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
            part = image.convert("RGB").crop((left, top, left + shorter, top + shorter))
            return part.resize((side, side), Image.Resampling.LANCZOS)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"image {source}: not an image of a known format") from None
    except Exception as error:  # decoders of damaged files raise errors of any kind
        raise DataError(f"image {source} cannot be decoded ({str(error) or type(error).__name__})") from None
