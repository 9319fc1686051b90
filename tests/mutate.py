"""Damaged files and definitions: each must give a right result or a MinicaffeError, never a crash, a hang or 2 GB.

``python tests/mutate.py --count 20000`` makes as many inputs, has them read by worker processes with a limit of memory,
and reports every one that ends otherwise.  An input follows from its name, ``kind:number``, alone:
``python tests/mutate.py --only png:17`` reads one again, in this process, with a traceback.

The kind ``layers`` gives every field of every layer bad values, one after the other and two or three at once;
``bottoms`` gives layers bottoms of other numbers, shapes and values than theirs; the others damage files, byte by byte,
cut them short, or splice them.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import io
import itertools
import logging
import os
import random
import re
import resource
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOM = 2 << 30
"""Bytes that reading an input may take."""
TIMEOUT = 30.0
"""Seconds of a processor for one input; compiling a kernel for it is part of that."""
PATIENCE = 5
"""How many times as long it may take by the clock: others use the processors, too."""
INTEGERS = (0, -1, 1, 3, 7, 2000, 10**6, 2**29, 2**31 - 1, 2**32 - 1, 2**62)
FLOATS = (0.0, -1.0, 0.5, float("nan"), float("inf"), -float("inf"), 1e30, -1e-30)
VALUES = (*FLOATS, 1.0, 2.0, 1e6, 2.0**31, 2.0**63, -2.0, 1.9999999)
MANY = 3000


class Failure(NamedTuple):
    """An input that ended otherwise than it should, and how."""

    name: str
    problem: str


# --- damage
# ------------------------------------------------------------------------------------------------------------


def damaged(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """``content``, damaged in one of many ways, or several times."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        content = rng.choice(_DAMAGES)(content, rng, others)
    return content


def _place(content: bytes, rng: random.Random) -> int:
    """A place in ``content``: often near its beginning, where headers are."""
    end = max(len(content), 1)
    return rng.randrange(min(end, 256) if rng.random() < 0.5 else end)


