"""``minicaffe models``: the models that come with minicaffe."""

from __future__ import annotations

import filecmp
import os
import shutil

import click

from minicaffe import models
from minicaffe.proto.atomic import atomic_path, new_folder, put_folder
from minicaffe.tools.command import Group


@click.group(cls=Group, examples=["minicaffe models list", "minicaffe models copy lenet"])
def command() -> None:
    """List or copy the models that come with minicaffe.

    Their files are found by name without being copied: minicaffe train --solver siamese/digits_solver.prototxt
    """


@command.command("list", examples=["minicaffe models list"])
def list_models() -> None:
    """List the models and their files."""
    for name in models.names():
        click.echo(f"{name}: {_title(name)}")
        for file in _files(name):
            click.echo(f"  {file}")


@command.command("copy", examples=["minicaffe models copy siamese my_siamese"])
@click.argument("name")
@click.argument("folder", required=False)
def copy(name: str, folder: str | None) -> None:
    """Copy a model's files to FOLDER (default: one of the model's name), to change them.

    Nothing is copied if FOLDER holds a file of one of their names that is not the same.
    """
    if name not in models.names():
        raise click.UsageError(f"no model '{name}'; there are: {', '.join(models.names())}")
    target = name if folder is None else folder
    files = [os.path.relpath(file, name) for file in _files(name)]
    source = models.folder(name)
    existing = [os.path.join(target, file) for file in files if os.path.lexists(os.path.join(target, file))]
    changed = [path for path in existing if not _same(path, os.path.join(source, os.path.relpath(path, target)))]
    if changed:
        raise click.ClickException(f"{', '.join(changed)}: exists already; nothing was copied: name another folder")
    if os.path.isdir(target):
        for file in files:  # an interrupted copy is completed by the next: what is there is the same
            os.makedirs(os.path.dirname(os.path.join(target, file)), exist_ok=True)
            with atomic_path(os.path.join(target, file)) as new:
                shutil.copyfile(os.path.join(source, file), new)
    else:
        staged = new_folder(target)
        try:
            for file in files:
                os.makedirs(os.path.dirname(os.path.join(staged, file)), exist_ok=True)
                shutil.copyfile(os.path.join(source, file), os.path.join(staged, file))
            put_folder(staged, target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
    for file in files:
        click.echo(os.path.join(target, file))


def _same(path: str, other: str) -> bool:
    return os.path.isfile(path) and filecmp.cmp(path, other, shallow=False)


def _title(name: str) -> str:
    """The heading of a model's README."""
    with open(os.path.join(models.folder(name), "README.md"), encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()


def _files(name: str) -> list[str]:
    """A model's files, as ``models.find`` takes them."""
    root = models.folder(name)
    return sorted(
        os.path.join(name, os.path.relpath(os.path.join(folder, file), root))
        for folder, _, files in os.walk(root)
        for file in files
    )
