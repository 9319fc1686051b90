"""CIFAR-10 (Krizhevsky 2009): 50,000 colour photographs of ten kinds of things to train, 10,000 to test, 32 x
32 each.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minicaffe.data.fetch import download
from minicaffe.data.mnist import cache_folder
from minicaffe.errors import DataError

ARCHIVE = "cifar-10-binary.tar.gz"
MIRRORS = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

FILES = {"train": tuple(f"data_batch_{k}.bin" for k in range(1, 6)), "test": ("test_batch.bin",)}
"""The files of each split, in the archive's folder ``cifar-10-batches-bin``."""

CLASSES = 10
_SHAPE = (3, 32, 32)
_RECORD = 1 + 3 * 32 * 32  # a label, then the red, the green and the blue plane
_FOLDER = "cifar-10-batches-bin"


def fetch_cifar10(folder: str | os.PathLike[str] | None = None, mirrors: Sequence[str] = MIRRORS) -> Path:
    """Download CIFAR-10's archive, binary version, into ``folder`` (default: the user's cache), unless it is there.

    Returns the folder. Raises DataError if no mirror has the file, or none the right one.
    """
    target = cache_folder() if folder is None else Path(folder)
    path = target / ARCHIVE
    if not path.exists():
        download([mirror + ARCHIVE for mirror in mirrors], path, functools.partial(_check, path))
    return check_cifar10(target)


def check_cifar10(folder: str | os.PathLike[str]) -> Path:
    """``folder``, if it holds CIFAR-10's archive; DataError if it does not, or holds another file of that name."""
    path = Path(folder) / ARCHIVE
    if not path.is_file():
        raise DataError(f"folder {os.path.abspath(folder)}: no {ARCHIVE}; download it there (CIFAR-10, binary version)")
    _check(path, path)
    return Path(folder)


def read_cifar10(folder: str | os.PathLike[str], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 3, 32, 32), red, green, blue, and labels uint8 (N,) of a ``split``, "train" or "test".

    ``folder`` holds the archive, which is not unpacked, or its ``.bin`` files.  Raises DataError for a file that is
    missing, truncated or of another format.
    """
    if (Path(folder) / ARCHIVE).is_file():
        parts = _members(check_cifar10(folder) / ARCHIVE, FILES[split])
    else:
        missing = [name for name in FILES[split] if not (Path(folder) / name).is_file()]
        if missing:
            raise DataError(
                f"folder {os.path.abspath(folder)}: neither {ARCHIVE} nor {', '.join(missing)}; "
                "download CIFAR-10's binary version there"
            )
        parts = [(Path(folder) / name, (Path(folder) / name).read_bytes()) for name in FILES[split]]
    batches = [_records(path, content) for path, content in parts]
    return tuple(np.concatenate(arrays) for arrays in zip(*batches, strict=True))  # type: ignore[return-value]


def _members(archive: Path, names: Sequence[str]) -> list[tuple[Path, bytes]]:
    """The contents of files in the archive, with the places to name in messages."""
    found = []
    try:
        with tarfile.open(archive) as files:
            for name in names:
                member = files.extractfile(f"{_FOLDER}/{name}")
                assert member is not None
                found.append((archive / name, member.read()))
    except (tarfile.TarError, EOFError, KeyError) as error:
        raise DataError(f"file {archive.absolute()}: cannot be unpacked ({error}); download it again") from error
    return found


def _records(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a file's records."""
    if not content or len(content) % _RECORD:
        raise DataError(
            f"file {path.absolute()}: {len(content)} bytes are no whole number of records of {_RECORD} bytes "
            "(a label, 3 x 32 x 32 pixels); the file is truncated, or not of CIFAR-10's binary version"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    labels = records[:, 0]
    if labels.max() >= CLASSES:
        raise DataError(
            f"file {path.absolute()}: label {labels.max()} is none of 0 .. {CLASSES - 1}; is it of CIFAR-100?"
        )
    return records[:, 1:].reshape(-1, *_SHAPE), labels


def _check(wanted: Path, path: Path) -> None:
    """Raise DataError if ``path``, to be named ``wanted``, is not CIFAR-10's archive."""
    with open(path, "rb") as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != SHA256:
        raise DataError(
            f"file {path.absolute()}: not CIFAR-10's {wanted.name}: its SHA256 is {digest.hexdigest()}, expected "
            f"{SHA256}; "
            "remove it and download it again"
        )
