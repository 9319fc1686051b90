"""Names and places of the databases that ``minicaffe data`` makes and the shipped models read."""

from __future__ import annotations

import os
import re

FOLDERS = {"digits": "examples/digits", "mnist": "examples/siamese"}
"""Where ``data siamese`` puts the databases of a source, seen from the working folder."""
LENET_FOLDER = "examples/mnist"
"""Where ``data mnist`` puts its databases."""
CIFAR10_FOLDER = "examples/cifar10"
"""Where ``data cifar10`` puts its databases and the mean image."""

_MADE_BY = (
    (r"mnist_siamese_(train|test)_leveldb: not found", "minicaffe data siamese mnist"),
    (r"digits_(siamese_)?(train|test)_lmdb: not found", "minicaffe data siamese digits"),
    (r"\bmnist_(train|test)_lmdb: not found", "minicaffe data mnist"),
    *(
        (rf"folder \S*{folder} does not exist", f"minicaffe data siamese {source}")
        for source, folder in FOLDERS.items()
    ),
    (rf"folder \S*{LENET_FOLDER} does not exist", "minicaffe data mnist"),
    (r"\bcifar10_(train|test)_lmdb: not found", "minicaffe data cifar10"),
    (rf"folder \S*{CIFAR10_FOLDER} does not exist", "minicaffe data cifar10"),
    (rf"{CIFAR10_FOLDER}/mean\.binaryproto cannot be read \(No such file", "minicaffe data cifar10"),
)


def pairs(name: str, split: str, backend: str) -> str:
    """Name of the database of image pairs of a ``split``, "train" or "test"."""
    return f"{name}_siamese_{split}_{backend}"


def images(name: str, split: str, backend: str = "lmdb") -> str:
    """Name of the database of labelled images of a ``split``."""
    return f"{name}_{split}_{backend}"


def images_beside(pair_database: str, split: str) -> str | None:
    """The labelled images whose pairs are in ``pair_database``: a database beside it, if there is one."""
    from minicaffe.data.db import backend_of

    folder, name = os.path.split(os.path.normpath(pair_database))
    match = re.fullmatch(r"(.+)_siamese_(train|test)_\w+", name)
    path = os.path.join(folder, images(match[1], split)) if match else None
    return path if path is not None and backend_of(path) else None


def how_to_make(message: str) -> str | None:
    """The command that makes the database, or its folder, of which an error's ``message`` says that it is not there."""
    return next((command for problem, command in _MADE_BY if re.search(problem, message)), None)
