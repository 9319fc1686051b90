"""``minicaffe models``: the models that come with minicaffe."""

from __future__ import annotations

import os
import shutil

import click

from minicaffe import models
from minicaffe.tools.command import Group


@click.group(cls=Group)
def command() -> None:
    """List or copy the models that come with minicaffe.

    Their files are found by name without being copied: minicaffe train --solver siamese/digits_solver.prototxt
    """


@command.command("list")
def list_models() -> None:
    """List the models and their files."""
    for name in models.names():
        click.echo(f"{name}: {_title(name)}")
        for file in _files(name):
            click.echo(f"  {file}")


@command.command("copy")
@click.argument("name")
@click.argument("folder", required=False)
def copy(name: str, folder: str | None) -> None:
    """Copy a model's files to FOLDER (default: one of the model's name), to change them."""
    if name not in models.names():
        raise click.UsageError(f"no model '{name}'; there are: {', '.join(models.names())}")
    target = name if folder is None else folder
    files = [os.path.relpath(file, name) for file in _files(name)]
    existing = [path for file in files if os.path.lexists(path := os.path.join(target, file))]
    if existing:
        raise click.ClickException(f"{', '.join(existing)}: exists already; nothing was copied: name another folder")
    for file in files:
        destination = os.path.join(target, file)
        os.makedirs(os.path.dirname(destination), exist_ok=True)
        shutil.copyfile(os.path.join(models.folder(name), file), destination)
        click.echo(destination)


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
