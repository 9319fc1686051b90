"""Image files that commands read, and pictures that they write."""

from __future__ import annotations

import os

import click


def images(source: str) -> list[str]:
    """The image, or those in the folder, that ``source`` is."""
    if not os.path.isdir(source):
        return [source]
    from minicaffe.data.image import extensions

    names = sorted(name for name in os.listdir(source) if os.path.splitext(name)[1].lower() in extensions())
    if not names:
        raise click.UsageError(f"the folder {source} holds no image")
    return [os.path.join(source, name) for name in names]


def place(drawing: str, file: str, several: bool) -> str:
    """Where the picture of an image goes: into the folder ``drawing``, if there are several or it is one."""
    if not several and not os.path.isdir(drawing):
        return drawing
    os.makedirs(drawing, exist_ok=True)
    return os.path.join(drawing, os.path.splitext(os.path.basename(file))[0] + ".png")


def save(picture: object, path: str, option: str = "--draw") -> None:
    """Write a Pillow image; DataError if it cannot be written, or its name has no known ending."""
    from minicaffe.errors import DataError

    try:
        picture.save(path)  # type: ignore[attr-defined]
    except (OSError, ValueError) as error:
        raise DataError(f"{option} {path}: the picture cannot be written: {error}") from None
