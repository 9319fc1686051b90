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
    return None


def may_be_text(head: bytes) -> bool:
    """Whether a file that begins so may be text in UTF-8: it holds no control characters but white space."""
    return all(byte >= 32 or byte in b"\t\n\r\f" for byte in head)


def is_text(data: bytes) -> bool:
    """Whether the first kilobyte holds only printable ASCII and white space, as a prototxt does."""
    return all(byte in _TEXT_START for byte in data[:HEAD])
