"""Weights in files of any format, without a net: .caffemodel, HDF5, .npz and .safetensors, and from one to another.

In .npz and .safetensors a param is named as in Caffe's HDF5 files: ``layer/index``.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from minicaffe import arguments, limits, proto
from minicaffe.data import hdf5, npy, safetensors
from minicaffe.errors import DataError, WeightsError
from minicaffe.proto.atomic import write_atomic
from minicaffe.proto.blobs import blob_shape
from minicaffe.proto.files import array_to_blob, blob_to_array, read_net_binary, write_binary

Path = str | os.PathLike[str]


_ZIP = b"PK\x03\x04"


@dataclass
class Stored:
    """The weights of a net: by layer its params, in order; and what the file tells of the layers' types."""

    layers: dict[str, list[NDArray]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    net: str = ""
    definition: proto.NetParameter | None = None
    """Of a .caffemodel: all that it says of its layers; its blobs are left out."""

    @property
    def count(self) -> int:
        """The number of weights."""
        return sum(array.size for params in self.layers.values() for array in params)

    def named(self) -> dict[str, NDArray]:
        """The params by name, ``layer/index``."""
        return {f"{layer}/{i}": array for layer, params in self.layers.items() for i, array in enumerate(params)}


def read(path: Path) -> Stored:
    """The weights in a file; its format is told by its content.

    Raises WeightsError: a file that cannot be read or is none of these.
    """
    path = arguments.path(path, "weights", WeightsError)
    try:
        head = limits.read_head(path, 16)
    except OSError as error:
        raise WeightsError(
            f"cannot read the weights file {path}: {error.strerror} (tried {os.path.abspath(path)})"
        ) from None
    if hdf5.is_hdf5(path):
        return _read_hdf5(path)
    if head.startswith(_ZIP):
        return Stored(_by_layer(path, _read_npz(path)))
    if safetensors.is_safetensors(head):
        arrays, metadata = safetensors.read(path)
        return Stored(_by_layer(path, arrays), _types(metadata.get("types", "")), metadata.get("net", ""))
    return _read_binary(path)


def is_archive(path: Path) -> bool:
    """Whether a file begins as a .npz or .safetensors file does."""
    try:
        head = limits.read_head(path, 16)
    except OSError:
        return False
    return head.startswith(_ZIP) or safetensors.is_safetensors(head)


def _read_binary(path: Path) -> Stored:
    net = read_net_binary(path)
    stored = Stored(net=net.name, definition=net)
    for layer in net.layer:
        arrays = []
        for j, blob in enumerate(layer.blobs):
            try:
                arrays.append(_without_old_axes(layer.type, j, blob))
            except WeightsError as error:
                raise WeightsError(f"{os.fspath(path)}: layer '{layer.name}' param {j}: {error}") from None
        if layer.name not in stored.types:  # of layers of one name Caffe takes the first
            stored.types[layer.name] = layer.type
            if arrays:
                stored.layers[layer.name] = arrays
        del layer.blobs[:]
    return stored


def _without_old_axes(kind: str, index: int, blob: proto.BlobProto) -> NDArray:
    """A param's values in the shape that layers give it; files of Caffe's first years have four axes for all."""
    values = blob_to_array(blob)
    if any(blob.HasField(name) for name in ("num", "channels", "height", "width")):
        axes = {("InnerProduct", 0): 2, ("Convolution", 0): 4, ("Deconvolution", 0): 4}.get((kind, index), 1)
        shape = blob_shape(blob)
        if all(size == 1 for size in shape[: 4 - axes]):
            return values.reshape(shape[4 - axes :])
    return values


def _read_hdf5(path: Path) -> Stored:
    found = {name: params for name, params in hdf5_layers(path).items() if params}
    names = [f"data/{layer}/{j}" for layer, params in found.items() for j in sorted(params, key=_number)]
    try:
        arrays = hdf5.read(path, names)
    except DataError as error:
        raise WeightsError(f"weights file: {error}") from None
    return Stored(
        _by_layer(path, {name.removeprefix("data/"): np.asarray(a) for name, a in zip(names, arrays, strict=True)})
    )


def hdf5_layers(path: str | os.PathLike) -> dict[str, dict[str, hdf5.Entry]]:
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


def _number(text: str) -> int:
    return int(text) if text.isdigit() else -1


def _read_npz(path: Path) -> dict[str, NDArray]:
    try:
        return npy.read_npz(path)
    except DataError as error:
        raise WeightsError(str(error)) from None


def _by_layer(path: Path, arrays: Mapping[str, NDArray]) -> dict[str, list[NDArray]]:
    """Arrays named ``layer/index`` by layer; WeightsError for another name, another type, or an index left out."""
    layers: dict[str, dict[int, NDArray]] = {}
    for name, array in arrays.items():
        layer, slash, index = name.rpartition("/")
        if not slash or not layer or not index.isdigit() or array.dtype.kind not in "fiub":
            raise WeightsError(
                f"{os.fspath(path)}: '{name}' ({array.dtype}) is no param; expected numbers under names such as "
                "'conv1/0' (a layer's name, a slash, and which of its params)"
            )
        layers.setdefault(layer, {})[int(index)] = array
    for layer, params in layers.items():
        if sorted(params) != list(range(len(params))):
            raise WeightsError(
                f"{os.fspath(path)}: layer '{layer}' has params {sorted(params)}; one is missing; an HDF5 file has "
                "only one copy of a param that layers share: load it into its net, and save that"
            )
    return {layer: [params[i] for i in range(len(params))] for layer, params in layers.items()}


def _types(text: str) -> dict[str, str]:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = {}
    return {str(name): str(kind) for name, kind in found.items()} if isinstance(found, dict) else {}


# --- writing ----------------------------------------------------------------------------------------------------------


def write(path: Path, stored: Stored) -> None:
    """Write weights in the format that the file's name ends in, whole or not at all.

    A .caffemodel gets the layers of ``definition``, or else only layers with params, by name and type.

    Raises WeightsError for another ending, or params that the definition has no layer for; SnapshotError if the file
    cannot be written.
    """
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in WRITERS:
        raise WeightsError(f"{os.fspath(path)}: weights are written as {', '.join(WRITERS)}; found '{ending}'")
    WRITERS[ending](path, stored)


def _write_binary(path: Path, stored: Stored) -> None:
    net = proto.NetParameter(name=stored.net)
    if stored.definition is not None:
        net.CopyFrom(stored.definition)
    else:
        for name in stored.layers:
            net.layer.add(name=name, type=stored.types.get(name, ""))
    waiting = dict(stored.layers)
    for layer in net.layer:
        for array in waiting.pop(layer.name, ()):
            layer.blobs.append(array_to_blob(array))
    if waiting:
        raise WeightsError(f"the net '{net.name}' has no layer {', '.join(waiting)}, whose weights are to be written")
    write_binary(path, net)


def _write_hdf5(path: Path, stored: Stored) -> None:
    groups = [layer.name for layer in stored.definition.layer] if stored.definition is not None else list(stored.layers)
    contents: dict[str, NDArray | None] = {f"data/{name}": None for name in groups}
    hdf5.write(path, contents | {f"data/{name}": array for name, array in stored.named().items()})


def _write_npz(path: Path, stored: Stored) -> None:
    content = io.BytesIO()
    np.savez(content, **stored.named())  # type: ignore[arg-type]  # names with a slash, none is a parameter's
    write_atomic(path, content.getvalue())


def _write_safetensors(path: Path, stored: Stored) -> None:
    types = {name: stored.types[name] for name in stored.layers if stored.types.get(name)}
    metadata = {"format": "minicaffe", "net": stored.net, "types": json.dumps(types)}
    safetensors.write(path, stored.named(), metadata)


WRITERS: dict[str, Callable[[Path, Stored], None]] = {
    ".caffemodel": _write_binary, ".h5": _write_hdf5, ".npz": _write_npz, ".safetensors": _write_safetensors,
}  # fmt: skip
"""What writes each format, by the ending of the file's name."""
