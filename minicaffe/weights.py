"""Weights in and out of a net: binary NetParameter and HDF5, matched by layer name as Caffe does."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from minicaffe import arguments, limits, proto, weight_files
from minicaffe.blob import Blob, shape_string
from minicaffe.data import hdf5
from minicaffe.errors import DataError, WeightsError
from minicaffe.layers import Layer
from minicaffe.matching import BY_NAME, Matching, Report
from minicaffe.named_passes import NamedPasses
from minicaffe.proto import wire
from minicaffe.proto.blobs import blob_shape
from minicaffe.proto.files import Values, blob_pieces, has_diff, open_net_binary, shape_equals, write_binary
from minicaffe.weight_files import hdf5_layers

if TYPE_CHECKING:
    from minicaffe.net import Net

_log = logging.getLogger(__name__)

_PART = 1 << 18  # values that are looked at together, in the cache


def _layers(net: Net) -> list[Layer]:
    """The layers; ArgumentTypeError for what is no net."""
    arguments.instance(net, NamedPasses, "minicaffe.weights", "a Net")
    return [step.layer for step in net.steps]


def _warn_of_nan(path: str | os.PathLike, layer: str, index: int, values: NDArray) -> None:
    """A warning where a param's values are no numbers to compute with."""
    flat = values.reshape(-1)
    if not all(np.isfinite(flat[start : start + _PART]).all() for start in range(0, flat.size, _PART)):
        _log.warning(
            "%s: param %d of layer '%s' holds NaN or infinity: the net that saved it had diverged", path, index, layer
        )


def copy(net: Net, path: str | os.PathLike, matching: Matching = BY_NAME) -> Report:
    """Load weights from a file, binary, HDF5, .npz or .safetensors, into the layers of the same names.

    Caffe: binary files go to the first layer of a name and must have as many blobs; legacy four-dimensional shapes are
    accepted where they mean the same.  Layers that the net lacks are ignored, layers that the file lacks keep their
    weights. Here every mismatch is listed at once, and nothing is copied then; a file that shares no layer name with
    the net is refused.

    ``matching`` renames layers of the file, leaves some alone, or insists on all; the report tells what became of each.
    A binary file stays open as long as params may be read from it again (``Blob.unload_data``).

    Raises WeightsError.
    """
    report = prepare(net, path, matching)()
    matching.check_used([report])
    return report


def prepare(net: Net, path: str | os.PathLike, matching: Matching = BY_NAME) -> Callable[[], Report]:
    """Check that a file's weights fit the net; returns what copies them, as ``copy``.

    What is copied is what was checked, even if the file is replaced meanwhile: it stays open.  Copying raises
    WeightsError only if the file is cut short in its place.

    Raises WeightsError.
    """
    path = arguments.path(path, "weights", WeightsError)
    report = Report(path, net, matching)
    if hdf5.is_hdf5(path):
        pending = _prepare_hdf5(net, path, report)
    elif weight_files.is_archive(path):
        pending = _prepare_archive(net, path, report)
    else:
        pending = _prepare_binary(net, path, report)

    def assign() -> Report:
        for copy_one in pending:
            copy_one()
        return report

    return assign


_Pending = list[Callable[[], None]]
"""What copies each array."""


def _prepare_binary(net: Net, path: str | os.PathLike, report: Report) -> _Pending:
    pending: _Pending = []
    targets: dict[str, Layer] = {}
    for layer in _layers(net):
        targets.setdefault(layer.name, layer)
    lifted = open_net_binary(path)
    for message in lifted.message.layer:
        name = report.target(message.name, bool(message.blobs), targets)
        if name is None:
            continue
        blobs = list(targets[name].blobs)
        if message.type == "BatchNorm" and len(message.blobs) == 5 and (scale := _scale_behind(net, targets[name])):
            blobs += scale.blobs
            report.copy(scale.name, message.name)
        if len(message.blobs) != len(blobs):
            report.problem(
                name,
                f"Incompatible number of blobs for layer {message.name}: {len(message.blobs)} in the file, "
                f"{len(blobs)} in the net",
            )
            continue
        for j, (source, blob) in enumerate(zip(message.blobs, blobs, strict=True)):
            try:
                if not (shape_equals(blob.shape, source) or _is_statistic(message.type, blob.shape, source)):
                    adapted = targets[name].adapted(j, lifted.values(source).array())
                    if adapted is not None:
                        pending.append(partial(np.copyto, blob.data, adapted))
                        continue
                    report.problem(name, _mismatch(j, message.name, blob_shape(source), blob))
                    continue
                pending.append(partial(_copy_values, path, message.name, j, blob, lifted.values(source)))
                if has_diff(source):
                    pending.append(partial(_copy_diff, blob, lifted.values(source, diff=True)))
            except WeightsError as error:
                report.problem(name, f"layer '{message.name}' param {j}: {error}")
        if message.blobs:
            report.copy(name, message.name)
    report.finish()
    return pending


