"""Prototxt, the text form of Caffe's messages: reading with errors that name file, line, field and remedy; writing."""

from __future__ import annotations

import codecs
import difflib
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
from google.protobuf import text_encoding, text_format
from google.protobuf.message import Message

from minicaffe import arguments, proto
from minicaffe.errors import PrototxtError
from minicaffe.proto import forks, kinds, lacking
from minicaffe.proto.atomic import write_atomic
from minicaffe.proto.locations import scan

M = TypeVar("M", bound=Message)

LARGEST = 8 << 20
"""Bytes of a prototxt that is read: parsing it may take 150 times as many."""

_SHOWN = 120  # characters of a line, around the place of an error


def parse(text: str, message: M, source: str = "<string>") -> M:
    """Merge the fields written in ``text`` into ``message`` and return it; ``source`` names the text in errors.

    Raises:
        PrototxtError: says ``source:line:column``, the field or value at fault and the nearest known name, and shows
            the line with a caret.
    """
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        readable = _with_readable_strings(text) if "codec can't decode" in str(error) else text
        readable = _with_sizes_of_axes(readable)
        if readable != text:
            message.Clear()
            return parse(readable, message, source)
        raise PrototxtError(_explain(error, text, message.DESCRIPTOR, source)) from None


def _with_readable_strings(text: str) -> str:
    """``text`` with strings whose escapes (``\\262``, as Caffe prints names in other encodings) give no UTF-8 written
    as ``_decoded`` would read their bytes.
    """

    def rewritten(match: re.Match[str]) -> str:
        literal = match.group()
        if literal.startswith("#") or "\\" not in literal:
            return literal
        characters = text_encoding.CUnescape(literal[1:-1]).decode(errors="backslashreplace")
        return f'"{text_encoding.CEscape(cast(Any, characters), as_utf8=True)}"'

    return _COMMENT_OR_STRING_TEXT.sub(rewritten, text)


def _with_sizes_of_axes(text: str) -> str:
    """``text`` with the sizes that a ``pooling_param`` gives more than once, one an axis, under names of their own."""

    def rewritten(match: re.Match[str]) -> str:
        options = match.group()
        for name in ("kernel_size", "stride", "pad"):
            if len(re.findall(rf"\b{name}\s*:", options)) > 1 or re.search(rf"\b{name}\s*:\s*\[", options):
                options = re.sub(rf"\b{name}(?=\s*:)", f"{name}s", options)
        return options

    return _POOLING.sub(rewritten, text)


def read_text(path: str | os.PathLike[str], message_class: type[M]) -> M:
    """The message written in the prototxt ``path``; raises PrototxtError if it cannot be read or does not parse."""
    return parse(load(path), message_class(), arguments.path(path, "a prototxt"))


def format(message: Message) -> str:
    """``message`` as Caffe prints it: one field a line, floats as short as they read back unchanged."""
    text = _FLOAT_LINE.sub(_shorten, text_format.MessageToString(message))
    return _SIZE_OF_AXIS.sub(r"\1:", text)


def write_text(path: str | os.PathLike[str], message: Message) -> None:
    """Write ``message`` as prototxt; raises SnapshotError if the file cannot be written."""
    write_atomic(path, format(message).encode())


