"""The databases behind Caffe's own training logs, rebuilt from MNIST, and layers out of prototxts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import text_format

from minicaffe import proto
from minicaffe.data.mnist import read_mnist
from minicaffe.data.write import write_images, write_pairs


class Run(NamedTuple):
    """The images of a run of Caffe: MNIST split and range, to train and to test."""

    train: tuple[str, slice]
    test: tuple[str, slice]
    pairs: str  # file name of the pairs of a split, whose numbers count from the range's first image


FULL = Run(("train", slice(None)), ("test", slice(None)), "curves/siamese_full_{}_pairs.npz")
SHORT = Run(("test", slice(0, 2000)), ("test", slice(2000, 2500)), "logs/train_siamese_{}_pairs.npz")


def write_lenet_databases(run: Run, mnist: Path, out: Path) -> None:
    """Write ``mnist_train_lmdb`` and ``mnist_test_lmdb``, the sources of Caffe's LeNet run, into ``out``."""
    for name in ("train", "test"):
        images, labels = _images(run, name, mnist)
        write_images(out / f"mnist_{name}_lmdb", images, labels, "lmdb")


def write_siamese_databases(run: Run, mnist: Path, golden: Path, out: Path) -> None:
    """Write ``siam_train_leveldb`` and ``siam_test_leveldb``, the sources of Caffe's siamese run, into ``out``."""
    for name in ("train", "test"):
        images, _ = _images(run, name, mnist)
        with np.load(golden / run.pairs.format(name)) as pairs:
            write_pairs(out / f"siam_{name}_leveldb", images, pairs["pairs"], pairs["sim"], "leveldb")


def first_layer(prototxt: Path) -> Any:
    """The first layer of a net's prototxt."""
    return text_format.Parse(prototxt.read_text(), proto.NetParameter()).layer[0]


def _images(run: Run, name: str, mnist: Path) -> tuple[np.ndarray, np.ndarray]:
    split, chosen = getattr(run, name)
    images, labels = read_mnist(mnist, split)
    return images[chosen], labels[chosen]
