"""The process that ``minicaffe.data.hdf5`` has HDF5 files read by.  It imports nothing of minicaffe.

libhdf5 trusts what it reads: some damaged files end the process that opens them, or keep it busy for ever.  Here that
is an end that the other side sees.  Requests are lines of JSON on the standard input; what is answered on the standard
output are messages: the length of a JSON object (4 bytes, big-endian), the object, and ``size`` bytes if it has a
``size``.  Values that lie in the file in one piece, as they are, are not sent: the answer says ``at`` which byte.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5l, h5t

_ROOM = 1 << 30  # bytes of memory that reading a file may take here
_PIECE = 16 << 20  # bytes of values sent at once
_CHUNK_CACHE = 128 << 20  # bytes
_MOST_OBJECTS, _DEEPEST = 100_000, 32
_MOST_COMPRESSED = 1100
"""How many times as large as what is stored values may be; deflate, the best of the filters, packs 1032 to 1."""
_UNSTORED = 1 << 20  # bytes of values that a file may leave out, to be filled in
_SOFT_LINKS = 8  # that one leads to the next


class Refused(Exception):
    """What a file asks for and does not get; the text says why."""


def main() -> None:
    """Answer requests until the standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other process
    _limit_memory()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no message
    for line in sys.stdin.buffer:
        try:
            _answer(out, json.loads(line))
        except BrokenPipeError:
            return
        except Refused as error:
            _send(out, {"error": str(error)})
        except Exception as error:  # noqa: BLE001  (h5py raises nearly anything for a damaged file)
            _send(out, {"error": f"damaged, or no HDF5 file ({str(error) or type(error).__name__})"})


def _limit_memory() -> None:
    try:
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
    except OSError:  # no Linux
        return
    room, hard = pages * resource.getpagesize() + _ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (room if hard == resource.RLIM_INFINITY else min(room, hard), hard))


def _answer(out: Any, request: dict[str, Any]) -> None:
    with h5py.File(os.fsencode(request["path"]), "r", rdcc_nbytes=_CHUNK_CACHE) as file:
        names = request.get("names")
        if names is None:
            for name, item in _walk(file, "", 0, [0]):
                _send(out, {"name": name, **_described(item)})
        else:
            for name in names:
                _send_values(out, name, _find(file, name))
    _send(out, {"end": True})


def _send(out: Any, message: dict[str, Any], payload: Any = b"") -> None:
    text = json.dumps(message | ({"size": len(payload)} if len(payload) else {})).encode()
    out.write(struct.pack(">I", len(text)) + text)
    out.write(payload)
    out.flush()


def _walk(group: h5py.Group, prefix: str, depth: int, seen: list[int]) -> Iterator[tuple[str, Any]]:
    """Name and object of everything below a group; soft links and what else is not in it itself are left out."""
    for name in group:
        seen[0] += 1
        if seen[0] > _MOST_OBJECTS or depth > _DEEPEST:
            raise Refused(f"it has more than {_MOST_OBJECTS} objects, or groups more than {_DEEPEST} deep")
        if _link(group, name) == h5l.TYPE_HARD:
            item = group[name]
            yield prefix + name, item
            if isinstance(item, h5py.Group):
                yield from _walk(item, f"{prefix}{name}/", depth + 1, seen)


def _link(group: Any, name: str) -> int | None:
    """The type of the link of a name in a group; None if there is none.  Nothing is opened, as ``name in
    group`` does.
    """
    links, key = group.id.links if isinstance(group, h5py.Group) else None, os.fsencode(name)
    return links.get_info(key).type if links is not None and links.exists(key) else None


def _described(item: Any) -> dict[str, Any]:
    if not isinstance(item, h5py.Dataset):
        return {}
    return {"dtype": item.dtype.str if item.dtype.kind in "fiuSb" else str(item.dtype), "shape": item.shape}


def _find(file: h5py.File, name: str, links: int = 0) -> h5py.Dataset:
    """The dataset of a name, in this file and no other; Refused if there is none."""
    here: Any = file
    parts = [part for part in name.split("/") if part]
    for at, part in enumerate(parts):
        link = _link(here, part)
        if link == h5l.TYPE_SOFT and links < _SOFT_LINKS:
            target = os.fsdecode(here.id.links.get_val(os.fsencode(part)))
            folder = "" if target.startswith("/") else "/".join(parts[:at])
            return _find(file, "/".join([folder, target, *parts[at + 1 :]]), links + 1)
        if link == h5l.TYPE_EXTERNAL:
            other = os.fsdecode(here.id.links.get_val(os.fsencode(part))[0])
            raise Refused(f"'{name}' is a link to another file, {other}, which is not followed; copy it into this one")
        if link != h5l.TYPE_HARD:
            raise Refused(f"it has no dataset '{name}'; it has: {', '.join(file)}")
        here = here[part]
    if not isinstance(here, h5py.Dataset):
        raise Refused(f"it has no dataset '{name}'; it has: {', '.join(file)}")
    if here.is_virtual or here.external:
        raise Refused(f"dataset '{name}' keeps its values in other files, which are not read; copy them into this one")
    return here


def _send_values(out: Any, name: str, dataset: h5py.Dataset) -> None:
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > _UNSTORED + _MOST_COMPRESSED * stored:
        raise Refused(
            f"dataset '{name}' of shape {dataset.shape} would be {dataset.nbytes} bytes, of which {stored} are stored; "
            "the rest would be made up"
        )
    _send(out, {"name": name, **_described(dataset)})
    if dataset.dtype.kind == "O" and dataset.shape == ():  # a string of any length
        text = dataset[()]
        values = np.frombuffer(text if isinstance(text, bytes) else str(text).encode(), np.uint8)
        _send(out, {"string": True}, values.tobytes())
        return
    if dataset.dtype.kind not in "fiuSb":
        return
    if not dataset.size:
        return
    if (at := _place(dataset)) is not None:
        _send(out, {"at": at})
        return
    if not dataset.shape:
        _send(out, {}, np.ascontiguousarray(dataset[()]).tobytes())
        return
    for start in range(0, len(dataset), rows := _rows_a_piece(dataset)):
        _send(out, {}, np.ascontiguousarray(dataset[start : start + rows]).reshape(-1).view(np.uint8).data)


def _place(dataset: h5py.Dataset) -> int | None:
    """The byte of the file from which on the values are as NumPy has them, if they are."""
    plain = dataset.id.get_create_plist().get_layout() == h5d.CONTIGUOUS
    alike = dataset.id.get_type() == h5t.py_create(dataset.dtype)
    return dataset.id.get_offset() if plain and alike and dataset.id.get_storage_size() == dataset.nbytes else None


def _rows_a_piece(dataset: h5py.Dataset) -> int:
    """Rows to read at once: whole chunks, where these are not too large."""
    row = max(dataset.nbytes // len(dataset), 1)
    rows = max(_PIECE // row, 1)
    chunk = dataset.chunks[0] if dataset.chunks else 1
    return -(-rows // chunk) * chunk if chunk * row <= 4 * _PIECE else rows


if __name__ == "__main__":
    sys.path[:] = json.loads(sys.argv[1])
    main()
