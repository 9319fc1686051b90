"""Weights in and out of a net: binary NetParameter and HDF5, matched by layer name as Caffe does."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from minicaffe import arguments, compat, proto
from minicaffe.blob import Blob, shape_string
from minicaffe.data import hdf5
from minicaffe.errors import DataError, WeightsError
from minicaffe.layers import Layer
from minicaffe.proto.atomic import write_atomic
from minicaffe.proto.blobs import blob_shape
from minicaffe.proto.files import blob_to_array, has_diff, read_net_binary, shape_equals, write_binary

if TYPE_CHECKING:
    import h5py

    from minicaffe.net import Net
else:
    h5py = compat.lazy("h5py")

_log = logging.getLogger(__name__)


class _Report:
    """What a load did; raises once, with every mismatch, before anything was copied."""

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = os.fspath(path)
        self.problems: list[str] = []
        self.copied: set[str] = set()
        self.ignored: list[str] = []

    def ignore(self, layer: str, has_weights: bool) -> None:
        _log.info("Ignoring source layer %s", layer)
        if has_weights:
            self.ignored.append(layer)

    def finish(self, net: Net) -> None:
        """Raise if a layer did not fit or none matched; name the layers that keep their initial weights."""
        if self.problems:
            raise WeightsError(
                f"weights {self.path} do not fit net '{net.name}':\n  "
                + "\n  ".join(self.problems)
                + (
                    "\nTo learn a layer's parameters from scratch rather than copying them, rename the layer in the "
                    "net."
                )
            )
        layers = _layers(net)
        learners = [layer.name for layer in layers if layer.blobs]
        if self.ignored and learners and not self.copied:
            raise WeightsError(
                f"weights {self.path} belong to another net: it holds weights for {', '.join(self.ignored)}; "
                f"net '{net.name}' has weights in {', '.join(learners)}, and no name agrees"
            )
        kept = {
            (i, j)
            for param in net.learnable
            if not any(layers[i].name in self.copied for i, _ in param.users)
            for i, j in param.users
        }
        missing = [layer.name for i, layer in enumerate(layers) if any((i, j) in kept for j in range(len(layer.blobs)))]
        if missing:
            _log.warning("%s holds no weights for %s: they keep their initial values", self.path, ", ".join(missing))


def _layers(net: Net) -> list[Layer]:
    return [step.layer for step in net.steps]


def _warn_of_nan(path: str | os.PathLike, layer: str, index: int, values: NDArray) -> None:
    """A warning where a param's values are no numbers to compute with."""
    if not np.isfinite(values).all():
        _log.warning(
            "%s: param %d of layer '%s' holds NaN or infinity: the net that saved it had diverged", path, index, layer
        )


def copy(net: Net, path: str | os.PathLike) -> None:
    """Load weights from a file, binary or HDF5, into the layers of the same names.

    Caffe: binary files go to the first layer of a name and must have as many blobs; legacy four-dimensional shapes are
    accepted where they mean the same.  Layers that the net lacks are ignored, layers that the file lacks keep their
    weights. Here every mismatch is listed at once, and nothing is copied then; a file that shares no layer name with
    the net is refused.

    Raises WeightsError.
    """
    prepare(net, path)()


def prepare(net: Net, path: str | os.PathLike) -> Callable[[], None]:
    """Read a file's weights and check that they fit the net; returns what copies them, as ``copy``, and cannot fail.

    Raises WeightsError.
    """
    path = arguments.path(path, "weights", WeightsError)
    pending = _prepare_hdf5(net, path) if hdf5.is_hdf5(path) else _prepare_binary(net, path)

    def assign() -> None:
        for target, values in pending:
            target()[...] = values

    return assign


_Pending = list[tuple[Callable[[], NDArray], NDArray]]
"""What gives the array to write to, and the values."""