def load(path: str | os.PathLike[str]) -> str:
    """The characters of a prototxt; raises PrototxtError if the file is missing or binary, or not UTF-8 outside of
    its comments and strings."""
    name = arguments.path(path, "a prototxt", PrototxtError)
    try:
        with open(name, "rb") as file:
            data = file.read(LARGEST + 1)
    except ValueError as error:  # a null byte
        raise PrototxtError(f"cannot read {name!r}: {error}") from None
    except FileNotFoundError:
        raise PrototxtError(
            f"File not found: {name} (tried {os.path.abspath(name)}; the working directory is {os.getcwd()})"
        ) from None
    except IsADirectoryError:
        raise PrototxtError(f"{name} is a directory; a prototxt file is expected") from None
    except OSError as error:
        raise PrototxtError(f"cannot read {name}: {error.strerror}") from None
    if len(data) > LARGEST:
        raise PrototxtError(
            f"{name} has more than {LARGEST} bytes, which is more than is read as a prototxt; "
            "keep weights in a binary file (.caffemodel)"
        )
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise PrototxtError(f"{name} is encoded in UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    kind = kinds.describe(data) if data else None
    if kind:
        raise PrototxtError(f"{name} is {kind}; a prototxt file (text) is expected")
    if b"\0" in data:
        raise PrototxtError(
            f"{name} is a binary file, such as a .caffemodel, .solverstate or mean; a prototxt file (text) is expected"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return "".join(_decoded(data, name))


_COMMENT_OR_STRING = re.compile(rb"""#[^\n]*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'""")
_COMMENT_OR_STRING_TEXT = re.compile(_COMMENT_OR_STRING.pattern.decode())
"""In Chinese encodings the second byte of a character may be a backslash, but none of these that end a match."""


def _decoded(data: bytes, name: str) -> Iterator[str]:
    """The characters of a text with bytes that are not UTF-8: any in comments, and in strings each as ``\xff``, as in
    names of binary files.  Raises PrototxtError for others.
    """
    data, end = data.removeprefix(codecs.BOM_UTF8), 0
    for match in _COMMENT_OR_STRING.finditer(data):
        yield _plain(data, end, match.start(), name)
        comment = match.group().startswith(b"#")
        yield match.group().decode(errors="replace" if comment else _ESCAPED)
        end = match.end()
    yield _plain(data, end, len(data), name)


def _plain(data: bytes, start: int, end: int, name: str) -> str:
    try:
        return data[start:end].decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, start + error.start) + 1
        raise PrototxtError(
            f"{name}:{line}: the file is not encoded in UTF-8 (byte 0x{data[start + error.start]:02x} outside comments "
            "and strings); convert it, for example with iconv -f LATIN1 -t UTF-8"
        ) from None


_ESCAPED = "minicaffe.escaped"


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Bytes that are not UTF-8 as ``\xff``, the backslash doubled as in a string of a prototxt."""
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"\\\\x{byte:02x}" for byte in error.object[error.start : error.end]), error.end


codecs.register_error(_ESCAPED, _escape)


_FLOAT_LINE = re.compile(r"(?m)^( *(?!double_)\w+: )(-?\d+(?:\.\d+(?:e[+-]\d+)?|e[+-]\d+))$")


def _shorten(match: re.Match[str]) -> str:
    name, number = match.groups()
    short = f"{float(number):.6g}"
    return name + (short if np.float32(short) == np.float32(number) else number)


_NO_FIELD = re.compile(r'Message type "caffe\.([\w.]+)" has no field named "([^"]*)"')
_NO_VALUE = re.compile(r'Enum type "caffe\.([\w.]+)" has no value (?:named|with number) (.*)')
_TWICE = re.compile(r'Message type "caffe\.([\w.]+)" should not have multiple "([^"]*)" fields')
_POOLING = re.compile(r"\bpooling_param\s*:?\s*\{(?:#[^\n]*|[^{}#])*\}")
_SIZE_OF_AXIS = re.compile(r"^( *(?:kernel_size|stride|pad))s:", re.MULTILINE)
_FIELD_BEFORE = re.compile(r"(\w+)\s*:\s*\[?[^:]*$")


def _explain(error: text_format.ParseError, text: str, root: Any, source: str) -> str:
    """The parse error in words a user can act on, then the line and a caret; ``root`` describes the message parsed."""
    lines = text.split("\n")
    row = min(error.GetLine() or 1, len(lines))
    line = lines[row - 1].rstrip("\r")
    column = min(error.GetColumn() or 1, len(line) + 1)
    plain = re.sub(r"^\d+:\d+ : ", "", str(error)).removeprefix(f"'{line}': ").rstrip(".")
    more = ""

    if match := _NO_FIELD.match(plain):
        problem, misplaced = _unknown_field(root, *match.groups())
        more = "" if misplaced else lacking.others(text, root, ".".join(match.groups()))
    elif match := _NO_VALUE.match(plain):
        problem = _unknown_value(root, *match.groups())
    elif match := _TWICE.match(plain):
        problem = f"{match[1]}.{match[2]} is given a second time; it takes one value"
    elif plain in ('Expected "}"', 'Expected ">"') and (unclosed := scan(text)[1]):
        problem = (
            f'the text ends inside "{unclosed[-1].name} {{", opened at line {unclosed[-1].line}; a "}}" is missing'
        )
    else:
        before = _FIELD_BEFORE.search(line[max(column - 1 - 8 * _SHOWN, 0) : column - 1])
        problem = (f'in field "{before[1]}": ' if before else "") + plain
    first = max(column - 1 - _SHOWN, 0)
    caret = re.sub(r"[^\t]", " ", line[first : column - 1]) + "^"
    return f"{source}:{row}:{column}: {_short(problem)}{more}\n    {line[first : first + 2 * _SHOWN]}\n    {caret}"


def _short(problem: str) -> str:
    """``problem`` without the middle of what it quotes, where that is long."""
    return problem if len(problem) <= 8 * _SHOWN else f"{problem[: 4 * _SHOWN]} ... {problem[-_SHOWN:]}"


def _unknown_field(root: Any, message: str, name: str) -> tuple[str, bool]:
    """Says that ``message`` has no field ``name``, and which message it is probably meant for; and whether the text is
    cut or another kind of file, so that most of what follows must be out of place too.
    """
    messages = proto.messages
    here = messages[message]
    problem = f'{message} has no field "{name}"'
    if fork := forks.origin(name):
        return f"{problem}; it is of a fork of Caffe{fork}", False
    if here == root:
        other, file = _OTHER_FILE.get(message, ("", ""))
        if other and name in messages[other].fields_by_name:
            return f"{problem}, but {other} does: is this {file}?", True
    else:
        for around in messages.values():
            block = around.fields_by_name.get(name)
            if block and block.message_type and any(field.message_type == here for field in around.fields):
                return f'{problem}, but {around.name} does: is a "}}" missing above?', True
    inside = [f for f in here.fields if f.message_type and name in f.message_type.fields_by_name]
    if inside:
        caffes = [
            f.name
            for f in inside
            if f.number < forks.FIRST and cast(Any, f.message_type).fields_by_name[name].number < forks.FIRST
        ]
        return f"{problem}; it belongs inside {' or '.join(caffes or [f.name for f in inside])}", False
    return problem + _did_you_mean(name, here.fields_by_name), False


_OTHER_FILE = {
    "NetParameter": ("SolverParameter", "a solver file, given where a net is expected"),
    "SolverParameter": ("NetParameter", "a net file, given where a solver is expected"),
}


def _unknown_value(root: Any, enum: str, value: str) -> str:
    owner, _, name = enum.rpartition(".")
    if owner:
        descriptor = proto.messages[owner].enum_types_by_name[name]
    else:
        descriptor = getattr(proto, name).DESCRIPTOR
    legal = descriptor.values_by_name
    return f"{enum} has no value {value} (legal: {', '.join(legal)})" + _did_you_mean(value.strip('"'), legal)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean "nearest"?``, letter case aside, or nothing if no known name is near."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f'; did you mean "{by_lower[near[0]]}"?' if near else ""
