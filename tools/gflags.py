"""Flags in the forms that Caffe's tools have from gflags: ``-solver x``, ``-q=false``, ``-noq``, files of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

_HELP = ("h", "helpshort", "helpfull")
_TRUE, _FALSE = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")


def with_flag_files(args: Sequence[str], opened: tuple[str, ...] = ()) -> list[str]:
    """``args`` with each ``-flagfile FILE`` replaced by the flags in that file, which may name others.

    A file has a flag on each line; empty lines and lines that begin with # are comments.  Raises click.BadParameter for
    a file that cannot be read, that holds something else, or that includes itself.
    """
    result: list[str] = []
    rest = iter(args)
    for arg in rest:
        name, equals, value = arg.lstrip("-").partition("=")
        if arg == "--":
            return [*result, arg, *rest]
        if not arg.startswith("-") or name != "flagfile":
            result.append(arg)
            continue
        paths = value if equals else next(rest, "")
        for path in filter(None, paths.split(",")):
            result += with_flag_files(_read(path, opened), (*opened, path))
        if not paths:
            raise click.UsageError("Option '--flagfile' requires an argument.")
    return result


def _read(path: str, opened: tuple[str, ...]) -> list[str]:
    if path in opened:
        raise click.BadParameter(f"{path} includes itself ({' -> '.join((*opened, path))})", param_hint="'--flagfile'")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
        raise click.BadParameter(f"{path} cannot be read: {reason}", param_hint="'--flagfile'") from None
    flags = []
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if not line.startswith("-"):
            raise click.BadParameter(
                f"{path}:{number}: expected a flag such as -gpu=0; found '{line}'", param_hint="'--flagfile'"
            )
        flags.append(line)
    return flags


def click_style(args: Sequence[str], params: Iterable[click.Parameter]) -> list[str]:
    """``args`` with the options of ``params`` in click's form; a value that follows its option is left as it is.

    Raises click.BadParameter for a boolean that is neither true nor false.
    """
    options = {
        opt.lstrip("-"): p for p in params if isinstance(p, click.Option) for opt in (*p.opts, *p.secondary_opts)
    }
    result: list[str] = []
    rest = iter(args)
    for arg in rest:
        if arg == "--":
            return [*result, arg, *rest]
        if not arg.startswith("-") or arg == "-":
            result.append(arg)
            continue
        name, equals, value = arg.lstrip("-").partition("=")
        name = "help" if name in _HELP else name.replace("-", "_")
        option = options.get(name)
        negated = options.get(name.removeprefix("no")) if option is None and name.startswith("no") else None
        if option is not None and option.is_flag and equals:
            result = [*_without(option, result), *_boolean(option, value)]
        elif negated is not None and negated.is_flag and not equals:
            result = [*_without(negated, result), *_boolean(negated, "false")]
        else:
            result.append(f"--{name}{equals}{value}")
            if option is not None and not option.is_flag and not equals:
                result += [following for following in [next(rest, None)] if following is not None]
    return result


def _without(option: click.Option, args: list[str]) -> list[str]:
    """``args`` without what was said of a flag before: the last word counts."""
    return [arg for arg in args if arg not in option.opts]


def _boolean(option: click.Option, value: str) -> list[str]:
    if value.lower() in _TRUE:
        return option.opts[:1]
    if value.lower() in _FALSE:
        return option.secondary_opts[:1]
    raise click.BadParameter(f"'{value}' is neither true nor false", param=option)
