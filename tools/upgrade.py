"""``minicaffe upgrade_net_proto_text``, ``…_binary`` and ``upgrade_solver_proto_text``: old files in today's format."""

from __future__ import annotations

import logging
from typing import Any

import click

from minicaffe.tools.command import Command
from minicaffe.tools.completion import Path

_log = logging.getLogger(__name__)

_old = click.argument("old", metavar="IN", type=Path())
_new = click.argument("new", metavar="OUT", type=Path())


@click.command(
    cls=Command,
    examples=["minicaffe upgrade_net_proto_text siamese/legacy/mnist_siamese_v1.prototxt mnist_siamese.prototxt"],
)
@_old
@_new
def net_text(old: str, new: str) -> int:
    """Bring an old net to today's format.

    IN may be of any age: layers in the form of 2013 (V0) or 2014 (V1), transform fields in data params, input fields.
    OUT is written even where some of it could not be carried over; the exit status is 1 then, and the log says why.
    """
    from minicaffe import models, proto
    from minicaffe.proto import text

    net = text.read_text(models.find(old), proto.NetParameter)
    status, net = _upgraded_net(net, old)
    text.write_text(new, net)
    _log.info("Wrote upgraded NetParameter text proto to %s", new)
    return status


@click.command(cls=Command, examples=["minicaffe upgrade_net_proto_binary old.caffemodel new.caffemodel"])
@_old
@_new
def net_binary(old: str, new: str) -> int:
    """Bring an old .caffemodel to today's format.

    Its weights are kept as they are.  Otherwise as upgrade_net_proto_text.
    """
    from minicaffe import proto
    from minicaffe.proto.files import read_binary, write_binary

    status, net = _upgraded_net(read_binary(old, proto.NetParameter), old)
    write_binary(new, net)
    _log.info("Wrote upgraded NetParameter binary proto to %s", new)
    return status


@click.command(cls=Command, examples=["minicaffe upgrade_solver_proto_text old_solver.prototxt solver.prototxt"])
@_old
@_new
def solver_text(old: str, new: str) -> None:
    """Bring an old solver to today's format.

    The old field solver_type (ADAM) becomes type ("Adam").
    """
    from minicaffe import models, proto
    from minicaffe.proto import text, upgrade

    solver = text.read_text(models.find(old), proto.SolverParameter)
    if not upgrade.solver_needs_upgrade(solver):
        _log.error("File already in latest proto format: %s", old)
    text.write_text(new, upgrade.upgrade_solver(solver, old))
    _log.info("Wrote upgraded SolverParameter text proto to %s", new)


def _upgraded_net(net: Any, source: str) -> tuple[int, Any]:
    """The exit status, and the net in today's format."""
    from minicaffe.proto import upgrade

    if not upgrade.net_needs_upgrade(net):
        _log.error("File already in latest proto format: %s", source)
    upgraded, problems = upgrade.upgrade_net(net, source)
    if problems:
        _log.error("Encountered error(s) while upgrading prototxt; see details above.")
    return int(bool(problems)), upgraded
