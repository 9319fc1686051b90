"""What a file is, and what is in it: nets, solvers, weights, solver states, ONNX models, databases, arrays, images."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from google.protobuf.message import Message

from minicaffe import layer_label, limits, proto, weight_files
from minicaffe.data import hdf5, safetensors
from minicaffe.data.datum import labels as labels_of
from minicaffe.data.datum import parse, to_array
from minicaffe.data.db import backend_of, open_db
from minicaffe.data.idx import read_any
from minicaffe.data.image import decode_image
from minicaffe.data.npy import read_npy, read_npz
from minicaffe.errors import DataError, MinicaffeError, NetError, PrototxtError, WeightsError
from minicaffe.proto import kinds, text
from minicaffe.proto.files import blob_to_array, has_diff, message_of, read_net, read_solver
from minicaffe.statistics import Statistics, describe

RECORDS = 1000
"""Records of a database that are looked at, unless more are asked for."""

Path = str | os.PathLike[str]


@dataclass
class Report:
    """A file's ``kind`` as a noun phrase, ``facts`` about it, and tables: of ``layers`` (of a net), and of ``arrays``
    by name.  ``problems`` are what makes it useless, such as numbers that are not finite.
    """

    path: str
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, Statistics] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """The arrays that hold numbers that are not finite, and how many."""
        return [f"{name}: {found.remark}" for name, found in self.arrays.items() if found.nan or found.infinite]

    def add(self, name: str, values: Any) -> None:
        """Describe an array."""
        self.arrays[name] = describe(values)

    def to_json(self) -> dict[str, Any]:
        """Everything as dicts, lists and numbers."""
        return {
            "path": self.path,
            "kind": self.kind,
            **self.facts,
            "problems": self.problems,
            "layers": self.layers,
            "arrays": {name: found.to_json() for name, found in self.arrays.items()},
        }


def inspect(path: Path, records: int = RECORDS) -> Report:
    """Tell what a file or a database's folder is, by its content, and what is in it.

    Raises MinicaffeError: it cannot be read, is damaged, or of no kind that is known.
    """
    name = os.fspath(path)
    if os.path.isdir(name):
        return _database(name, records)
    try:
        head = limits.read_head(name)
        size = os.path.getsize(name)
    except FileNotFoundError:
        raise DataError(f"File not found: {name} (tried {os.path.abspath(name)})") from None
    except OSError as error:
        raise DataError(f"cannot read {name}: {error.strerror}") from None
    report = _reader_of(name, head)(name)
    report.facts = {"bytes": size, **report.facts}
    return report


def _reader_of(name: str, head: bytes) -> Callable[[str], Report]:
    """What reads a file that begins so."""
    if not head:
        raise DataError(f"{name} is an empty file")
    if os.path.basename(name) in ("data.mdb", "CURRENT"):
        raise DataError(f"{name} is a part of a database: inspect its folder, {os.path.dirname(os.path.abspath(name))}")
    if hdf5.is_hdf5(name):
        return _hdf5
    if head.startswith(b"PK\x03\x04"):
        return _npz
    if head.startswith(b"\x93NUMPY"):
        return _npy
    if safetensors.is_safetensors(head):
        return _weights
    if head.startswith(b"\x1f\x8b") or head[:2] == b"\0\0" and head[2:3] in b"\x08\x09\x0b\x0c\x0d\x0e":
        return _idx
    if head.startswith(_IMAGES) or head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _image
    if kinds.is_onnx(head):
        return _onnx
    if kind := kinds.describe(head):
        raise DataError(f"{name} is {kind}")
    return _prototxt if kinds.may_be_text(head) else _message


_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")


# --- definitions ------------------------------------------------------------------------------------------------------


def _prototxt(name: str) -> Report:
    """A net, a solver, or a list of images."""
    characters = text.load(name)
    try:
        text.parse(characters, proto.NetParameter(), name)
    except PrototxtError as no_net:
        try:
            text.parse(characters, proto.SolverParameter(), name)
        except PrototxtError as no_solver:
            if listed := _list(name, characters):
                return listed
            raise (no_solver if "base_lr" in characters or "max_iter" in characters else no_net) from None
        return _solver(name)
    return _net(name)


def _net(name: str) -> Report:
    net, _ = read_net(name)
    report = Report(name, "a net (prototxt)", {"name": net.name, "layers_in_all": len(net.layer)})
    report.layers = definition_rows(net)
    kinds_of_layers = Counter(layer.type for layer in net.layer)
    report.facts["types"] = dict(kinds_of_layers.most_common())
    report.facts |= _shapes(name, report)
    return report


def _shapes(name: str, report: Report) -> dict[str, Any]:
    """The shapes of blobs and the number of params where the net can be built without its data; into ``report``.

    Layers of type Python, which run code, are not made: nobody asked to run it.
    """
    from minicaffe.layers.python_layer import allow_python_layers
    from minicaffe.summary import load, summarize

    allowed = allow_python_layers(False)
    try:
        net = load(name, proto.TEST)
    except (MinicaffeError, ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        return {"shapes": f"not known, since the net cannot be built as it is ({reason})"}
    finally:
        allow_python_layers(allowed)
    summary = summarize(net)
    net.close()
    tops = {layer.name: layer.tops for layer in summary.layers}
    for row in report.layers:
        row["shapes"] = [list(shape) for shape in tops.get(row["name"], [])]
    return {
        "inputs": {name: list(net.blobs[name].shape) for name in net.inputs},
        "outputs": {name: list(net.blobs[name].shape) for name in net.outputs},
        "params": summary.params,
    }


def definition_rows(net: proto.NetParameter) -> list[dict[str, Any]]:
    """What a definition says of each layer."""
    rows = []
    for layer in net.layer:
        row: dict[str, Any] = {"name": layer.name, "type": layer_label.kind(layer)}
        row["bottoms"], row["tops"] = list(layer.bottom), list(layer.top)
        numbers = {"outputs": layer_label.outputs(layer)} if layer_label.outputs(layer) else {}
        row["settings"] = {**numbers, **layer_label.window(layer)}
        phases = [proto.Phase.Name(rule.phase) for rule in layer.include if rule.HasField("phase")]
        row["phase"] = ", ".join(phases) or (proto.Phase.Name(layer.phase) if layer.HasField("phase") else "")
        rows.append(row)
    return rows


def _solver(name: str) -> Report:
    solver = read_solver(name)
    facts: dict[str, Any] = {}
    for descriptor, value in solver.ListFields():
        if isinstance(value, Message) or descriptor.message_type is not None:
            facts[descriptor.name] = " ".join(str(value).split()) if isinstance(value, Message) else len(value)
        elif descriptor.enum_type is not None:
            facts[descriptor.name] = descriptor.enum_type.values_by_number[value].name
        else:
            facts[descriptor.name] = value if isinstance(value, (bool, int, float, str)) else list(value)
    return Report(name, "a solver (prototxt)", facts)


def _list(name: str, characters: str) -> Report | None:
    """The report on a list of images and labels, if every line is one."""
    lines = [line for line in characters.splitlines() if line.strip()]
    entries = [line.rpartition(" ") for line in lines]
    if not all(path and not path.endswith(":") and label.lstrip("-").isdigit() for path, _, label in entries):
        return None
    labels = Counter(int(label) for _, _, label in entries)
    places = {os.path.dirname(os.path.abspath(name)), os.getcwd()}
    missing = sum(not any(os.path.exists(os.path.join(place, path)) for place in places) for path, _, _ in entries)
    facts = {"images": len(entries), "labels": len(labels), "smallest_label": min(labels), "largest_label": max(labels)}
    return Report(name, "a list of images and labels", facts | {"not_found_here_or_beside_it": missing})


# --- weights, states, arrays ------------------------------------------------------------------------------------------


def _message(name: str) -> Report:
    """A binary message: weights, a solver state, or a blob."""
    message = message_of(name)
    if isinstance(message, proto.NetParameter):
        return _weights(name)
    if isinstance(message, proto.SolverState):
        facts = {"iter": message.iter, "learned_net": message.learned_net, "current_step": message.current_step}
        report = Report(name, "a solver state", facts | {"exact_resume": bool(message.minicaffe_state)})
        for k, blob in enumerate(message.history):
            report.add(f"history {k}", blob_to_array(blob))
        return report
    if isinstance(message, proto.Datum):
        pixels = to_array(message)
        report = Report(name, "a datum", {"label": message.label, "encoded": message.encoded})
        report.add("data", pixels)
        return report
    report = Report(name, "a blob, such as an image mean")
    values = blob_to_array(message)
    report.add("data", values)
    if has_diff(message):
        report.add("diff", blob_to_array(message, diff=True))
    if values.ndim >= 3 and values.size:
        channels = values.reshape(-1, *values.shape[-2:]).mean(axis=(1, 2), dtype=np.float64)
        report.facts["channel_means"] = [round(float(value), 6) for value in channels]
    return report


def _weights(name: str) -> Report:
    stored = weight_files.read(name)
    report = Report(name, "weights of a net", {"net": stored.net} if stored.net else {})
    report.facts |= {"layers_with_weights": len(stored.layers), "params": stored.count}
    if stored.definition is not None:
        report.layers = definition_rows(stored.definition)
    for key, array in stored.named().items():
        report.add(key, array)
    return report


def _onnx(name: str) -> Report:
    """An ONNX model, and the statistics of the numbers that the file holds."""
    from minicaffe.onnx import model_file

    model = model_file.read(name)
    report = Report(name, "an ONNX model", model_file.facts(model))
    for key, values in model_file.constants(model):
        report.add(key, values)
    return report


def _hdf5(name: str) -> Report:
    entries = {key: entry for key, entry in hdf5.entries(name).items() if entry.shape is not None}
    if any(key.startswith("data/") for key in entries):
        with contextlib.suppress(WeightsError):  # where layers share some of their params, files do not hold all
            return _weights(name)
    state = "iter" in entries and any(key.startswith("history/") for key in entries)
    numbers = [key for key, entry in entries.items() if entry.dtype and np.dtype(entry.dtype).kind in "fiub"]
    if state:
        numbers = [key for key in numbers if key.startswith("history/") or key in ("iter", "current_step")]
    report = Report(name, "a solver state (HDF5)" if state else "data (HDF5)")
    numbers.sort(key=_in_order)
    for key, values in zip(numbers, hdf5.read(name, numbers), strict=True):
        if key in ("iter", "current_step") and state:
            report.facts[key] = int(np.asarray(values).ravel()[0])
        else:
            report.add(key, values)
    report.facts["other_datasets"] = [key for key in entries if key not in numbers]
    return report


def _in_order(name: str) -> tuple[str, int]:
    """Sorts names that end in a number by that."""
    folder, _, last = name.rpartition("/")
    return (folder, int(last)) if last.isdigit() else (name, 0)


def _npz(name: str) -> Report:
    try:
        return _weights(name)
    except WeightsError:
        report = Report(name, "arrays (.npz)")
        for key, array in read_npz(name).items():
            report.add(key, array) if array.dtype.kind in "fiub" else report.facts.update({key: str(array.dtype)})
        return report


def _npy(name: str) -> Report:
    array = read_npy(name)
    report = Report(name, "an array (.npy)")
    if array.dtype.kind in "fiub":
        report.add("array", array)
    else:
        report.facts["dtype"] = str(array.dtype)
    return report


def _idx(name: str) -> Report:
    values = read_any(name)
    what = {1: "labels", 3: "images"}.get(values.ndim, "an array")
    report = Report(name, f"{what} (IDX, as MNIST's)", {"records": len(values)})
    if values.ndim == 1:
        report.facts["labels"] = _counts(Counter(values.tolist()))
    report.add("data", values)
    return report


def _image(name: str) -> Report:
    pixels = decode_image(limits.read_file(name))
    report = Report(name, "an image")
    for channel, plane in zip(_CHANNELS.get(len(pixels), range(len(pixels))), pixels, strict=True):
        report.add(str(channel), plane)
    return report


_CHANNELS = {1: ("gray",), 3: ("blue", "green", "red"), 4: ("blue", "green", "red", "alpha")}


# --- databases --------------------------------------------------------------------------------------------------------


def _database(name: str, records: int) -> Report:
    backend = backend_of(name)
    if backend is None:
        files = sorted(os.listdir(name))
        listed = ", ".join(files[:8]) + (", ..." if len(files) > 8 else "")
        raise DataError(f"{name} is a folder, but no database; inspect one of its files: {listed or 'it is empty'}")
    report = Report(name, f"a database ({backend})")
    shapes: Counter[str] = Counter()
    labels: Counter[int] = Counter()
    several: list[np.ndarray] = []
    first: np.ndarray | None = None
    total = np.zeros(3)  # values, their sum, their squares' sum
    low, high, nan, looked = np.inf, -np.inf, 0, 0
    with open_db(name, backend) as database:
        report.facts["records"] = database.count()
        for key, value in _items(database, records):
            datum = parse(value)
            try:
                pixels = to_array(datum)
            except DataError as error:
                raise NetError(f"database {name}, record {key!r}: {error}") from error
            if first is None:
                report.facts["first_key"], report.facts["encoded"] = key.decode(errors="replace"), datum.encoded
                first = pixels
            shapes[" x ".join(map(str, pixels.shape))] += 1
            labels[datum.label] += datum.HasField("label")
            if labels_of(datum).ndim:
                several.append(labels_of(datum))
            looked += 1
            values = pixels.astype(np.float64)
            nan += int(np.isnan(values).sum())
            low, high = min(low, float(np.nanmin(values))), max(high, float(np.nanmax(values)))
            total += values.size, np.nansum(values), np.nansum(values**2)
    report.facts["records_looked_at"] = looked
    if looked:
        mean = total[1] / total[0]
        report.facts["shapes"] = dict(shapes.most_common(8))
        report.facts |= _several(several) if several else {"labels": _counts(+labels)}
        report.facts |= {"minimum": low, "maximum": high, "mean": mean}
        report.facts |= {"std": float(np.sqrt(max(total[2] / total[0] - mean**2, 0.0))), "nan": nan}
    return report


def _several(labels: Sequence[np.ndarray]) -> dict[str, Any]:
    """What there is to say of records that have several labels each."""
    counts = sorted({len(each) for each in labels})
    facts: dict[str, Any] = {"labels_each": " or ".join(map(str, counts))}
    if len(counts) == 1:
        table = np.array(labels)
        facts["smallest_labels"], facts["largest_labels"] = (
            ", ".join(f"{value:g}" for value in values) for values in (table.min(axis=0), table.max(axis=0))
        )
    return facts


def _items(database: Any, records: int) -> Iterator[tuple[bytes, bytes]]:
    more = database.seek_to_first()
    while more and records:
        yield database.item()
        records -= 1
        more = bool(records) and database.next()


def _counts(labels: Counter[int]) -> dict[str, int]:
    """How many there are of each label; of many labels, of the most frequent ones."""
    return {str(label): count for label, count in sorted(labels.most_common(20))}
