"""Where a definition comes from: for messages, and to find the files it names."""

from __future__ import annotations

import os

from minicaffe.errors import PrototxtError
from minicaffe.proto.locations import Locations


def in_utf8(path: str) -> str:
    """``path`` as a message can hold it: as it is, or relative to the working folder where that one's name is not
    UTF-8.

    Raises PrototxtError if neither is UTF-8.
    """
    for form in (path, os.path.relpath(path)):
        try:
            form.encode()
        except UnicodeEncodeError:
            continue
        return form
    raise PrototxtError(f"the path {os.fsencode(path)!r} is not encoded in UTF-8; rename it, or work in its folder")


class Origin:
    """The file that a net or solver was read from, if it was read from one."""

    def __init__(self, path: str | None = None, locations: Locations | None = None) -> None:
        self.path = path
        self._locations = locations

    def where(self, layer: str, phase: int | None = None, field: str | None = None) -> str:
        """``file:line`` of a layer, or of one of its fields; the file if the line is not known, "" without a file."""
        if self._locations is None:
            return self.path or ""
        return self._locations.of(layer, phase, field)

    def resolve(self, path: str) -> str:
        """``path`` as seen from the working folder, or else from the folder of the definition, if it exists there."""
        if self.path is not None and not os.path.exists(path):
            beside = os.path.join(os.path.dirname(self.path), path)
            if os.path.exists(beside):
                return beside
        return path
