"""IDX files, the format of MNIST: a big-endian header, then bytes; plain or gzipped."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib

import numpy as np

from minicaffe.errors import DataError

_GZIP = b"\x1f\x8b"
_BYTES = 0x08  # the IDX code for unsigned bytes


def read_images(path: str | os.PathLike[str]) -> np.ndarray:
    """The images of an IDX file (magic 2051), uint8 (N, height, width). Errors as in ``read_idx``."""
    return read_idx(path, 3)


def read_labels(path: str | os.PathLike[str]) -> np.ndarray:
    """The labels of an IDX file (magic 2049), uint8 (N,). Errors as in ``read_idx``."""
    return read_idx(path, 1)


def read_labelled_images(
    images: str | os.PathLike[str], labels: str | os.PathLike[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that belong together; DataError if their numbers differ."""
    pixels, classes = read_images(images), read_labels(labels)
    if len(pixels) != len(classes):
        raise DataError(
            f"{len(pixels)} images in {os.path.abspath(images)} but {len(classes)} labels in {os.path.abspath(labels)}; "
            "give the two files of one set"
        )
    return pixels, classes


def read_idx(path: str | os.PathLike[str], dimensions: int) -> np.ndarray:
    """The bytes of an IDX file as an array of so many ``dimensions``.

    Raises DataError: a file that cannot be read, is no IDX file of bytes of those dimensions, or is truncated.
    """
    where = f"IDX file {os.path.abspath(path)}"
    content = read_maybe_gzipped(path)
    magic = _BYTES << 8 | dimensions
    header = struct.Struct(f">{1 + dimensions}I")
    if len(content) < header.size:
        raise DataError(f"{where}: truncated, {len(content)} bytes are less than its header; fetch it again")
    found, *shape = header.unpack_from(content)
    if found != magic:
        raise DataError(f"{where}: its magic number is {found}, expected {magic} ({_WHAT[dimensions]})")
    size = math.prod(shape)
    if len(content) - header.size != size:
        raise DataError(
            f"{where}: its header says {' x '.join(map(str, shape))}, {size} bytes, but {len(content) - header.size} follow; "
            "the file is truncated or damaged: fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header.size).reshape(shape)


def read_maybe_gzipped(path: str | os.PathLike[str]) -> bytes:
    """The content of a file, decompressed if it is gzipped; DataError if it cannot be read or decompressed."""
    where = f"file {os.path.abspath(path)}"
    try:
        with open(path, "rb") as stream:
            content = stream.read()
        return gzip.decompress(content) if content.startswith(_GZIP) else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{where}: a truncated or damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror})") from error


_WHAT = {1: "labels", 3: "images"}
