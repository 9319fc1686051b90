"""Reading a user's nets, solvers and weights from files, upgraded to today's format; writing them whole or not at all.

The names of `atomic`, which replaces files as a whole, and of `blobs`, which turns messages into NumPy arrays and back,
can be imported from here too.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Any, NamedTuple, TypeVar, cast

from google.protobuf.message import DecodeError, EncodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from minicaffe import arguments, limits, proto
from minicaffe.errors import MinicaffeError, PrototxtError, SnapshotError, WeightsError
from minicaffe.proto import kinds, text, upgrade, wire
from minicaffe.proto.atomic import atomic_path, write_atomic
from minicaffe.proto.blobs import Values, array_to_blob, blob_pieces, blob_to_array, has_diff, shape_equals
from minicaffe.proto.locations import Locations, scan
from minicaffe.proto.origin import in_utf8
from minicaffe.proto.wire import Pieces

__all__ = [
    "Locations",
    "Values",
    "array_to_blob",
    "atomic_path",
    "blob_pieces",
    "blob_to_array",
    "has_diff",
    "message_of",
    "open_binary",
    "open_net_binary",
    "read_binary",
    "read_definition",
    "read_net",
    "read_net_binary",
    "read_solver",
    "shape_equals",
    "write_atomic",
    "write_binary",
]

log = logging.getLogger(__name__)

_QUOTED = r"""#[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""  # what a text holds beside names and numbers
_DEVICE_LIST = re.compile(r"\bdevice_id\s*:\s*\[")

Path = str | os.PathLike[str]
M = TypeVar("M", bound=Message)

_LARGEST_MESSAGE = 2**31 - 1  # bytes; a limit of protocol buffers


def read_net(path: Path) -> tuple[Any, Locations]:
    """The NetParameter of a prototxt, in today's format, and where each of its layers stands.

    Raises:
        PrototxtError: the file cannot be read, does not parse, or cannot be upgraded.
    """
    name = arguments.path(path, "a net's definition", PrototxtError)
    characters = text.load(path)
    net = text.parse(characters, proto.NetParameter(), name)
    return upgrade.upgrade_net(net, name)[0], Locations(characters, name)


def read_definition(path: Path) -> Any:
    """The NetParameter of a prototxt or of a .caffemodel, in today's format; which of both is told by its content.

    Raises:
        PrototxtError, WeightsError: as `read_net` and `read_net_binary` do.
    """
    try:
        head = limits.read_head(path)
    except OSError:
        head = b""
    return read_net(path)[0] if not head or kinds.may_be_text(head) else read_net_binary(path)


def read_solver(path: Path) -> Any:
    """The SolverParameter of a prototxt, its inline nets upgraded too, and with a snapshot prefix.

    As in Caffe, without ``snapshot_prefix`` snapshots go beside the solver file under its name, and a prefix that is a
    folder gets the solver file's name appended. Paths inside the file stay relative to the working directory.

    Raises:
        PrototxtError: the file cannot be read, does not parse, or cannot be upgraded.
    """
    name = arguments.path(path, "a solver's definition", PrototxtError)
    solver = upgrade.upgrade_solver(text.parse(_one_device(text.load(path)), proto.SolverParameter(), name), name)
    if solver.device_ids:
        solver.device_id = solver.device_ids[0]
        log.warning("device_id lists %s: one process computes on one GPU, the first", list(solver.device_ids))
    for field, value in solver.ListFields():
        if field.message_type and field.message_type.name == "NetParameter":
            for net in [value] if isinstance(value, Message) else value:
                net.CopyFrom(upgrade.upgrade_net(net, f"{name} ({field.name})")[0])
    if not solver.HasField("snapshot_prefix"):
        solver.snapshot_prefix = os.path.splitext(in_utf8(name))[0]
        log.info("snapshot_prefix was not specified and is set to %s", solver.snapshot_prefix)
    elif os.path.isdir(solver.snapshot_prefix):
        stem = os.path.splitext(os.path.basename(in_utf8(name)))[0]
        solver.snapshot_prefix = os.path.join(solver.snapshot_prefix, stem)
        log.info("snapshot_prefix was a directory and is replaced to %s", solver.snapshot_prefix)
    return solver