def _scale_behind(net: Net, layer: Layer) -> Layer | None:
    """The Scale with a bias right behind a BatchNorm of 3 blobs: together they are a BatchNorm of NVCaffe, of 5."""
    made = next(step for step in net.steps if step.layer is layer)
    behind = (step.layer for step in net.steps if step.layer.type == "Scale" and step.bottom[0] is made.top[0])
    return next((scale for scale in behind if len(layer.blobs) == 3 and len(scale.blobs) == 2), None)


def _is_statistic(kind: str, shape: tuple[int, ...], source: proto.BlobProto) -> bool:
    """Whether values are those of a BatchNorm's param of ``shape`` (C,): some of NVCaffe's files say (1, C, 1, 1)."""
    stored = blob_shape(source)
    return kind == "BatchNorm" and len(shape) == 1 and stored in ((1, *shape, 1, 1), (1, *shape))


@dataclass(frozen=True)
class _InFile:
    """The values of a param, which stay in their file; a ``Source``."""

    path: str | os.PathLike
    layer: str
    index: int
    values: Values

    def read(self, array: NDArray) -> None:
        self.values.copy_to(array)

    def __str__(self) -> str:
        return f"{os.fspath(self.path)}: param {self.index} of layer '{self.layer}'"


def _copy_values(path: str | os.PathLike, layer: str, index: int, blob: Blob, values: Values) -> None:
    if values.in_file:
        blob.load_data(_InFile(path, layer, index, values))
    else:
        values.copy_to(blob.data)
    _warn_of_nan(path, layer, index, blob.peek_data())


def _copy_diff(blob: Blob, values: Values) -> None:
    values.copy_to(blob.diff)


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
    path = arguments.path(path, "weights", WeightsError)
    for copy_one in _prepare_hdf5(net, path, Report(path, net)):
        copy_one()


def _prepare_hdf5(net: Net, path: str | os.PathLike, report: Report) -> _Pending:
    wanted: list[tuple[str, int, Blob]] = []  # the file's layer, which param, where to
    targets = {layer.name: layer for layer in _layers(net)}
    owned = {id(param.blob) for param in net.learnable}
    found = hdf5_layers(path)
    for name, params in found.items():
        layer = report.target(name, bool(params), targets)
        if layer is None:
            continue
        target = targets[layer]
        if len(params) > len(target.blobs):
            report.problem(
                layer,
                f"Incompatible number of blobs for layer {name}: {len(params)} in the file, {len(target.blobs)} in "
                "the net",
            )
            continue
        for j, blob in enumerate(target.blobs):
            if str(j) not in params:
                if id(blob) in owned:
                    report.problem(layer, f"Incompatible number of blobs for layer {name}: the file lacks param {j}")
                continue
            dtype, shape = params[str(j)]
            if dtype is None or shape is None or np.dtype(dtype).kind not in "fiu":
                report.problem(layer, f"layer '{name}' param {j}: unsupported datatype {dtype}")
            elif shape != blob.shape:
                report.problem(layer, _mismatch(j, name, shape, blob))
            else:
                wanted.append((name, j, blob))
        if target.blobs and params:
            report.copy(layer, name)
    report.finish()
    try:
        found_values = [np.asarray(array) for array in hdf5.read(path, [f"data/{name}/{j}" for name, j, _ in wanted])]
    except DataError as error:
        raise WeightsError(f"weights file: {error}") from None
    for (name, j, _), array in zip(wanted, found_values, strict=True):
        _warn_of_nan(path, name, j, array)
    return [partial(_assign, blob, array) for (_, _, blob), array in zip(wanted, found_values, strict=True)]


