"""``minicaffe completion``: what makes the Tab key know commands, flags, files and shipped models."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click
from click import shell_completion as shells
from click.shell_completion import CompletionItem

from minicaffe.tools.command import Command

_BASH = """\
%(complete_func)s() {
    local IFS=$'\\n' kind value
    local line
    COMPREPLY=()
    for line in $(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1"); do
        kind=${line%%%%,*}
        value=${line#*,}
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            part) compopt -o nospace; COMPREPLY+=("$(printf %%q "$value")") ;;
            *) COMPREPLY+=("$(printf %%q "$value")") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _CaffesFlags(shells.ShellComplete):
    """Completes flags that begin with one dash, too, and values behind ``=``."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        flag, equals, _ = incomplete.partition("=")
        single = "-" if incomplete.startswith("-") and not incomplete.startswith("--") else ""
        found = super().get_completions(_in_two_dashes(args), single + incomplete)
        for item in found:
            item.value = flag + equals + item.value if flag and equals else item.value.removeprefix(single)
        return found


def _in_two_dashes(args: list[str]) -> list[str]:
    """Finished words with ``-flag`` as ``--flag``, and without the ``=`` that bash takes for a word."""
    words = [arg for arg in args if arg != "="]
    return [f"-{arg}" if arg.startswith("-") and not arg.startswith("--") and len(arg) > 1 else arg for arg in words]


class _Bash(_CaffesFlags, shells.BashComplete):
    source_template = _BASH


class _Zsh(_CaffesFlags, shells.ZshComplete):
    def format_completion(self, item: CompletionItem) -> str:
        return super().format_completion(_whole(item))


class _Fish(_CaffesFlags, shells.FishComplete):
    def format_completion(self, item: CompletionItem) -> str:
        return super().format_completion(_whole(item))


def _whole(item: CompletionItem) -> CompletionItem:
    """``item`` without the type that only the script for bash knows."""
    return CompletionItem(item.value, type="plain", help=item.help) if item.type == "part" else item


_SHELLS = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}

VARIABLE = "_MINICAFFE_COMPLETE"
"""What the shell sets in the environment of a process that is to answer it."""


def register() -> None:
    """Let click answer shells as this module does."""
    for name, kind in _SHELLS.items():
        shells.add_completion_class(kind, name)


@click.command(cls=Command, examples=["minicaffe completion bash", "minicaffe completion zsh"])
@click.argument("shell", type=click.Choice(sorted(_SHELLS)))
def command(shell: str) -> None:
    """Print what switches on completion by Tab in a shell.

    For good: put eval "$(minicaffe completion bash)" into ~/.bashrc, the same with zsh into ~/.zshrc, or for fish run
    minicaffe completion fish > ~/.config/fish/completions/minicaffe.fish
    """
    click.echo(_SHELLS[shell](command, {}, "minicaffe", VARIABLE).source())


class Path(click.ParamType):
    """A file's or folder's name, which the shell completes."""

    name = "path"

    def __init__(self, kind: str = "file") -> None:
        self.kind = kind

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type=self.kind)]


class Definition(Path):
    """The name of a prototxt: of a file, or a shipped model's file."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        names = {*_files_like(incomplete), *_shipped_like(incomplete)}
        return [CompletionItem(name, type="part" if name.endswith("/") else "plain") for name in sorted(names)]


def _files_like(start: str) -> Iterator[str]:
    """Folders, with a slash, and files that begin so."""
    folder, _, begin = start.rpartition("/")
    place = folder + "/" if "/" in start else ""
    try:
        entries = list(os.scandir(place or "."))
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(begin) and (begin or not entry.name.startswith(".")):
            yield place + entry.name + ("/" if entry.is_dir() else "")


def _shipped_like(start: str) -> Iterator[str]:
    """Shipped models, with a slash, and behind that one's prototxts, that begin so."""
    from minicaffe import models

    model, slash, _ = start.partition("/")
    if not slash:
        yield from (f"{name}/" for name in models.names() if name.startswith(start))
    elif model in models.names():
        for folder, _, files in os.walk(models.folder(model)):
            place = os.path.join(model, os.path.relpath(folder, models.folder(model)))
            for file in files:
                name = os.path.normpath(os.path.join(place, file))
                if name.startswith(start) and name.endswith(".prototxt"):
                    yield name