class Lifted(NamedTuple):
    """A binary message, and the file that the values of its large blobs have stayed in."""

    message: Any
    file: wire.File

    def values(self, blob: Any, diff: bool = False) -> Values:
        """The values of a blob of the message, or its diff; WeightsError if they do not fill its shape."""
        return Values(blob, diff, self.file)


def open_net_binary(path: Path) -> Lifted:
    """As `read_net_binary`, but the values of large blobs stay in the file, open while the result is referred to."""
    lifted = open_binary(path, proto.NetParameter)
    return lifted._replace(message=upgrade.upgrade_net(lifted.message, os.fspath(path))[0])


def _one_device(characters: str) -> str:
    """A solver's text with ``device_id``, if it is a list (yjxiong/caffe), under the name of the field for one."""
    listed = _DEVICE_LIST.search(re.sub(_QUOTED, " ", characters))
    if not listed and len([*scan(characters)[0].named("device_id")]) < 2:
        return characters
    return re.sub(rf"({_QUOTED})|\bdevice_id\b", lambda found: found[1] or "device_ids", characters)


def read_net_binary(path: Path) -> Any:
    """The NetParameter of a .caffemodel, in today's format.

    Raises:
        WeightsError: the file cannot be read or is no binary net; see `read_binary`.
        PrototxtError: the net cannot be upgraded.
    """
    name = arguments.path(path, "weights", WeightsError)
    return upgrade.upgrade_net(read_binary(path, proto.NetParameter), name)[0]


def open_binary(
    path: Path, message_class: type[M], what: str = "weights", error: type[MinicaffeError] = WeightsError
) -> Lifted:
    """As `read_binary`, but the values of large blobs stay in the file, open while the result is referred to."""
    file = _open(path, message_class, what, error)
    return Lifted(_parse(file, wire.lift(file, cast(Any, message_class.DESCRIPTOR)), message_class, what, error), file)


def read_binary(
    path: Path, message_class: type[M], what: str = "weights", error: type[MinicaffeError] = WeightsError
) -> M:
    """The message in a binary file: a NetParameter (.caffemodel), SolverState (.solverstate) or BlobProto (mean).

    Args:
        what: what the file is to the user, for errors ("weights", "solver state", "mean").
        error: the class to raise when the file is missing, empty, truncated or another kind of file; the message says
            which.
    """
    file = _open(path, message_class, what, error)
    return _parse(file, file.read(0, file.size), message_class, what, error)


def _open(path: Path, message_class: type[M], what: str, error: type[MinicaffeError]) -> wire.File:
    """The file, which may be a binary message."""
    name = arguments.path(path, what, error)
    try:
        file = wire.File(name)
        head = file.read(0, kinds.HEAD)
    except FileNotFoundError:
        raise error(
            f"File not found: {name} ({what}; tried {os.path.abspath(name)}; the working directory is {os.getcwd()})"
        ) from None
    except IsADirectoryError:
        raise error(f"{name} is a directory; a {what} file is expected") from None
    except OSError as failure:
        raise error(f"cannot read the {what} file {name}: {failure.strerror}") from None
    expected = _expected(message_class, what)
    if kind := kinds.describe(head):
        advice = "; Caffe's HDF5 files are known by a name that ends in .h5" if kind == "an HDF5 file" else ""
        raise error(f"{name} is {kind}; {expected}{advice}")
    if kinds.is_text(head):
        raise error(f"{name} is a text file, probably a prototxt; {expected}")
    if file.size > _LARGEST_MESSAGE:
        raise error(f"{name} has {file.size} bytes; a message has at most {_LARGEST_MESSAGE}: use the HDF5 form")
    return file


