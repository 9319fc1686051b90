"""The models that come with minicaffe: one folder each, with its nets, solvers and a README."""

from __future__ import annotations

import os
from importlib import resources

from minicaffe import arguments
from minicaffe.errors import MinicaffeError

_ROOT = os.fspath(resources.files(__name__))  # type: ignore[call-overload]


def find(path: str | os.PathLike[str]) -> str:
    """``path`` if it exists, else the shipped file of that name ("siamese/digits_solver.prototxt"), else ``path``.

    MinicaffeError for no name at all, and where only the model's name is right.
    """
    name = arguments.path(path, "a net or solver")
    if not name:
        raise MinicaffeError("the name of a file was expected; found an empty one")
    shipped = os.path.join(_ROOT, name)
    if os.path.exists(name) or os.path.isfile(shipped):
        return name if os.path.exists(name) else shipped
    model = name.replace(os.sep, "/").split("/")[0]
    if model in names() and not os.path.exists(model):
        files = sorted(file for file in os.listdir(folder(model)) if file.endswith(".prototxt"))
        raise MinicaffeError(
            f"no file {name}; the model '{model}' has: {', '.join(f'{model}/{file}' for file in files)}"
        )
    return name


def names() -> list[str]:
    """The shipped models, sorted."""
    return sorted(entry for entry in os.listdir(_ROOT) if os.path.isfile(os.path.join(folder(entry), "README.md")))


def folder(name: str) -> str:
    """The folder of a shipped model."""
    return os.path.join(_ROOT, name)
