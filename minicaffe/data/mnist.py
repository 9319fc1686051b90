"""MNIST (LeCun, Cortes, Burges): 60,000 handwritten digits to train, 10,000 to test, 28 x 28 bytes each."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minicaffe import compat
from minicaffe.data.fetch import download
from minicaffe.data.idx import open_maybe_gzipped, read_labelled_images
from minicaffe.errors import DataError

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")

# SHA256 of the decompressed files: copies of the .gz files differ in how they were compressed
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


def cache_folder() -> Path:
    """The user's cache, where downloads go unless a folder is named."""
    return Path(compat.require("pooch").os_cache("minicaffe"))


def fetch_mnist(folder: str | os.PathLike[str] | None = None, mirrors: Sequence[str] = MIRRORS) -> Path:
    """Download MNIST's four .gz files into ``folder`` (default: the user's cache); those already there are kept.

    Returns the folder. Raises DataError if no mirror has a file, or none the right one.
    """
    target = cache_folder() if folder is None else Path(folder)
    for name in SHA256:
        path = target / f"{name}.gz"
        if not path.exists():
            download([f"{mirror}{path.name}" for mirror in mirrors], path, functools.partial(_check, name))
    return check_mnist(target)


def check_mnist(folder: str | os.PathLike[str]) -> Path:
    """``folder``, if it holds MNIST's four files, gzipped or not; DataError saying which are missing or differ."""
    for name, path in _files(folder).items():
        _check(name, path)
    return Path(folder)


def read_mnist(folder: str | os.PathLike[str], split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, 28, 28) and labels uint8 (N,) of a ``split``, "train" or "test", in the files' order."""
    files = _files(folder)
    prefix = {"train": "train", "test": "t10k"}[split]
    return read_labelled_images(files[f"{prefix}-images-idx3-ubyte"], files[f"{prefix}-labels-idx1-ubyte"])


def _files(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Where each of the four files is; DataError if one is missing."""
    choices = {name: (Path(folder) / f"{name}.gz", Path(folder) / name) for name in SHA256}
    files = {name: path for name, paths in choices.items() for path in reversed(paths) if path.is_file()}
    missing = [name for name in SHA256 if name not in files]
    if missing:
        raise DataError(
            f"folder {os.path.abspath(folder)}: no {', '.join(missing)} (with or without .gz); download MNIST there"
        )
    return files


def _check(name: str, path: Path) -> None:
    """Raise DataError if ``path`` is not MNIST's file ``name``."""
    digest = hashlib.sha256()
    with open_maybe_gzipped(path) as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    found = digest.hexdigest()
    if found != SHA256[name]:
        raise DataError(
            f"file {path.absolute()}: not MNIST's {name}: the SHA256 of its content is {found}, expected "
            f"{SHA256[name]}; "
            "remove it and download it again"
        )