def _parse(file: wire.File, data: bytes, message_class: type[M], what: str, error: type[MinicaffeError]) -> M:
    """The message that ``data``, the file's content or what is lifted from it, encodes."""
    message = _decode(data, message_class)
    if (message is None or len(UnknownFieldSet(message)) > 0) and (
        kind := _message_kind(file.read(0, file.size), message_class)
    ):
        raise error(f"{file.name} is {kind}; {_expected(message_class, what)}")
    if message is None:
        raise error(
            f"{file.name} ({file.size} bytes) is truncated, corrupt or of another kind; "
            f"{_expected(message_class, what)}; "
            "copy or download it again, and compare its size or checksum with the source"
        )
    _make_strings_text(message)
    return message


def _expected(message_class: type[Message], what: str) -> str:
    return f"a {what} file (a binary {message_class.DESCRIPTOR.name}) is expected"


def message_of(path: Path) -> Message:
    """The message in a binary file, of the kind that fits its content: a NetParameter, SolverState, BlobProto or Datum.

    Raises:
        WeightsError: as `read_binary`; a file that is none of these.
    """
    what = "net, solver state or blob"
    file = _open(path, proto.NetParameter, what, WeightsError)
    data = file.read(0, file.size)
    for message_class in (*(getattr(proto, kind) for kind in _KINDS), proto.Datum):
        message = _decode(data, message_class)
        if message is not None and len(UnknownFieldSet(message)) == 0:
            return _parse(file, data, message_class, what, WeightsError)
    return _parse(file, data, proto.NetParameter, what, WeightsError)  # with fields of a fork, or damaged


def _make_strings_text(message: Message) -> None:
    """Names that are not UTF-8, which protobuf gives as bytes, become text, with other bytes written ``\\xff``."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            if isinstance(value, bytes):
                setattr(message, field.name, value.decode(errors="backslashreplace"))
            elif not isinstance(value, str) and any(isinstance(text, bytes) for text in value):
                texts = [text.decode(errors="backslashreplace") if isinstance(text, bytes) else text for text in value]
                message.ClearField(field.name)
                getattr(message, field.name).extend(texts)
        elif field.message_type and field.message_type.name != "BlobProto":
            for part in [value] if isinstance(value, Message) else value:
                _make_strings_text(part)


def write_binary(path: Path, message: Message | Pieces) -> None:
    """Write ``message`` in binary form; raises SnapshotError if it is too large or the file cannot be written."""
    try:
        pieces = [message.SerializeToString()] if isinstance(message, Message) else message
        if wire.size_of(pieces) > _LARGEST_MESSAGE:
            raise ValueError(f"it would have {wire.size_of(pieces)} bytes")
    except (EncodeError, ValueError) as failure:
        raise SnapshotError(
            f"cannot write {os.fspath(path)}: {failure}; a message has at most {_LARGEST_MESSAGE} bytes: "
            "set snapshot_format: HDF5"
        ) from None
    write_atomic(path, *pieces)


def _decode(data: bytes, message_class: type[M]) -> M | None:
    """The message, or None if ``data`` does not decode or holds no field that the class knows."""
    try:
        message = message_class.FromString(data)
    except DecodeError:
        return None
    return message if message.ListFields() else None


_KINDS = {
    "NetParameter": "a net with its weights (.caffemodel)",
    "SolverState": "a solver state (.solverstate): resume from it, or load the .caffemodel saved with it",
    "BlobProto": "a single blob, such as an image mean (.binaryproto)",
}


def _message_kind(data: bytes, wrong: type[Message]) -> str | None:
    """Which other kind of Caffe file decodes ``data`` without a rest, as a noun phrase."""
    for name, phrase in _KINDS.items():
        message_class = getattr(proto, name)
        if message_class is not wrong:
            message = _decode(data, message_class)
            if message is not None and len(UnknownFieldSet(message)) == 0:
                return phrase
    return None
