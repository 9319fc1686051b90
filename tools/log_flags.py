"""The flags by which glog's users steer what is logged, on every command; help shows only ours."""

from __future__ import annotations

from typing import Any

import click

_WITHOUT_EFFECT: dict[str, dict[str, Any]] = {
    **{name: {"type": int} for name in ("stderrthreshold", "logbuflevel", "logbufsecs", "max_log_size")},
    "vmodule": {},
    **{name: {"is_flag": True} for name in ("colorlogtostderr", "log_prefix")},
}
"""Flags that are read so that old scripts run, and what they take."""


def options() -> list[click.Option]:
    """The flags of every command; ``wishes`` takes their values out of what the command was called with."""

    def hidden(name: str, **kwargs: Any) -> click.Option:
        return click.Option([f"--{name}"], hidden=True, envvar=f"GLOG_{name}", **kwargs)

    return [
        click.Option(["--quiet"], is_flag=True, help="Log only warnings and errors; results are shown all the same."),
        click.Option(["--verbose"], is_flag=True, help="Show everything that is logged."),
        click.Option(["--traceback"], is_flag=True, expose_value=False, help="Show Python's traceback with an error."),
        hidden("minloglevel", type=click.IntRange(0, 3), default=0, help="Log from this level on: 1 for warnings."),
        hidden("v", type=int, default=0, help="From 1 on, log details."),
        hidden("log_dir", metavar="DIR", help="Write the log into a file in this folder, too."),
        hidden("logtostderr", is_flag=True, help="Log Caffe's lines, on a terminal too."),
        hidden("alsologtostderr", is_flag=True, help="Log Caffe's lines, on a terminal too."),
        *(hidden(name, expose_value=False, help="Has no effect.", **kind) for name, kind in _WITHOUT_EFFECT.items()),
    ]  # fmt: skip


def wishes(values: dict[str, Any]) -> dict[str, Any]:
    """What the flags ask of ``console.messages``; their values are taken out of ``values``."""
    given = {name: values.pop(name) for name in ("quiet", "verbose", "minloglevel", "v", "log_dir")}
    plain = [values.pop(name) for name in ("logtostderr", "alsologtostderr")]
    return {
        "severity": max(given["minloglevel"], int(given["quiet"])),
        "verbose": given["verbose"] or given["v"] > 0,
        "folder": given["log_dir"],
        "plain": any(plain),
    }
