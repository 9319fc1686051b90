"""``minicaffe data``: data sets, and databases for nets to read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from minicaffe.tools import console, databases, imageset
from minicaffe.tools.command import Command, Group
from minicaffe.tools.completion import Path as PathName

if TYPE_CHECKING:
    import numpy as np

    from minicaffe.data.pairs import Pairs
    from minicaffe.data.write import Written

_DIGITS_PAIRS = {"train": 20_000, "test": 4_000}

_backend = click.option(
    "--backend",
    type=click.Choice(["lmdb", "leveldb"]),
    help="The kind of database (default: what the shipped nets read).",
)
_overwrite = click.option("--overwrite", is_flag=True, help="Replace databases that exist.")
_seed = click.option(
    "--seed", default=1, show_default=True, type=click.IntRange(0, 2**32 - 2), help="Draws other pairs."
)
_count = click.option("--count", type=click.IntRange(min=1), help="How many pairs to draw.")
_balance = click.option("--balance/--nobalance", default=None, help="Make every other pair a similar one.")
_height = click.option("--height", required=True, type=click.IntRange(min=1), help="Resize images to this height.")
_width = click.option("--width", required=True, type=click.IntRange(min=1), help="Resize images to this width.")
_color = click.option("--color", is_flag=True, help="Keep colours (blue, green, red); otherwise images are made gray.")
_SPLITS = ("train", "test")


@click.group(cls=Group, examples=["minicaffe data siamese digits", "minicaffe data images photos photos_lmdb"])
def command() -> None:
    """Download data, and make databases for nets to read.

    Databases that exist are left as they are, unless --overwrite is given.
    """


@command.command("fetch", examples=["minicaffe data fetch mnist", "minicaffe data fetch mnist --from downloads"])
@click.argument("dataset", type=click.Choice(["mnist", "cifar10"]))
@click.option("--from", "source", metavar="DIR", help="Take the files from this folder, instead of downloading them.")
@click.option("--to", "target", metavar="DIR", help="Where to put the files (default: the user's cache).")
def fetch(dataset: str, source: str | None, target: str | None) -> None:
    """Download a data set, where the other commands find it.

    Every file is checked against its SHA256; an interrupted download goes on where it stopped.
    """
    from minicaffe.data import cifar10, mnist
    from minicaffe.proto.atomic import atomic_path

    title, download, check, names = {
        "mnist": ("MNIST", mnist.fetch_mnist, mnist.check_mnist, {*mnist.SHA256, *(f"{n}.gz" for n in mnist.SHA256)}),
        "cifar10": ("CIFAR-10", cifar10.fetch_cifar10, cifar10.check_cifar10, {cifar10.ARCHIVE}),
    }[dataset]
    if source is None:
        console.result(f"{title} is in {download(target)}")
        return
    check(source)
    folder = Path(target) if target else _cache()
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(Path(source).iterdir()):
        if file.name in names:
            with atomic_path(folder / file.name) as new:
                shutil.copyfile(file, new)
    console.result(f"{title} is in {check(folder)}")


@command.command("mnist", examples=["minicaffe data mnist", "minicaffe data mnist downloads --backend leveldb"])
@click.argument("folder", required=False)
@click.option("--output", default=databases.LENET_FOLDER, show_default=True, metavar="DIR", help="Where to put them.")
@_backend
@_overwrite
def mnist(folder: str | None, output: str, backend: str | None, overwrite: bool) -> None:
    """Make databases of MNIST's labelled images.

    FOLDER holds MNIST's four files; without it they are those of 'minicaffe data fetch mnist'.  The LeNet model reads
    these databases.
    """
    backend = backend or "lmdb"
    _check_all_or_none(output, [databases.images("mnist", split, backend) for split in _SPLITS], overwrite)
    _write_images("mnist", _mnist_reader(folder), output, backend, overwrite)


@command.command("cifar10", examples=["minicaffe data cifar10"])
@click.argument("folder", required=False)
@click.option("--output", default=databases.CIFAR10_FOLDER, show_default=True, metavar="DIR", help="Where to put them.")
@_backend
@_overwrite
def cifar10(folder: str | None, output: str, backend: str | None, overwrite: bool) -> None:
    """Make databases of CIFAR-10's images, and their mean image.

    FOLDER holds CIFAR-10's archive (binary version), or its unpacked .bin files; without it the archive is that of
    'minicaffe data fetch cifar10'.  The CIFAR-10 models read these databases and mean.binaryproto beside them.
    """
    from minicaffe.data.cifar10 import ARCHIVE, read_cifar10
    from minicaffe.data.write import write_images
    from minicaffe.errors import DataError

    place = Path(folder) if folder else _cache()
    if folder is None and not (place / ARCHIVE).is_file():
        raise DataError(
            "CIFAR-10 has not been downloaded: run 'minicaffe data fetch cifar10', or name the folder that holds its "
            "files"
        )
    backend = backend or "lmdb"
    names = [databases.images("cifar10", split, backend) for split in _SPLITS]
    _check_all_or_none(output, [*names, "mean.binaryproto"], overwrite)
    splits = {split: read_cifar10(place, split) for split in _SPLITS}
    for split, (images, labels) in splits.items():
        path = os.path.join(output, databases.images("cifar10", split, backend))
        _report(write_images(path, images, labels, backend, overwrite, digits=5), "images")
    _write_mean(splits["train"][0], os.path.join(output, "mean.binaryproto"))


@command.command("siamese", examples=["minicaffe data siamese digits", "minicaffe data siamese mnist --balance"])
@click.argument("source", type=click.Choice(["digits", "mnist"]), required=False)
@click.option(
    "--from", "folder", metavar="DIR", help="The folder of MNIST's files, if they are not in the user's cache."
)
@click.option("--output", metavar="DIR", help="Where to put them (default: where the shipped nets read).")
@_count
@_balance
@_seed
@_backend
@_overwrite
def siamese(
    source: str | None, folder: str | None, output: str | None, count: int | None, balance: bool | None, seed: int,
    backend: str | None, overwrite: bool,
) -> None:  # fmt: skip
    """Make databases of pairs of digits for the siamese model.

    SOURCE is mnist, or digits: 1,797 real handwritten digits that come along.  By default it is
    mnist if that was downloaded ('minicaffe data fetch mnist') or --from is given, else digits.  The labelled images
    are put beside the pairs, to plot and score the features.

    By default mnist gives as many pairs as images, drawn at random as Caffe's converter does, so that one in ten is
    similar; digits give 20,000 balanced pairs (4,000 to test).
    """
    from minicaffe.data.digits import read_digits
    from minicaffe.data.pairs import draw_pairs
    from minicaffe.data.write import write_pairs

    source = source or ("mnist" if folder or _downloaded() else "digits")
    read = read_digits if source == "digits" else _mnist_reader(folder)
    output = output or databases.FOLDERS[source]
    backend = backend or ("lmdb" if source == "digits" else "leveldb")
    balance = source == "digits" if balance is None else balance
    names = [databases.pairs(source, split, backend) for split in _SPLITS]
    _check_all_or_none(output, [*names, *(databases.images(source, split) for split in _SPLITS)], overwrite)
    for split, split_seed in (("train", seed), ("test", seed + 1)):
        images, labels = read(split)
        wanted = count or (_DIGITS_PAIRS[split] if source == "digits" else None)
        pairs, similar = draw_pairs(labels, wanted, split_seed, balance)
        path = os.path.join(output, databases.pairs(source, split, backend))
        _report(write_pairs(path, images, pairs, similar, backend, overwrite), "pairs")
    _write_images(source, read, output, "lmdb", overwrite)


@command.command("scenes", examples=["minicaffe data scenes"])
@click.option("--output", default=databases.SCENES_FOLDER, show_default=True, metavar="DIR", help="Where to put them.")
@click.option(
    "--count",
    type=click.IntRange(min=10),
    default=4000,
    show_default=True,
    metavar="N",
    help="Images to train on; a tenth as many to test.",
)
@_seed
@_backend
@_overwrite
def scenes(output: str, count: int, seed: int, backend: str | None, overwrite: bool) -> None:
    """Make databases of scenes of several handwritten digits with their boxes, for the SSD.

    The digits are 1,797 real ones that come along; those to test are not among those to train on.  Labels are 1 for a 0
    to 10 for a 9.
    """
    from minicaffe.data.annoset import write_annotated
    from minicaffe.data.scenes import scenes as make

    backend = backend or "lmdb"
    for split, number in (("train", count), ("test", count // 10)):
        images, boxes = zip(*make(split, number, seed=seed), strict=True)
        path = os.path.join(output, databases.images("scenes", split, backend))
        written = write_annotated(path, images, boxes, backend, overwrite)
        console.result(f"{path} ({backend}): {written.records} images with {sum(written.labels.values())} boxes")


@command.command("masks", examples=["minicaffe data masks"])
@click.option("--output", default=databases.MASKS_FOLDER, show_default=True, metavar="DIR", help="Where to put them.")
@click.option(
    "--count",
    type=click.IntRange(min=10),
    default=2000,
    show_default=True,
    metavar="N",
    help="Images to train on; a tenth as many to test.",
)
@_seed
@_overwrite
def masks(output: str, count: int, seed: int, overwrite: bool) -> None:
    """Make images of several handwritten digits with a label for each pixel, for segmentation.

    They are PNG files in the folders train and test, with their labels in train_labels and test_labels; train.txt and
    test.txt list them, an image and its labels a line.  The digits are those of 'minicaffe data scenes'.  Labels are 1
    for a 0 to 10 for a 9, and 0 where there is no digit.
    """
    from minicaffe.data.label_maps import write_label_maps
    from minicaffe.data.scenes import labelled_scenes

    for split, number in (("train", count), ("test", count // 10)):
        path = write_label_maps(output, split, labelled_scenes(split, number, seed=seed), overwrite)
        console.result(f"{path}: {number} images and their labels")


@command.command("pairs", examples=["minicaffe data pairs pairs.txt pairs_lmdb --height 28 --width 28"])
@click.argument("list_file", metavar="LIST")
@click.argument("database", metavar="DB")
@_height
@_width
@_color
@_backend
@_overwrite
def pairs(
    list_file: str, database: str, height: int, width: int, color: bool, backend: str | None, overwrite: bool
) -> None:  # fmt: skip
    """Make a database of the image pairs that a text file lists.

    LIST has a line for each pair: path_a path_b same, where same is 1 for similar images and 0 for others.  The siamese
    nets read such a database: the channels of both images, one behind the other, and the label.
    """
    from minicaffe.data.pairs import pairs_from_list

    _write_pairs(pairs_from_list(list_file, height, width, color), database, backend, overwrite)


@command.command("folder", examples=["minicaffe data folder photos pairs_lmdb --height 28 --width 28 --balance"])
@click.argument("folder", metavar="DIR")
@click.argument("database", metavar="DB")
@_height
@_width
@_color
@_count
@_balance
@_seed
@_backend
@_overwrite
def folder(
    folder: str, database: str, height: int, width: int, color: bool, count: int | None, balance: bool | None,
    seed: int, backend: str | None, overwrite: bool,
) -> None:  # fmt: skip
    """Make a database of pairs of the images in a folder of folders.

    DIR holds one folder of images for each class; a pair is similar if both images are of one class.
    """
    from minicaffe.data.pairs import pairs_from_folder

    drawn = pairs_from_folder(folder, height, width, color, count, seed, bool(balance))
    _write_pairs(drawn, database, backend, overwrite)


@click.command("mean", cls=Command, examples=["minicaffe data mean train_lmdb mean.binaryproto"])
@click.option("--backend", type=click.Choice(["lmdb", "leveldb"]), help="The kind of database (default: what it is).")
@click.argument("database", metavar="DB", type=PathName("dir"))
@click.argument("output", metavar="[FILE]", required=False, type=PathName())
def mean(database: str, output: str | None, backend: str | None) -> None:
    """Compute the mean image of a database.

    FILE is for transform_param.mean_file.  All images must be of one size.  Prints the mean of each channel, too: what
    transform_param.mean_value takes.  Without FILE that is all.
    """
    from minicaffe.data.mean import read_images

    _write_mean(read_images(database, backend), output)


command.add_command(imageset.images)
command.add_command(mean)


def _write_mean(images: Iterable[np.ndarray], output: str | None) -> None:
    """Write the mean of the images, and print that of each channel."""
    import numpy as np

    from minicaffe.data.mean import mean_image, write_mean

    mean, count = mean_image(images)
    if output is not None:
        write_mean(output, mean)
    channels, height, width = mean.shape
    written = f"{output}: the" if output is not None else "The"
    console.result(f"{written} mean of {count} images, {channels} x {height} x {width} (channels x height x width)")
    for channel, value in enumerate(mean.mean(axis=(1, 2), dtype=np.float64)):
        console.result(f"mean_value channel [{channel}]: {value:g}")


def _write_pairs(found: Pairs, database: str, backend: str | None, overwrite: bool) -> None:
    from minicaffe.data.write import write_pairs

    _report(write_pairs(database, *found, backend or "lmdb", overwrite), "pairs")


def _write_images(
    name: str, read: Callable[[str], tuple[np.ndarray, np.ndarray]], output: str, backend: str, overwrite: bool
) -> None:
    """Write the labelled images of both splits."""
    from minicaffe.data.write import write_images

    for split in _SPLITS:
        path = os.path.join(output, databases.images(name, split, backend))
        _report(write_images(path, *read(split), backend, overwrite), "images")


def _check_all_or_none(folder: str, names: list[str], overwrite: bool) -> None:
    """Refuse to add what is missing to databases that a run which was ended has left: they may be of other images."""
    from minicaffe.errors import DataError

    there = [name for name in names if os.path.exists(os.path.join(folder, name))]
    missing = [name for name in names if name not in there]
    if there and missing and not overwrite:
        raise DataError(
            f"{folder} has {', '.join(there)}, but not {', '.join(missing)}: an earlier run was ended before it had "
            "made all of them, or some were removed; --overwrite makes all anew, or choose another folder (--output)"
        )


def _report(written: Written, what: str) -> None:
    labels = ", ".join(f"{count} of label {label}" for label, count in written.labels.items())
    console.result(f"{os.path.relpath(written.path)} ({written.backend}): {written.records} {what}: {labels}")


def _mnist_reader(folder: str | None) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
    """Reads a split of MNIST from a folder, or else from the user's cache; DataError if it is not there."""
    from minicaffe.data.mnist import check_mnist, read_mnist
    from minicaffe.errors import DataError

    place = Path(folder) if folder else _cache()
    if folder is None and not _downloaded():
        raise DataError(
            "MNIST has not been downloaded: run 'minicaffe data fetch mnist', or name the folder that holds its files"
        )
    check_mnist(place)
    return lambda split: read_mnist(place, split)


def _cache() -> Path:
    """Where ``data fetch`` puts files."""
    from minicaffe.data.mnist import cache_folder

    return cache_folder()


def _downloaded() -> bool:
    """Whether MNIST's files are all in the user's cache."""
    from minicaffe.data.mnist import SHA256

    cache = _cache()
    return all((cache / name).is_file() or (cache / f"{name}.gz").is_file() for name in SHA256)