def _prepare_binary(net: Net, path: str | os.PathLike) -> _Pending:
    report = _Report(path)
    pending: _Pending = []
    targets: dict[str, Layer] = {}
    for layer in _layers(net):
        targets.setdefault(layer.name, layer)
    for message in read_net_binary(path).layer:
        target = targets.get(message.name)
        if target is None:
            report.ignore(message.name, bool(message.blobs))
            continue
        if len(message.blobs) != len(target.blobs):
            report.problems.append(
                f"Incompatible number of blobs for layer {message.name}: {len(message.blobs)} in the file, "
                f"{len(target.blobs)} in the net"
            )
            continue
        for j, (source, blob) in enumerate(zip(message.blobs, target.blobs, strict=True)):
            try:
                if not shape_equals(blob.shape, source):
                    report.problems.append(_mismatch(j, message.name, blob_shape(source), blob))
                    continue
                values = blob_to_array(source).reshape(blob.shape)
                _warn_of_nan(path, message.name, j, values)
                pending.append((partial(getattr, blob, "data"), values))
                if has_diff(source):
                    pending.append(
                        (partial(getattr, blob, "diff"), blob_to_array(source, diff=True).reshape(blob.shape))
                    )
            except WeightsError as error:
                report.problems.append(f"layer '{message.name}' param {j}: {error}")
        if message.blobs:
            report.copied.add(message.name)
    report.finish(net)
    return pending


def _mismatch(index: int, layer: str, found: tuple[int, ...], blob: Blob) -> str:
    source = shape_string(found)
    return (
        f"Cannot copy param {index} weights from layer '{layer}'; shape mismatch.  Source param shape is {source}; "
        f"target param shape is {blob.shape_string}."
    )


def copy_hdf5(net: Net, path: str | os.PathLike) -> None:
    """Load weights from groups ``/data/<layer>/<index>`` of an HDF5 file; the same errors as ``copy``.

    Caffe: shapes must agree exactly, and a param may be missing only where another layer owns it.
    """
    for target, values in _prepare_hdf5(net, arguments.path(path, "weights", WeightsError)):
        target()[...] = values


def _prepare_hdf5(net: Net, path: str | os.PathLike) -> _Pending:
    report = _Report(path)
    wanted: list[tuple[str, int, Blob]] = []
    owned = {id(param.blob) for param in net.learnable}
    targets = {layer.name: layer for layer in _layers(net)}
    found = _weights_of(path)
    for name, params in found.items():
        if name not in targets:
            report.ignore(name, bool(params))
            continue
        target = targets[name]
        if len(params) > len(target.blobs):
            report.problems.append(
                f"Incompatible number of blobs for layer {name}: {len(params)} in the file, {len(target.blobs)} in "
                "the net"
            )
            continue
        for j, blob in enumerate(target.blobs):
            if str(j) not in params:
                if id(blob) in owned:
                    report.problems.append(f"Incompatible number of blobs for layer {name}: the file lacks param {j}")
                continue
            dtype, shape = params[str(j)]
            if dtype is None or shape is None or np.dtype(dtype).kind not in "fiu":
                report.problems.append(f"layer '{name}' param {j}: unsupported datatype {dtype}")
            elif shape != blob.shape:
                report.problems.append(_mismatch(j, name, shape, blob))
            else:
                wanted.append((name, j, blob))
        if target.blobs and params:
            report.copied.add(name)
    report.finish(net)
    try:
        found_values = [np.asarray(array) for array in hdf5.read(path, [f"data/{name}/{j}" for name, j, _ in wanted])]
    except DataError as error:
        raise WeightsError(f"weights file: {error}") from None
    for (name, j, _), array in zip(wanted, found_values, strict=True):
        _warn_of_nan(path, name, j, array)
    return [(partial(getattr, blob, "data"), array) for (_, _, blob), array in zip(wanted, found_values, strict=True)]


def _weights_of(path: str | os.PathLike) -> dict[str, dict[str, hdf5.Entry]]:
    """The datasets of each layer in a file.

    Groups that stand for layers are all that hold datasets, or nothing.  A slash in a layer's name nests groups.
    """
    try:
        entries = hdf5.entries(path)
    except DataError as error:
        raise WeightsError(f"weights file: {error}") from None
    if "data" not in entries or entries["data"].shape is not None:
        raise WeightsError(f"{os.fspath(path)}: no group /data; expected HDF5 weights as Caffe writes them")
    parents = {name.rpartition("/")[0] for name in entries}
    layers: dict[str, dict[str, hdf5.Entry]] = {}
    for name, entry in entries.items():
        folder, _, last = name.rpartition("/")
        if entry.shape is not None and folder.startswith("data/"):
            layers.setdefault(folder.removeprefix("data/"), {})[last] = entry
        elif entry.shape is None and name.startswith("data/") and name not in parents:
            layers.setdefault(name.removeprefix("data/"), {})
    return layers