def _prepare_archive(net: Net, path: str | os.PathLike, report: Report) -> _Pending:
    """What a .npz or .safetensors file holds, by the rules for binary files but in the very shapes of the params."""
    pending: _Pending = []
    targets: dict[str, Layer] = {}
    for layer in _layers(net):
        targets.setdefault(layer.name, layer)
    for source, arrays in weight_files.read(path).layers.items():
        name = report.target(source, True, targets)
        if name is None:
            continue
        target = targets[name]
        if len(arrays) != len(target.blobs):
            report.problem(
                name,
                f"Incompatible number of blobs for layer {source}: {len(arrays)} in the file, {len(target.blobs)} in "
                "the net",
            )
            continue
        for j, (values, blob) in enumerate(zip(arrays, target.blobs, strict=True)):
            if values.shape != blob.shape:
                report.problem(name, _mismatch(j, source, values.shape, blob))
                continue
            _warn_of_nan(path, source, j, values)
            pending.append(partial(_assign, blob, values))
        report.copy(name, source)
    report.finish()
    return pending


def _assign(blob: Blob, values: NDArray) -> None:
    blob.data[...] = values


def share(net: Net, other: Net) -> None:
    """Let the layers of ``net`` use the values of ``other``'s params, by layer name.

    A layer that ``other`` lacks takes part in a param that it shares by name: with a layer of ``net`` that ``other``
    has, or else with any layer of ``other``.  Caffe: it keeps the weights it had.

    Raises WeightsError listing every layer whose params differ in number or shape; nothing is shared then.
    """
    layers, sources = _layers(net), _layers(other)
    report = Report(f"of net '{other.name}'", net)
    found: dict[int, Blob] = {}
    targets: dict[str, Layer] = {}
    for layer in layers:
        targets.setdefault(layer.name, layer)
    for source in sources:
        target = targets.get(source.name)
        if target is None:
            _log.debug("Ignoring source layer %s", source.name)
            continue
        if len(target.blobs) != len(source.blobs):
            report.problem(
                source.name,
                f"Incompatible number of blobs for layer {source.name}: {len(source.blobs)} and {len(target.blobs)}",
            )
            continue
        for j, (ours, theirs) in enumerate(zip(target.blobs, source.blobs, strict=True)):
            if ours.shape != theirs.shape:
                report.problem(source.name, _mismatch(j, source.name, theirs.shape, ours))
            else:
                found[id(ours)] = theirs
    if report.problems:
        report.finish()
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
    layers = _layers(net)
    result = proto.NetParameter(name=net.name)
    for layer in layers:
        message = _without_blobs(layer)
        for blob in layer.blobs:
            message.blobs.append(blob.to_proto(write_diff))
        result.layer.append(message)
    return result


def save(net: Net, path: str | os.PathLike, write_diff: bool = False) -> None:
    """Write the net as a binary NetParameter, whole or not at all; SnapshotError if that fails."""
    layers = []
    for layer in _layers(net):
        message = _without_blobs(layer)
        blobs = [blob_pieces(blob.peek_data(), blob.peek_diff() if write_diff else None) for blob in layer.blobs]
        layers.append(wire.with_messages(message, "blobs", blobs))
    write_binary(path, wire.with_messages(proto.NetParameter(name=net.name), "layer", layers))


def _without_blobs(layer: Layer) -> proto.LayerParameter:
    message = proto.LayerParameter()
    message.CopyFrom(layer.layer_param)
    del message.blobs[:]
    return message


def save_hdf5(net: Net, path: str | os.PathLike, write_diff: bool = False) -> None:
    """Write weights as HDF5, whole or not at all: a group for every layer, a param under the layer that owns it.

    Caffe: gradients, if asked for, are written for all params under ``/diff``.  Caffe cannot save a layer whose name
    has a slash; here it becomes nested groups, which read back.
    """
    layers = _layers(net)
    owned = {id(param.blob) for param in net.learnable}
    contents: dict[str, NDArray | None] = {}
    for layer in layers:
        contents[f"data/{layer.name}"] = None
        contents |= {f"data/{layer.name}/{j}": b.peek_data() for j, b in enumerate(layer.blobs) if id(b) in owned}
        if write_diff:
            contents[f"diff/{layer.name}"] = None
            contents |= {f"diff/{layer.name}/{j}": b.peek_diff() for j, b in enumerate(layer.blobs)}
    hdf5.write(path, contents)


def checksum(path: str | os.PathLike) -> str:
    """The SHA-256 of a weights file, in hexadecimal; WeightsError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with os.fdopen(limits.open_file(path), "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise WeightsError(f"cannot read the weights file {os.fspath(path)}: {error.strerror}") from None
    return digest.hexdigest()


def load_into(net: Net, paths: str, matching: Matching = BY_NAME) -> list[Report]:
    """Load each file of a comma-separated list, in order; raises as ``prepare``."""
    reports = []
    for path in filter(None, map(str.strip, paths.split(","))):
        _log.info("Finetuning from %s", path)
        reports.append(prepare(net, path, matching)())
    return reports
