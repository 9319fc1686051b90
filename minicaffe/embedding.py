"""What a siamese net makes of single images: a tower as a net of its own, and how well its features tell labels."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from minicaffe import graph, proto
from minicaffe.data.db import backend_of, open_db
from minicaffe.errors import DataError, NetError
from minicaffe.kernels.cpu import neighbours
from minicaffe.layers import TEST
from minicaffe.net import Net
from minicaffe.proto.files import read_net
from minicaffe.proto.origin import Origin

_LABEL = "label of the image"  # a blob's name that no tower uses


class Tower(NamedTuple):
    """The layers that make ``feature`` of ``image``, and the Data layer that feeds the net."""

    layers: list[proto.LayerParameter]
    image: str
    feature: str
    data: proto.LayerParameter


def tower_of_file(path: str | os.PathLike[str]) -> Tower:
    """The tower of the net in a prototxt, as it is in the TEST phase; see ``find_tower``."""
    definition, locations = read_net(path)
    source = Origin(os.fspath(path), locations)
    try:
        return find_tower(graph.filter_net(graph.with_state(definition, TEST), source).layer)
    except NetError as error:
        raise NetError(f"{os.fspath(path)}: {error}") from None


def find_tower(layers: Iterable[proto.LayerParameter]) -> Tower:
    """The tower on the first side of a net's ContrastiveLoss: what only its first bottom depends on.

    Raises NetError unless there is one ContrastiveLoss, fed by towers that start at one blob each and by a Data layer.
    """
    layers = list(layers)
    losses = [i for i, layer in enumerate(layers) if layer.type == "ContrastiveLoss"]
    if len(losses) != 1:
        raise NetError(f"a siamese net has one ContrastiveLoss layer; found {len(losses)}")
    loss = layers[losses[0]]
    first, second = (_ancestors(layers[: losses[0]], blob) for blob in loss.bottom[:2])
    tower = [layers[i] for i in first if i not in second and layers[i].bottom]
    made = {top for layer in tower for top in layer.top}
    images = list(dict.fromkeys(blob for layer in tower for blob in layer.bottom if blob not in made))
    sources = [layers[i] for i in first if layers[i].type == "Data"]
    if len(images) != 1 or len(sources) != 1:
        raise NetError(
            f"no tower can be told apart: what only '{loss.bottom[0]}' depends on, the first bottom of '{loss.name}', "
            f"must start at one blob and come from one Data layer; found blobs {images}, {len(sources)} Data layers"
        )
    return Tower(tower, images[0], loss.bottom[0], sources[0])


def _ancestors(layers: Sequence[proto.LayerParameter], blob: str) -> list[int]:
    """Which layers ``blob`` depends on, in order; a layer in place counts like any other."""
    needed, found = {blob}, []
    for i in range(len(layers) - 1, -1, -1):
        if needed.intersection(layers[i].top):
            needed.update(layers[i].bottom)
            found.append(i)
    return found[::-1]


def extract(
    tower: Tower, images: str | os.PathLike[str], load: Callable[[Net], object], batch_size: int = 100
) -> tuple[NDArray, NDArray]:
    """Features float32 (N, D) and labels int64 (N,) of all N records of a database of single, labelled images.

    Images are transformed as the Data layer of the tower's net says.  ``load(net)`` gives the tower its weights.

    Raises DataError for a database that cannot be read, and whatever building the net and ``load`` raise.
    """
    count = _count(images)
    features: list[NDArray] = []
    labels: list[NDArray] = []
    with contextlib.closing(_net(tower, os.fspath(images), min(batch_size, count))) as net:
        load(net)
        while sum(map(len, labels)) < count:
            net.run_forward()
            rows = net.blobs[tower.feature].peek_data()
            features.append(rows.reshape(len(rows), -1).copy())
            labels.append(net.blobs[_LABEL].peek_data().astype(np.int64))
    return np.concatenate(features)[:count], np.concatenate(labels)[:count]


def _net(tower: Tower, images: str, batch_size: int) -> Net:
    """A tower, forward only, fed by a database of single images."""
    data = proto.LayerParameter(name="images", type="Data", top=[tower.image, _LABEL], phase=TEST)
    data.transform_param.CopyFrom(tower.data.transform_param)
    data.data_param.source = images
    data.data_param.batch_size = batch_size
    data.data_param.backend = proto.DataParameter.DB.Value((backend_of(images) or "").upper())
    definition = proto.NetParameter(name="tower", layer=[data, *tower.layers])
    definition.state.phase = TEST
    for layer in definition.layer:
        layer.phase = TEST
        del layer.include[:], layer.exclude[:]
    net = Net.from_param(definition, Origin())
    net.reuse_memory(keep=[tower.feature])
    return net


def _count(path: str | os.PathLike[str]) -> int:
    """Records in a database; DataError if it is none, or empty."""
    with open_db(path, backend_of(path) or "lmdb") as records:
        count = records.count()
        if count is None:
            count = int(records.seek_to_first())
            while count and records.next():
                count += 1
    if not count:
        raise DataError(f"database {os.path.abspath(path)}: empty, not one record; build it again")
    return count


def neighbour_accuracy(
    features: NDArray, labels: NDArray, k: int = 1, reference: tuple[NDArray, NDArray] | None = None
) -> float:
    """Share of ``features`` (N, D) whose label (N,) is the one that most of their ``k`` nearest neighbours have.

    Neighbours are looked for in ``reference``, features and labels of other images; without it among the other rows of
    ``features`` (leave one out).  Of labels that are equally frequent the smallest wins.

    Raises DataError if there are no ``k`` neighbours, or for features that are not finite.
    """
    others, classes = reference or (features, labels)
    wanted = k + (reference is None)
    if len(others) < wanted:
        raise DataError(f"{k} nearest neighbours of an image need at least {wanted} images; found {len(others)}")
    nearest = _nearest(features, others, wanted)
    if reference is None:
        itself = nearest == np.arange(len(features))[:, np.newaxis]
        itself[~itself.any(axis=1), -1] = True  # images of equal features: it may not be among the nearest
        nearest = nearest[~itself].reshape(len(features), k)
    known, number = np.unique(classes, return_inverse=True)
    votes = np.zeros((len(features), len(known)), np.int64)
    np.add.at(votes, (np.arange(len(features))[:, np.newaxis], number[nearest]), 1)
    return float((known[votes.argmax(axis=1)] == labels).mean())


def rehearse(tower: Tower, images: str) -> None:
    """Call the kernels of ``extract`` and ``neighbour_accuracy``, where none runs."""
    with contextlib.closing(_net(tower, images, 1)) as net:
        net.rehearse(backward=False)
    points = np.zeros((2, 1), np.float32)
    _nearest(points, points, 1)


_FEW = 16  # coordinates, of which the first that is compared leaves most points out
_BLOCK_BYTES = 16 << 20  # of distances at a time
_SPARE = 8  # candidates beyond k


def _nearest(points: NDArray, others: NDArray, k: int) -> NDArray:
    """For each of ``points`` (M, D) the indices (M, k) of the nearest of ``others`` (N, D), k <= N, in order.

    Memory grows with N, not with M times N.
    """
    for values in (points, others):
        if not np.isfinite(values).all():
            raise DataError("features hold NaN or infinity: the net that made them has diverged; take earlier weights")
    centre = others.mean(axis=0, dtype=np.float64)
    a, b = points - centre, others - centre
    found = np.empty((len(a), k), np.int64)
    if a.shape[1] <= _FEW:
        widest_first = (-b.std(axis=0)).argsort()
        order = b[:, widest_first[0]].argsort()
        a, b = (np.ascontiguousarray(values[:, widest_first]) for values in (a, b[order]))
        neighbours.nearest(a, b, order, np.searchsorted(b[:, 0], a[:, 0]), found)
        return found
    norms = (b**2).sum(axis=1)
    rows = max(_BLOCK_BYTES // (len(b) * b.itemsize), 1)
    for start in range(0, len(a), rows):
        found[start : start + rows] = _nearest_in(a[start : start + rows], b, norms, k)
    return found


def _nearest_in(a: NDArray, b: NDArray, norms: NDArray, k: int) -> NDArray:
    """Indices (M, k) of the nearest of ``b`` (N, D); ``norms`` are their squares.

    |b|^2 - 2 ab is fast and finds candidates; |a - b|^2 is exact where a and b are alike, and puts them in order.
    """
    count = min(k + _SPARE, len(b))
    candidates = np.argpartition(norms - 2 * a @ b.T, count - 1)[:, :count]
    distances = ((a[:, np.newaxis] - b[candidates]) ** 2).sum(axis=2)
    return np.take_along_axis(candidates, distances.argsort(axis=1)[:, :k], axis=1)
