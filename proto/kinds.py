"""What a file is, told from its first bytes, for a user who passed the wrong one."""

from __future__ import annotations

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
HEAD = 1024
"""Bytes of a file from which its kind is told."""

_TEXT_START = frozenset(b"\t\n\r") | frozenset(range(32, 127))


def describe(data: bytes) -> str | None:
    """A noun phrase for a known kind of file that is neither a message nor a prototxt; None if it may be either."""
    head = data[:HEAD]
    start = head.lstrip().lower()
    if not data:
        return "an empty file"
    if head.startswith(HDF5_SIGNATURE):
        return "an HDF5 file"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file itself (run 'git lfs pull' in its repository)"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page: the download failed (open the address in a browser to see why)"
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive (unpack it, or load it with numpy if it is an .npz)"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip archive (unpack it first)"
    if head.startswith(b"\x93NUMPY"):
        return "a NumPy .npy file"
    if is_onnx(head):
        return "an ONNX model, which minicaffe writes and does not read ('minicaffe inspect' tells what is in it)"
    return None


def is_onnx(data: bytes) -> bool:
    """Whether a file begins as an ONNX ModelProto does: a small ir_version (1); perhaps the producer, its version, a
    domain, model_version and doc_string (2 to 6); then the graph (7).

    No message of Caffe's with a number for its field 1 has texts in 2 and 3 and a message in 7: a SolverState has no
    field 7, a BlobProto numbers in 2 to 4.
    """
    at, before = 2, 1
    if len(data) < 4 or data[0] != 0x08 or not 0 < data[1] < 0x80:
        return False
    while at < min(len(data), HEAD):
        field, wire_type = data[at] >> 3, data[at] & 7
        if field == _GRAPH:
            return wire_type == _DELIMITED
        if not before < field < _GRAPH or wire_type != (_VARINT if field == _MODEL_VERSION else _DELIMITED):
            return False
        size, at = _varint(data, at + 1)
        at += size if wire_type == _DELIMITED else 0
        before = field
    return False


_VARINT, _DELIMITED = 0, 2
_MODEL_VERSION, _GRAPH = 5, 7


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that is encoded at a place, and the place behind it; of a cut one what there is."""
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            break
    return value, at


def may_be_text(head: bytes) -> bool:
    """Whether a file that begins so may be text in UTF-8: it holds no control characters but white space."""
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)


def is_text(data: bytes) -> bool:
    """Whether the first kilobyte holds only printable ASCII and white space, as a prototxt does."""
    return all(byte in _TEXT_START for byte in data[:HEAD])