def _flip(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    result = bytearray(content)
    for _ in range(rng.choice((1, 2, 8)) if result else 0):
        result[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(result)


def _overwrite(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    at, value = _place(content, rng), rng.choice(INTEGERS) & (2**64 - 1)
    form = rng.choice(("<B", "<H", ">H", "<I", ">I", "<Q", ">Q"))
    new = struct.pack(form, value & (2 ** (8 * struct.calcsize(form)) - 1))
    return content[:at] + new + content[at + len(new) :]


def _noise(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    at, length = _place(content, rng), rng.choice((1, 4, 30, 500))
    return content[:at] + rng.randbytes(length) + content[at + length :]


def _zero(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    at, length = _place(content, rng), rng.choice((1, 16, 512, 4096))
    return content[:at] + bytes(len(content[at : at + length])) + content[at + length :]


def _truncate(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    return content[: _place(content, rng)]


def _insert(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    at = _place(content, rng)
    return content[:at] + rng.randbytes(rng.choice((1, 3, 40))) + content[at:]


def _delete(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    at = _place(content, rng)
    return content[:at] + content[at + rng.choice((1, 2, 4, 60)) :]


def _splice(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    other = rng.choice(others) if others else content
    start, at = _place(other, rng), _place(content, rng)
    part = other[start : start + rng.choice((8, 100, 2000))]
    return content[:at] + part + content[at + rng.choice((0, len(part))) :]


_DAMAGES = (_flip, _flip, _overwrite, _overwrite, _noise, _zero, _truncate, _insert, _delete, _splice)
_WORDS = [
    *(str(n).encode() for n in INTEGERS),
    b"nan",
    b"inf",
    b"-1e38",
    b'""',
    b"1e999",
    b"{",
    b"}",
    b"\xff",
    b"\0",
    b"#",
    b'"',
]


_NUMBER = re.compile(rb"(?<![\w.])-?\d+(\.\d+)?(e-?\d+)?")
_NUMBERS = [*(str(n).encode() for n in (*INTEGERS, 2, 5, 16, 100)), b"nan", b"inf", b"-1e38", b"1e-40", b"0.5"]


def reworded(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A text with words replaced, repeated or left out; now and then damaged like any file."""
    kind = rng.random()
    if kind < 0.2:
        return damaged(content, rng, others)
    if kind < 0.8:
        numbers = [match.span() for match in _NUMBER.finditer(content)]
        for start, end in sorted(rng.sample(numbers, min(rng.choice((1, 1, 2, 3)), len(numbers))), reverse=True):
            content = content[:start] + rng.choice(_NUMBERS) + content[end:]
        return content
    words = content.split(b" ")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(words))
        choice = rng.random()
        if choice < 0.6:
            words[at] = rng.choice(_WORDS)
        elif choice < 0.75:
            del words[at : at + rng.choice((1, 5))]
        elif choice < 0.9:
            words[at:at] = words[at : at + rng.choice((1, 4, 20))] * rng.choice((1, 2, 50))
        else:
            words[at] = rng.choice(words)
        words = words or [b""]
    return b" ".join(words)


# --- the kinds of files
# --------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """Files of a kind: whole ones by name, how they are damaged, and what reads one."""

    originals: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    damage: Callable[[bytes, random.Random, list[bytes]], bytes] = damaged
    file: str = "file"


NET = b"""name: "n" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { lr_mult: 1 } convolution_param { num_output: 4
kernel_size: 3 stride: 2 pad: 1 weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.5 } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "pool" top: "pool" include { phase: TRAIN } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: 1 }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } } """
_LABEL_FIRST = NET.rpartition(b"layer {")
NET = b"layer {" + _LABEL_FIRST[2] + _LABEL_FIRST[0]
V1 = b"""name: "n" input: "data" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 8 layers { name: "conv" type: CONVOLUTION
bottom: "data" top: "conv" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0 convolution_param { num_output: 4
kernel_size: 3 } } layers { name: "ip" type: INNER_PRODUCT bottom: "conv" top: "ip" inner_product_param { num_output: 3 } } """
V0 = b"""name: "n" input: "data" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 8 layers { layer { name: "conv" type: "conv"
num_output: 4 kernelsize: 3 stride: 1 pad: 1 } bottom: "data" top: "conv" } layers { layer { name: "ip" type: "innerproduct"
num_output: 3 } bottom: "conv" top: "ip" } """
SOLVER = b"""net_param { name: "n" layer { name: "d" type: "DummyData" top: "d" top: "l" dummy_data_param { shape { dim: 4 dim: 3 }
shape { dim: 4 } data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } } layer { name: "ip"
type: "InnerProduct" bottom: "d" top: "ip" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } } layer {
name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "l" top: "loss" } } base_lr: 0.01 momentum: 0.9 weight_decay: 0.1
lr_policy: "step" gamma: 0.1 stepsize: 2 max_iter: 3 display: 0 average_loss: 2 iter_size: 1 type: "Adam" delta: 1e-8
clip_gradients: 10 random_seed: 1 regularization_type: "L1" power: 0.5 snapshot: 0 snapshot_prefix: "s" """


def _message(text: bytes) -> Any:
    from minicaffe import proto
    from minicaffe.proto import text as prototxt

    return prototxt.parse(text.decode(), proto.NetParameter())


@functools.cache
def _net(text: bytes) -> Any:
    import minicaffe

    return minicaffe.Net(_message(text), minicaffe.TRAIN)


def _solver(folder: Path) -> Any:
    import minicaffe

    (folder / "solver.prototxt").write_bytes(SOLVER)
    return minicaffe.get_solver(str(folder / "solver.prototxt"))


def _build_net(path: Path) -> None:
    import minicaffe

    minicaffe.Net(str(path), minicaffe.TRAIN)


def _weights(folder: Path) -> list[bytes]:
    """One of each age."""
    files = []
    for text, blocks in ((V1, "layers"), (V0, "layers"), (NET, "layer")):
        message = _message(text)
        for layer in getattr(message, blocks):
            owner = layer.layer if text is V0 else layer
            for j, blob in enumerate(_net(text).params.get(owner.name, ())):
                owner.blobs.append(blob.to_proto(write_diff=j == 1))
        files.append(message.SerializeToString())
    return files


def _hdf5_weights(folder: Path) -> list[bytes]:
    _net(NET).save_hdf5(folder / "w.h5")
    return [(folder / "w.h5").read_bytes()]


def _copy_weights(path: Path) -> None:
    from minicaffe.errors import MinicaffeError

    for text in (V1, V0):
        with contextlib.suppress(MinicaffeError):
            _net(text).copy_from(path)
    _net(NET).copy_from(path)


def _solver_state(folder: Path, form: str) -> list[bytes]:
    from minicaffe import proto

    solver = _solver(folder)
    solver.param.snapshot_prefix = str(folder / "s")
    solver.param.snapshot_format = getattr(proto.SolverParameter, form)
    solver.step(1)
    solver.snapshot()
    return [(folder / f"s_iter_1.solverstate{'.h5' if form == 'HDF5' else ''}").read_bytes()]


def _restore(path: Path) -> None:
    solver = _solver(path.parent)
    solver.restore(str(path))
    solver.step(1)


def _mean(folder: Path) -> list[bytes]:
    import numpy as np

    from minicaffe.proto.files import array_to_blob

    legacy = array_to_blob(np.zeros((3, 6, 7), np.float32))
    legacy.ClearField("shape")
    legacy.num, legacy.channels, legacy.height, legacy.width = 1, 3, 6, 7
    return [array_to_blob(np.ones((1, 3, 6, 7))).SerializeToString(), legacy.SerializeToString()]


def _read_mean(path: Path) -> object:
    from minicaffe.data.transform import read_mean

    return read_mean(str(path))


def _records(encoded: bool) -> Iterator[tuple[bytes, bytes]]:
    import numpy as np

    from minicaffe import proto
    from minicaffe.data.datum import from_array

    rng = np.random.default_rng(0)
    for n in range(40):
        if encoded and n % 3 == 0:
            datum = proto.Datum(encoded=True, label=n, data=_image("PNG", (6, 7)))
        else:
            datum = from_array(rng.integers(0, 256, (3, 6, 7)).astype(np.uint8 if n % 2 else np.float32), n)
        yield b"%08d" % n, datum.SerializeToString() + (b"" if n != 20 else _datum_padding())


def _datum_padding() -> bytes:
    """A field that Datum does not know, large enough for pages of its own."""
    return bytes([0xBA, 0x06, 0x90, 0x4E]) + bytes(10000)


def _database(folder: Path, backend: str) -> Path:
    from minicaffe.data.db import open_db

    made = folder / f"original_{backend}"
    if not made.exists():
        with open_db(made, backend, "new") as database:
            for key, value in _records(True):
                database.put(key, value)
    return made


def _lmdb(folder: Path) -> list[bytes]:
    return [(_database(folder, "lmdb") / "data.mdb").read_bytes()]


def _leveldb(folder: Path) -> list[bytes]:
    """Its files, one after the other, each behind its name."""
    parts = []
    for path in sorted(_database(folder, "leveldb").iterdir()):
        if path.name not in ("LOCK", "LOG"):
            content = path.read_bytes()
            parts.append(
                struct.pack("<H", len(path.name)) + path.name.encode() + struct.pack("<I", len(content)) + content
            )
    return parts


def _damaged_leveldb(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """All files, that of ``content`` damaged."""
    (length,) = struct.unpack_from("<H", content)
    head, body = content[: 2 + length], damaged(content[6 + length :], rng, others)
    whole = head + struct.pack("<I", len(body)) + body
    return b"".join(whole if other is content else other for other in others)


def _read_lmdb(path: Path) -> None:
    folder = path.with_name("db_lmdb")
    folder.mkdir(exist_ok=True)
    path.replace(folder / "data.mdb")
    _read_database(folder, "lmdb")


def _read_leveldb(path: Path) -> None:
    folder = path.with_name("db_leveldb")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    content, at = path.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<H", content, at)
        name = content[at + 2 : at + 2 + length].decode()
        (size,) = struct.unpack_from("<I", content, at + 2 + length)
        at += 6 + length + size
        (folder / name).write_bytes(content[at - size : at])
    _read_database(folder, "leveldb")


def _read_database(folder: Path, backend: str) -> None:
    from minicaffe.data.db import open_db

    layer = (
        f'layer {{ name: "d" type: "Data" top: "x" top: "y" transform_param {{ crop_size: 4 mirror: true }} '
        f'data_param {{ source: "{folder}" backend: {backend.upper()} batch_size: 15 }} }}'
    )
    with open_db(folder, backend) as database:
        found = database.seek_to_first()
        while found:
            database.item()
            found = database.next()
    _forward(layer.encode(), 3)


def _forward(text: bytes, times: int) -> None:
    import minicaffe

    with contextlib.closing(minicaffe.Net(_message(text), minicaffe.TRAIN)) as net:
        for _ in range(times):
            net.forward()


def _hdf5(folder: Path) -> list[bytes]:
    import h5py
    import numpy as np

    files = []
    for options in (
        {},
        {"compression": "gzip", "shuffle": True, "chunks": True},
        {"compression": "lzf"},
        {"fletcher32": True},
    ):
        with h5py.File(folder / "original.h5", "w") as file:
            file.create_dataset(
                "data", data=np.random.default_rng(0).integers(0, 9, (40, 3, 4)).astype("f4"), **options
            )
            file.create_dataset("label", data=np.arange(40))
        files.append((folder / "original.h5").read_bytes())
    return files


def _read_hdf5(path: Path) -> None:
    path.with_name("hdf5.txt").write_text(str(path))
    _forward(
        b'layer { name: "h" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "%s" batch_size: 30 } }'
        % os.fsencode(path.with_name("hdf5.txt")),
        2,
    )


def _idx(folder: Path) -> list[bytes]:
    images, labels = struct.pack(">4I", 2051, 50, 4, 5) + bytes(1000), struct.pack(">2I", 2049, 50) + bytes(50)
    return [images, labels, *(gzip.compress(content, mtime=0) for content in (images, labels))]


def _read_idx(path: Path) -> None:
    from minicaffe.data.idx import read_images, read_labels
    from minicaffe.errors import MinicaffeError

    with contextlib.suppress(MinicaffeError):
        read_images(path)
    read_labels(path)


def _image(form: str, size: tuple[int, int] = (20, 30), mode: str = "RGB", **options: Any) -> bytes:
    from PIL import Image

    image = Image.frombytes("RGB", size, random.Random(1).randbytes(3 * size[0] * size[1])).convert(mode)
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def _images(folder: Path) -> list[bytes]:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        _image("PNG"), _image("PNG", mode="P"), _image("PNG", mode="L"), _image("PNG", mode="RGBA"), _image("JPEG", exif=exif),
        _image("JPEG", mode="L", progressive=True), _image("BMP"), _image("GIF", mode="P"), _image("PPM"),
        _image("TIFF"), _image("TIFF", compression="tiff_lzw"), _image("WEBP"),
    ]  # fmt: skip


def _read_image(path: Path) -> None:
    from minicaffe.data.image import read_image, resize
    from minicaffe.errors import MinicaffeError

    for color in (None, False):
        with contextlib.suppress(MinicaffeError):
            read_image(path, color)
    resize(read_image(path), 5, 6)


def _picture(folder: Path) -> bytes:
    if not (folder / "a.png").exists():
        (folder / "a.png").write_bytes(_image("PNG"))
    return os.fsencode(folder / "a.png")


def _list(folder: Path) -> list[bytes]:
    return [b"%s 1\n%s 2\n%s 0\n" % ((_picture(folder),) * 3)]


def _read_list(path: Path) -> None:
    layer = b'layer { name: "i" type: "ImageData" top: "x" top: "y" image_data_param { source: "%s" batch_size: 3 } }'
    _forward(layer % os.fsencode(path), 2)


def _windows(folder: Path) -> list[bytes]:
    block = b"# %d\n%s\n3\n30\n20\n3\n1 0.9 2 3 12 15\n2 0.7 0 0 19 29\n0 0.1 4 4 18 18\n"
    return [b"".join(block % (n, _picture(folder)) for n in range(2))]


def _read_windows(path: Path) -> None:
    layer = (
        b'layer { name: "w" type: "WindowData" top: "x" top: "y" transform_param { crop_size: 8 mirror: true } '
        b'window_data_param { source: "%s" batch_size: 4 context_pad: 2 } }'
    )
    _forward(layer % os.fsencode(path), 2)


def _pairs(folder: Path) -> list[bytes]:
    return [b"%s %s 1\n%s %s 0\n" % ((_picture(folder),) * 4)]


def _read_pairs(path: Path) -> None:
    from minicaffe.data.pairs import pairs_from_list

    pairs_from_list(path, 5, 6)


def _change_message(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A message of any sort, behind the name of its class, with one of its fields changed."""
    from minicaffe import proto

    name, _, body = content.partition(b"\n")
    message = getattr(proto, name.decode()).FromString(body)
    owner = message
    while (inner := [value for field, value in owner.ListFields() if field.message_type]) and rng.random() < 0.7:
        value = rng.choice(inner)
        owner = rng.choice(value) if hasattr(value, "extend") else value
    path, value = rng.choice(list(changes(owner, (), 0)))
    with contextlib.suppress(ValueError, TypeError):
        set_field(owner, path, value)
    return name + b"\n" + message.SerializeToString()


def _messages(folder: Path) -> list[bytes]:
    from minicaffe import proto
    from minicaffe.proto import text

    records = [b"Datum\n" + value for _, value in itertools.islice(_records(True), 4)]
    solver = text.parse(SOLVER.decode(), proto.SolverParameter()).SerializeToString()
    return [
        *records, b"SolverParameter\n" + solver, b"BlobProto\n" + _mean(folder)[0], b"BlobProto\n" + _mean(folder)[1],
        *(b"NetParameter\n" + content for content in _weights(folder)),
        *(b"SolverState\n" + content for content in _solver_state(folder, "BINARYPROTO")),
    ]  # fmt: skip


def _read_message(path: Path) -> None:
    from minicaffe import proto, solvers
    from minicaffe.data import datum

    name, _, body = path.read_bytes().partition(b"\n")
    path.write_bytes(body)
    if name == b"Datum":
        datum.raw_batch([body, body])
        one = datum.parse(body)
        datum.labels(one)
        datum.to_array(one)
    elif name == b"SolverParameter":
        with solvers.create(proto.SolverParameter.FromString(body), None) as solver:
            if solver.param.iter_size < 10 and len(solver.param.test_iter) == 0:
                solver.step(1)
    elif name == b"NetParameter":
        _copy_weights(path)
    elif name == b"BlobProto":
        _read_mean(path)
    else:
        path.replace(path.with_name("x.solverstate"))
        _restore(path.with_name("x.solverstate"))


def _run_solver(path: Path) -> None:
    import minicaffe

    with minicaffe.get_solver(str(path)) as solver:
        if solver.param.iter_size < 10 and len(solver.param.test_iter) == 0:
            solver.step(1)


KINDS: dict[str, Kind] = {
    "net": Kind(lambda folder: [NET, V1, V0], _build_net, reworded, "net.prototxt"),
    "solver": Kind(lambda folder: [SOLVER], _run_solver, reworded, "solver.prototxt"),
    "caffemodel": Kind(_weights, _copy_weights),
    "caffemodel.h5": Kind(_hdf5_weights, _copy_weights, file="w.caffemodel.h5"),
    "solverstate": Kind(lambda folder: _solver_state(folder, "BINARYPROTO"), _restore, file="x.solverstate"),
    "solverstate.h5": Kind(lambda folder: _solver_state(folder, "HDF5"), _restore, file="x.solverstate.h5"),
    "mean": Kind(_mean, _read_mean),
    "message": Kind(_messages, _read_message, _change_message),
    "lmdb": Kind(_lmdb, _read_lmdb),
    "leveldb": Kind(_leveldb, _read_leveldb, _damaged_leveldb),
    "hdf5": Kind(_hdf5, _read_hdf5, file="data.h5"),
    "idx": Kind(_idx, _read_idx),
    "image": Kind(_images, _read_image),
    "list": Kind(_list, _read_list, reworded),
    "windows": Kind(_windows, _read_windows, reworded),
    "pairs": Kind(_pairs, _read_pairs, reworded),
}


# --- layers
# --------------------------------------------------------------------------------------------------------------


FieldPath = tuple[str | int, ...]
"""Names of fields, one in another; after a repeated one which of its messages."""


def changes(message: Any, path: FieldPath = (), depth: int = 3) -> Iterator[tuple[FieldPath, Any]]:
    """(path of a field, bad value) for every field of a message and of those in it."""
    for field in message.DESCRIPTOR.fields:
        here = (*path, field.name)
        repeated = hasattr(getattr(message, field.name), "extend")
        if field.message_type is not None:
            if depth and not repeated:
                yield from changes(getattr(message, field.name), here, depth - 1)
            elif repeated:
                yield here, [field.message_type._concrete_class()] * MANY
                if depth:
                    yield from changes(field.message_type._concrete_class(), (*here, 0), depth - 1)
            continue
        if field.enum_type is not None:
            values: tuple[Any, ...] = tuple(field.enum_type.values_by_number)
        elif field.cpp_type == field.CPPTYPE_STRING:
            values = ("", "no such", "\0", "x" * 5000, "/dev/zero", "/")
        elif field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
            values = FLOATS
        elif field.cpp_type == field.CPPTYPE_BOOL:
            values = (False, True)
        else:
            values = INTEGERS
        if field.type == field.TYPE_BYTES:
            values = tuple(value.encode() for value in values)
        for value in values:
            yield here, [value] if repeated else value
            if repeated:
                yield here, [value, value]
                yield here, [value] * MANY
        if repeated:
            yield here, []


def set_field(message: Any, path: FieldPath, value: Any) -> None:
    """Give a field of ``message``, or of one in it, a value."""
    for name in path[:-1]:
        if isinstance(name, int):
            message = message[name] if len(message) > name else message.add()
        else:
            message = getattr(message, name)
    if isinstance(value, list):
        message.ClearField(path[-1])
        getattr(message, path[-1]).extend(value)
    else:
        setattr(message, path[-1], value)


@functools.cache
def layer_inputs() -> list[tuple[int, FieldPath, Any]]:
    """(number of a layer's case, field, bad value), for all layers."""
    from layer_cases import CASES

    from minicaffe import proto
    from minicaffe.layers.base import registry

    general = ("loss_weight", "propagate_down", "bottom", "top", "name", "phase")
    fields_of_layers = set(proto.LayerParameter.DESCRIPTOR.fields_by_name)
    found = []
    for number, case in enumerate(CASES):
        cls = registry.get(case.type)
        given = set(case.fields) & fields_of_layers
        owners = {cls.param if cls else "python_param", *(name for name in given if name.endswith("_param"))} - {None}
        if case.type in ("Data", "ImageData", "WindowData", "MemoryData"):
            owners.add("transform_param")
        if case.type == "Python":
            owners = set()
        if case.type.endswith("Loss"):
            owners.add("loss_param")
        layer = proto.LayerParameter()
        for owner in sorted(owners):
            found += [(number, path, value) for path, value in changes(getattr(layer, owner), (owner,))]
        for name in general:
            found += [(number, path, value) for path, value in changes(layer, (), 0) if path == (name,)]
    return found


@functools.cache
def _of_case() -> dict[int, list[tuple[int, FieldPath, Any]]]:
    """``layer_inputs`` by the number of the case."""
    found: dict[int, list[tuple[int, FieldPath, Any]]] = {}
    for one in layer_inputs():
        found.setdefault(one[0], []).append(one)
    return found


@functools.cache
def _with_bottoms() -> list[int]:
    """The numbers of the cases whose layers read bottoms."""
    from layer_cases import CASES

    return [number for number, case in enumerate(CASES) if case.bottoms]


def changed_bottoms(arrays: list[Any], rng: random.Random) -> list[Any]:
    """Bottoms of which one is left out, given twice, moved, or has another shape or other values."""
    import numpy as np

    arrays, k, kind = [*arrays], rng.randrange(len(arrays)), rng.random()
    array = np.array(arrays[k], np.float32)
    if kind < 0.1:
        del arrays[k]
    elif kind < 0.2:
        arrays.insert(rng.randrange(len(arrays) + 1), array)
    elif kind < 0.25:
        rng.shuffle(arrays)
    elif kind < 0.6:
        arrays[k] = np.resize(array, _other_shape(array.shape, rng))
        if rng.random() < 0.3:
            arrays = [np.resize(array, (arrays[k].shape[:1] + np.shape(array)[1:])) for array in arrays]
    else:
        value = np.float32(rng.choice(VALUES))
        array[rng.choice((..., np.s_[:1], np.s_[-1:], np.s_[..., :1], np.s_[..., -1:])) if array.ndim else ...] = value
        arrays[k] = array
    return arrays


def _other_shape(shape: tuple[int, ...], rng: random.Random) -> tuple[int, ...]:
    if not shape or rng.random() < 0.3:
        return rng.choice([(), (0,), (1,), shape[1:], shape[:-1], (1, *shape), (*shape, 1), shape[::-1]])
    axis = rng.randrange(len(shape))
    size = rng.choice((0, 0, 1, shape[axis] + 1, 2 * shape[axis], shape[axis] - 1))
    return (*shape[:axis], max(size, 0), *shape[axis + 1 :])


def run_layer(
    number: int,
    fields: list[tuple[FieldPath, Any]],
    folder: Path,
    change: Callable[[list[Any]], list[Any]] = list,
) -> None:
    """Build a net of a layer's case with fields and bottoms changed, and run it forward and backward."""
    import numpy as np
    from layer_cases import CASES

    import minicaffe
    from minicaffe import proto
    from minicaffe.testing.definition import define

    case = CASES[number]
    how = case.how(folder)
    how.pop("params", None)
    tops, phase = how.pop("tops"), how.pop("phase")
    kind = case.type
    layer = define(kind, how)
    if tops is None:
        from minicaffe.layers.base import registry

        declared = registry[kind].tops if kind in registry else 1
        tops = declared if isinstance(declared, int) else declared[0]
        if kind in registry and registry[kind].equal_counts:
            tops = len(case.bottoms)
    layer.top.extend([f"top{k}" for k in range(tops)] if isinstance(tops, int) else tops)
    arrays = change(case.draw())
    layer.bottom.extend(f"bottom{k}" for k in range(len(arrays)))
    for path, value in fields:
        with contextlib.suppress(ValueError, TypeError):  # a field that cannot hold it
            set_field(layer, path, value)
    net = proto.NetParameter(force_backward=True)
    for k, array in enumerate(arrays):
        made = net.layer.add(name=f"input{k}", type="Input", top=[f"bottom{k}"])
        made.input_param.shape.add(dim=np.shape(array))
    net.layer.add().CopyFrom(layer)
    with contextlib.closing(minicaffe.Net(net, getattr(minicaffe, phase))) as built:
        for k, array in enumerate(arrays):
            if f"bottom{k}" in built.blobs:
                built.blobs[f"bottom{k}"].data[...] = array
        for _ in range(2):
            built.forward()
        built.backward()


# --- running
# ---------------------------------------------------------------------------------------------------------------


@functools.cache
def _originals(kind: str, folder: Path) -> list[bytes]:
    return KINDS[kind].originals(folder)


def run_input(name: str, folder: Path) -> None:
    """Make an input and read it; whatever that raises."""
    kind, _, number = name.partition(":")
    os.chdir(folder)
    if kind == "bottoms":
        rng, case = random.Random(name), _with_bottoms()[int(number) % len(_with_bottoms())]
        more = [rng.choice(_of_case()[case])[1:] for _ in range(rng.choice((0, 0, 0, 1)))]
        run_layer(case, more, folder, functools.partial(changed_bottoms, rng=rng))
        return
    if kind == "layers":
        every = layer_inputs()
        order = random.Random(0).sample(range(len(every)), len(every))
        case, *change = every[order[int(number) % len(every)]]
        rng = random.Random(name)
        more = [rng.choice(_of_case()[case])[1:] for _ in range(rng.choice((0, 0, 1, 2)))]
        run_layer(case, [tuple(change), *more], folder)
        return
    rng, originals = random.Random(name), _originals(kind, folder)
    path = folder / KINDS[kind].file
    path.write_bytes(KINDS[kind].damage(rng.choice(originals), rng, originals))
    KINDS[kind].read(path)


def outcome(name: str, folder: Path) -> str | None:
    """What is wrong with how an input ends, or None."""
    import minicaffe

    try:
        run_input(name, folder)
    except minicaffe.MinicaffeError as error:
        str(error).encode(errors="surrogateescape")
    except BaseException as error:  # noqa: BLE001
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:150]} at {where.filename}:{where.lineno}"
    return None


def limit_memory() -> None:
    """From here on, let this process take ``ROOM`` more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def work() -> None:
    """A worker: reads names of inputs, and answers each with a line: nothing, or what is wrong."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import minicaffe
    from minicaffe.data import hdf5

    hdf5.PATIENCE = TIMEOUT / 3
    logging.getLogger("minicaffe").addHandler(logging.NullHandler())
    minicaffe.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        folder = Path(name)
        for kind in KINDS:
            _originals(kind, folder)
            with contextlib.suppress(minicaffe.MinicaffeError):
                path = folder / KINDS[kind].file
                path.write_bytes(
                    _originals(kind, folder)[0] if kind != "leveldb" else b"".join(_originals(kind, folder))
                )
                KINDS[kind].read(path)
        limit_memory()
        print("ready", file=out, flush=True)
        for line in sys.stdin:
            problem = outcome(line.strip(), folder)
            print((problem or "").replace("\n", " "), file=out, flush=True)


class Worker:
    """A process that reads inputs, started anew when one ends it or keeps it too long."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
        )  # fmt: skip
        assert self._answer(600) == "ready", "the worker does not start"

    def _answer(self, seconds: float) -> str | None:
        """The next line; None after so many seconds of a processor, or when the process is gone."""
        assert self._process.stdout is not None
        start, used, ready = time.monotonic(), self._processor_time(), []
        while not ready and self._processor_time() - used < seconds and time.monotonic() - start < PATIENCE * seconds:
            ready, _, _ = select.select([self._process.stdout], [], [], min(seconds, 0.5))
        line = self._process.stdout.readline() if ready else ""
        return line.removesuffix("\n") if line else None

    def _processor_time(self) -> float:
        """The seconds that the process has computed."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def run(self, name: str) -> Failure | None:
        assert self._process.stdin is not None
        self._process.stdin.write(name + "\n")
        self._process.stdin.flush()
        answer = self._answer(TIMEOUT)
        if answer is None:
            time.sleep(0.1)
            status = self._process.poll()
            problem = "hangs" if status is None else f"ends the process (status {status})"
            self.close()
            self._start()
            return Failure(name, problem)
        return Failure(name, answer) if answer else None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def names(count: int, kinds: list[str]) -> list[str]:
    """``count`` inputs, of all kinds alike; layers have a third of them."""
    if "layers" in kinds and len(kinds) > 1:
        layers = count // 3
        rest = [kind for kind in kinds if kind != "layers"]
        return [f"layers:{n}" for n in range(layers)] + names(count - layers, rest)
    return [f"{kind}:{n}" for n, kind in zip(range(count), itertools.cycle(kinds), strict=False)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20000, help="inputs to make")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--kinds", nargs="*", default=["layers", "bottoms", *KINDS])
    parser.add_argument("--only", help="read this input alone, in this process")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    if options.worker:
        work()
        return 0
    if options.only:
        with tempfile.TemporaryDirectory() as folder:
            run_input(options.only, Path(folder))
        return 0
    from concurrent.futures import ThreadPoolExecutor
    from queue import SimpleQueue

    workers: SimpleQueue[Worker] = SimpleQueue()
    for _ in range(options.workers):
        workers.put(Worker())

    def run(name: str) -> Failure | None:
        worker = workers.get()
        try:
            return worker.run(name)
        finally:
            workers.put(worker)

    start, failures = time.perf_counter(), []
    inputs = names(options.count, options.kinds)
    with ThreadPoolExecutor(options.workers) as pool:
        for failure in filter(None, pool.map(run, inputs)):
            failures.append(failure)
            print(f"{failure.name}: {failure.problem}", flush=True)
    while not workers.empty():
        workers.get().close()
    by_kind = Counter(failure.name.partition(":")[0] for failure in failures)
    print(f"{len(inputs)} inputs in {time.perf_counter() - start:.0f} s; {len(failures)} failures {dict(by_kind)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
