"""IDX files, the format of MNIST: a big-endian header, then bytes; plain or gzipped."""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np

from minicaffe import limits
from minicaffe.errors import DataError

_GZIP = b"\x1f\x8b"
_BYTES = 0x08  # the IDX code for unsigned bytes
_SHOWN_MORE = 1 << 16  # bytes beyond the end that are counted

LARGEST = 1 << 30
"""Bytes of a file's content, uncompressed, that are read: a small file may hold any number of them."""


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
            f"{len(pixels)} images in {os.path.abspath(images)} but {len(classes)} labels in "
            f"{os.path.abspath(labels)}; "
            "give the two files of one set"
        )
    return pixels, classes


def read_idx(path: str | os.PathLike[str], dimensions: int) -> np.ndarray:
    """The bytes of an IDX file as an array of so many ``dimensions``.

    Raises DataError: a file that cannot be read, is no IDX file of bytes of those dimensions, is truncated, or has more
    than ``LARGEST`` bytes of content; OutOfMemoryError: one that does not fit into memory.
    """
    where = f"IDX file {os.path.abspath(path)}"
    header = struct.Struct(f">{1 + dimensions}I")
    with open_maybe_gzipped(path) as stream:
        head = stream.read(header.size)
        if len(head) < header.size:
            raise DataError(f"{where}: truncated, {len(head)} bytes are less than its header; fetch it again")
        found, *shape = header.unpack(head)
        if found != _BYTES << 8 | dimensions:
            raise DataError(
                f"{where}: its magic number is {found}, expected {_BYTES << 8 | dimensions} "
                f"({_WHAT.get(dimensions, f'bytes in {dimensions} dimensions')})"
            )
        size = math.prod(shape)
        if size > LARGEST:
            raise DataError(
                f"{where}: its header says {' x '.join(map(str, shape))}, {size} bytes; files of up to {LARGEST} "
                "bytes are "
                "read: split it into parts"
            )
        limits.require_memory(size, where, "split it into parts")
        content = stream.read(size)
        more = len(stream.read(_SHOWN_MORE)) if len(content) == size else 0
    if len(content) != size or more:
        follow = f"more than {size + more - 1}" if more == _SHOWN_MORE else str(len(content) + more)
        raise DataError(
            f"{where}: its header says {' x '.join(map(str, shape))}, {size} bytes, but {follow} follow; "
            "the file is truncated or damaged: fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_any(path: str | os.PathLike[str]) -> np.ndarray:
    """The bytes of an IDX file, in as many dimensions as it says. Errors as in ``read_idx``."""
    with open_maybe_gzipped(path) as stream:
        magic = stream.read(4)
    return read_idx(path, magic[3] if len(magic) == 4 else 1)


@contextlib.contextmanager
def open_maybe_gzipped(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file's content as a stream, decompressed while it is read if it is gzipped.

    DataError if it cannot be read or decompressed, also inside the block.
    """
    where = f"file {os.path.abspath(path)}"
    try:
        with open(path, "rb") as stream:
            gzipped = stream.read(len(_GZIP)) == _GZIP
            stream.seek(0)
            yield gzip.GzipFile(fileobj=stream) if gzipped else stream  # type: ignore[misc]
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{where}: a truncated or damaged gzip file ({error}); fetch it again") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{where}: cannot be read ({reason})") from error


_WHAT = {1: "labels", 3: "images"}
