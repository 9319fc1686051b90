"""Names and places of the databases that ``minicaffe data`` makes and the shipped models read."""

from __future__ import annotations

import os
import re

FOLDERS = {"digits": "examples/digits", "mnist": "examples/siamese"}
"""Where ``data siamese`` puts the databases of a source, seen from the working folder."""
LENET_FOLDER = "examples/mnist"
"""Where ``data mnist`` puts its databases."""
SCENES_FOLDER = "examples/ssd"
"""Where ``data scenes`` puts its databases."""
MASKS_FOLDER = "examples/segmentation"
"""Where ``data masks`` puts its images and lists."""
CIFAR10_FOLDER = "examples/cifar10"
"""Where ``data cifar10`` puts its databases and the mean image."""

_MADE_BY = {
    "minicaffe data siamese mnist": (
        *("mnist_siamese_train_leveldb", "mnist_siamese_test_leveldb"), FOLDERS["mnist"],
    ),
    "minicaffe data siamese digits": (
        *("digits_siamese_train_lmdb", "digits_siamese_test_lmdb", "digits_train_lmdb", "digits_test_lmdb"),
        FOLDERS["digits"],
    ),
    "minicaffe data scenes": ("scenes_train_lmdb", "scenes_test_lmdb", SCENES_FOLDER),
    "minicaffe data masks": (f"{MASKS_FOLDER}/train.txt", f"{MASKS_FOLDER}/test.txt", MASKS_FOLDER),
    "minicaffe data mnist": ("mnist_train_lmdb", "mnist_test_lmdb", LENET_FOLDER),
    "minicaffe data cifar10": (
        *("cifar10_train_lmdb", "cifar10_test_lmdb", f"{CIFAR10_FOLDER}/mean.binaryproto"), CIFAR10_FOLDER,
    ),
}  # fmt: skip
"""What each command makes, seen from the working folder or from any other."""


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


def how_to_make(missing: str | None) -> str | None:
    """The command that makes the database, file or folder at a path where there is none."""
    place = "/" + (missing or "").replace(os.sep, "/")
    return next((command for command, made in _MADE_BY.items() if place.endswith(tuple(f"/{m}" for m in made))), None)