def share(net: Net, other: Net) -> None:
    """Let the layers of ``net`` use the values of ``other``'s params, by layer name.

    A layer that ``other`` lacks takes part in a param that it shares by name: with a layer of ``net`` that ``other``
    has, or else with any layer of ``other``.  Caffe: it keeps the weights it had.

    Raises WeightsError listing every layer whose params differ in number or shape; nothing is shared then.
    """
    report = _Report(f"of net '{other.name}'")
    found: dict[int, Blob] = {}
    targets: dict[str, Layer] = {}
    for layer in _layers(net):
        targets.setdefault(layer.name, layer)
    for source in _layers(other):
        target = targets.get(source.name)
        if target is None:
            _log.debug("Ignoring source layer %s", source.name)
            continue
        if len(target.blobs) != len(source.blobs):
            report.problems.append(
                f"Incompatible number of blobs for layer {source.name}: {len(source.blobs)} and {len(target.blobs)}"
            )
            continue
        for j, (ours, theirs) in enumerate(zip(target.blobs, source.blobs, strict=True)):
            if ours.shape != theirs.shape:
                report.problems.append(_mismatch(j, source.name, theirs.shape, ours))
            else:
                found[id(ours)] = theirs
    if report.problems:
        report.finish(net)
    named = {_given_name(other, *param.users[0]): param.blob for param in other.learnable}
    for param in net.learnable:
        blobs = [net.steps[i].layer.blobs[j] for i, j in param.users]
        theirs_of_all = next((found[id(blob)] for blob in blobs if id(blob) in found), None)
        if theirs_of_all is None and (name := _given_name(net, *param.users[0])):
            namesake = named.get(name)
            theirs_of_all = namesake if namesake is not None and namesake.shape == param.blob.shape else None
        for ours in blobs:
            source_blob = found.get(id(ours), theirs_of_all)
            if source_blob is not None and not ours.shares_data_with(source_blob):
                ours.share_data(source_blob)


def _given_name(net: Net, index: int, j: int) -> str:
    """The name by which a definition lets layers share param ``j`` of layer ``index``; "" if it gives none."""
    specs = net.steps[index].layer.layer_param.param
    return specs[j].name if j < len(specs) else ""


def to_proto(net: Net, write_diff: bool = False) -> proto.NetParameter:
    """Name and layers of a net, with their weights, in today's format."""
    result = proto.NetParameter(name=net.name)
    for layer in _layers(net):
        message = result.layer.add()
        message.CopyFrom(layer.layer_param)
        del message.blobs[:]
        for blob in layer.blobs:
            message.blobs.append(blob.to_proto(write_diff))
    return result


def save(net: Net, path: str | os.PathLike, write_diff: bool = False) -> None:
    """Write the net as a binary NetParameter, whole or not at all; SnapshotError if that fails."""
    write_binary(path, to_proto(net, write_diff))


def save_hdf5(net: Net, path: str | os.PathLike, write_diff: bool = False) -> None:
    """Write weights as HDF5, whole or not at all: a group for every layer, a param under the layer that owns it.

    Caffe: gradients, if asked for, are written for all params under ``/diff``.  Caffe cannot save a layer whose name
    has a slash; here it becomes nested groups, which read back.
    """
    owned = {id(param.blob) for param in net.learnable}
    with new_hdf5(path) as file:
        for layer in _layers(net):
            group = file.require_group(f"data/{layer.name}")
            for j, blob in enumerate(layer.blobs):
                if id(blob) in owned:
                    group.create_dataset(str(j), data=np.asarray(blob.peek_data()))
            if write_diff:
                diffs = file.require_group(f"diff/{layer.name}")
                for j, blob in enumerate(layer.blobs):
                    diffs.create_dataset(str(j), data=np.asarray(blob.peek_diff()))


def checksum(path: str | os.PathLike) -> str:
    """The SHA-256 of a weights file, in hexadecimal; WeightsError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise WeightsError(f"cannot read the weights file {os.fspath(path)}: {error.strerror}") from None
    return digest.hexdigest()


@contextlib.contextmanager
def new_hdf5(path: str | os.PathLike) -> Iterator[h5py.File]:
    """A file to fill in memory, which is then written whole or not at all: on a full disk HDF5 itself crashes."""
    with h5py.File("new", "w", driver="core", backing_store=False) as file:
        yield file
        file.flush()
        write_atomic(path, file.id.get_file_image())


def load_into(net: Net, paths: str) -> None:
    """Load each file of a comma-separated list, in order."""
    for path in filter(None, map(str.strip, paths.split(","))):
        _log.info("Finetuning from %s", path)
        net.copy_from(path)
