"""Models as Caffe's model zoo has them: a folder with a readme.md that says where the weights are, and their SHA-1."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from minicaffe.data.fetch import download
from minicaffe.errors import DataError


class Entry(NamedTuple):
    """The weights of a model: where they go, where they come from, and their SHA-1 in hexadecimal."""

    path: Path
    url: str
    sha1: str


_KEYS = ("caffemodel", "caffemodel_url", "sha1")


def read_entry(folder: str | os.PathLike[str]) -> Entry:
    """What the front matter of a model's readme.md says: ``key: value`` lines between two lines of dashes.

    Raises DataError: no such folder or file, no front matter, or a key missing.
    """
    place = Path(folder)
    readme = next((place / name for name in ("readme.md", "README.md") if (place / name).is_file()), None)
    if readme is None:
        raise DataError(
            f"Must be valid Caffe model directory with a correct readme.md; there is none in {place.absolute()}"
        )
    lines = readme.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in [line.strip() for line in lines[1:]]:
        raise DataError(f"{readme}: no front matter; it begins with a line ---, {', '.join(_KEYS)}, and a line ---")
    end = [line.strip() for line in lines].index("---", 1)
    parts = [line.partition(":") for line in lines[1:end]]
    values = {key.strip(): value.strip().strip("'\"") for key, colon, value in parts if colon}
    missing = [key for key in _KEYS if not values.get(key)]
    if missing:
        raise DataError(f"{readme}: its front matter lacks {', '.join(missing)}")
    if os.path.basename(values["caffemodel"]) != values["caffemodel"]:
        raise DataError(f"{readme}: caffemodel must be a file's name; found '{values['caffemodel']}'")
    return Entry(place / values["caffemodel"], values["caffemodel_url"], values["sha1"].lower())


def fetch(entry: Entry) -> bool:
    """Bring the weights; false if they are there already, and right.

    Raises DataError: the download failed, or has another SHA-1; a wrong file is not kept.
    """
    if entry.path.is_file() and _sha1(entry.path) == entry.sha1:
        return False
    download([entry.url], entry.path, lambda path: _check(path, entry))
    return True


def _check(path: Path, entry: Entry) -> None:
    found = _sha1(path)
    if found != entry.sha1:
        raise DataError(
            f"the model did not download correctly: its SHA-1 is {found}, expected {entry.sha1}; run this again"
        )


def _sha1(path: Path) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
